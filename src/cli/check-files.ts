/**
 * Accounts and folders that the settings name: the spool's mark, its root, its account; the folders of queue and state.
 */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Settings } from '../settings/schema.ts';
import { findAccount } from '../storage/account.ts';
import type { Checked } from './checked.ts';

export async function checkSpool({ spool }: Settings): Promise<Checked[]> {
  if (spool === null) {
    const why = 'not set: while a node is down, mail for it waits in the queue or at the sender';
    return [{ check: 'spool', result: 'warning', why }];
  }
  const mark = `spool mark ${spool.mark}`;
  const root = spool.path.split('{')[0] ?? '/';
  const folder = root.endsWith('/') ? root.slice(0, -1) || '/' : dirname(root);
  const account = await findAccount(spool.user);
  const [markSeen, rootSeen] = await Promise.all([look(spool.mark), look(folder)]);
  const where = `spool ${folder}`;
  return [
    markSeen.ok
      ? { check: mark, result: 'ok', why: 'present' }
      : {
          check: mark,
          result: 'failed',
          why: `${markSeen.why}: is the file system mounted? If it is, and this is the right one: touch ${spool.mark}`,
        },
    rootSeen.ok && markSeen.ok && rootSeen.device !== markSeen.device
      ? { check: where, result: 'failed', why: 'is not on the file system of its mark' }
      : { check: where, result: rootSeen.ok ? 'ok' : 'failed', why: rootSeen.ok ? 'present' : rootSeen.why },
    account === null
      ? { check: `account ${spool.user}`, result: 'failed', why: 'there is no such account (spool.user)' }
      : account.uid === 0
        ? {
            check: `account ${spool.user}`,
            result: 'failed',
            why: 'is root: mail must belong to an account of its own (spool.user)',
          }
        : { check: `account ${spool.user}`, result: 'ok', why: `uid ${account.uid}, gid ${account.gid}` },
  ];
}

export async function checkFolders({ queue, state, runAs }: Settings): Promise<Checked[]> {
  const rows = [
    await folderRow(`queue ${queue.path}`, queue.path),
    await folderRow(`state ${state.path}`, state.path),
  ];
  if (runAs !== null) {
    const account = await findAccount(runAs);
    const check = `account ${runAs}`;
    if (account === null) rows.push({ check, result: 'failed', why: 'there is no such account (runAs)' });
    else if (account.uid === 0)
      rows.push({ check, result: 'failed', why: 'is root: the serving process never runs as root (runAs)' });
    else rows.push({ check, result: 'ok', why: `uid ${account.uid}, gid ${account.gid}` });
  }
  return rows;
}

/** There and ours to write, or to be made in the nearest folder above that is there. */
async function folderRow(check: string, path: string): Promise<Checked> {
  for (let at = path; ; at = dirname(at)) {
    const seen = await look(at);
    if (!seen.ok && seen.code === 'ENOENT' && at !== '/') continue;
    if (!seen.ok) return { check, result: 'failed', why: `${at}: ${seen.why}` };
    if (!seen.isFolder) return { check, result: 'failed', why: `${at} is not a folder` };
    const code = await access(at, constants.W_OK | constants.X_OK).then(
      () => '',
      (e: unknown) => codeOf(e),
    );
    if (code === 'EROFS')
      return { check, result: 'failed', why: `${at} is on a file system that is read-only` };
    // Homing may be started by another account than the one who checks.
    if (code !== '') return { check, result: 'warning', why: `${at} can't be written by this user` };
    return { check, result: 'ok', why: at === path ? 'present' : `will be made in ${at}` };
  }
}

type Look =
  | { readonly ok: true; readonly device: number; readonly isFolder: boolean }
  | { readonly ok: false; readonly code: string; readonly why: string };

/** A hung file system must not hang the check: after this it is told as hung. */
const lookTimeoutMs = 5000;

async function look(path: string): Promise<Look> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Look>(resolve => {
    timer = setTimeout(
      () =>
        resolve({
          ok: false,
          code: 'HUNG',
          why: `no answer from the file system within ${lookTimeoutMs / 1000} s`,
        }),
      lookTimeoutMs,
    );
  });
  const seen = stat(path).then(
    (s): Look => ({ ok: true, device: s.dev, isFolder: s.isDirectory() }),
    (e: unknown): Look => ({ ok: false, code: codeOf(e), why: words[codeOf(e)] ?? codeOf(e) }),
  );
  const first = await Promise.race([seen, late]);
  clearTimeout(timer);
  return first;
}

const words: Readonly<Record<string, string>> = {
  ENOENT: 'is not there',
  EACCES: 'may not be looked at by this user',
  ENOTDIR: 'is below something that is no folder',
};

const codeOf = (e: unknown): string => (e instanceof Error && 'code' in e ? String(e.code) : 'unknown error');
