/**
 * A user's Maildir, opened so that nothing can lead out of it: the folder and its tmp/ and new/ are held as descriptors, and every file
 * is reached through them (/proc/self/fd/N/name, Linux' openat). A link anywhere below the spool root shows, because the kernel's own
 * name of the open folder then differs from the one asked for; this holds for the descriptor, so no later swap of names matters.
 * Also finds out what direct delivery can't do: an active Sieve script, a store that is not Maildir. Must never write anything.
 */
import { constants } from 'node:fs';
import type { Failure } from '../core/failure.ts';
import type { FileCalls, FileStat } from './file-calls.ts';
import { errnoOf, fileFailure } from './file-failure.ts';
import { createJoinedSync, type JoinedSync } from './joined-sync.ts';

export const folderFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** The path of an open descriptor, for calls that take names below it. */
export function fdPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/** Who owns what is written into this Maildir, as Dovecot would make it: mode from the folder's, group only where it has group rights. */
export interface Ownership {
  readonly uid: number;
  readonly gid: number;
  readonly fileMode: number;
}

export interface MaildirFolder {
  readonly device: number;
  readonly ownership: Ownership;
  /** /proc paths of the Maildir itself, tmp/ and new/. */
  readonly path: string;
  readonly tmpPath: string;
  readonly newPath: string;
  readonly hasSizeFile: boolean;
  /** fsync of new/, shared by the deliveries into it. */
  readonly newSync: JoinedSync;
  close(): Promise<void>;
}

export type Opened =
  | { readonly ok: true; readonly folder: MaildirFolder }
  /** `absent`: the Maildir, or one of its folders, is not there; whether it may be made is the caller's to know. */
  | { readonly ok: false; readonly absent: boolean; readonly failure: Failure };

export interface FolderQuestion {
  readonly path: string;
  /** The same path with the spool root's links resolved: what the kernel must call the open folder. */
  readonly realPath: string;
  /** Absolute, or null: the Maildir's parent. */
  readonly home: string | null;
  /** Sieve scripts that are active when they exist as a file or link; relative to home, or absolute. */
  readonly sieve: readonly string[];
  readonly account: { readonly uid: number; readonly gid: number } | null;
}

/** What sdbox and mdbox keep where a Maildir keeps cur/, new/, tmp/; and the usual names of such stores beside a left-over Maildir. */
const otherStores: ReadonlySet<string> = new Set(['dbox-Mails', 'mailboxes', 'storage', 'dbox-alt-root']);
const otherStoresInHome: readonly string[] = ['mdbox', 'sdbox'];

export async function openMaildirFolder(calls: FileCalls, question: FolderQuestion): Promise<Opened> {
  let fd: number;
  try {
    fd = await calls.open(question.path, folderFlags);
  } catch (error) {
    return cannotOpen(error);
  }
  const path = fdPath(fd);
  const opened = await Promise.allSettled([
    calls.open(`${path}/tmp`, folderFlags),
    calls.open(`${path}/new`, folderFlags),
  ]);
  const fds = [fd, ...opened.flatMap(one => (one.status === 'fulfilled' ? [one.value] : []))];
  const close = async (): Promise<void> => {
    await Promise.allSettled(fds.map(one => calls.close(one)));
  };
  const refuse = async (failure: Failure, absent = false): Promise<Opened> => {
    await close();
    return { ok: false, absent, failure };
  };
  try {
    const [realPath, stat, names] = await Promise.all([
      calls.readlink(path),
      calls.fstat(fd),
      calls.readdir(path),
    ]);
    if (realPath !== question.realPath) return await refuse(notDirect('a link leads to the Maildir'));
    if (names.some(name => otherStores.has(name))) return await refuse(notDirect('the store is dbox'));
    const why = await whyNotAtHome(calls, path, question);
    if (why !== null) return await refuse(notDirect(why));
    const [tmp, fresh] = opened;
    if (tmp.status === 'rejected') return await refuse(subfolderFailure(tmp.reason), isAbsent(tmp.reason));
    if (fresh.status === 'rejected')
      return await refuse(subfolderFailure(fresh.reason), isAbsent(fresh.reason));
    const folder: MaildirFolder = {
      device: stat.dev,
      ownership: ownershipIn(stat, question.account),
      path,
      tmpPath: fdPath(tmp.value),
      newPath: fdPath(fresh.value),
      hasSizeFile: names.includes('maildirsize'),
      newSync: createJoinedSync(() => calls.fsync(fresh.value)),
      close,
    };
    return { ok: true, folder };
  } catch (error) {
    return refuse(fileFailure(error));
  }
}

export function notDirect(text: string): Failure {
  return { kind: 'not-direct-capable', text };
}

function isAbsent(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT';
}

function cannotOpen(error: unknown): Opened {
  const code = errnoOf(error);
  if (code === 'ENOENT') return { ok: false, absent: true, failure: notDirect('the user has no Maildir') };
  if (code === 'ENOTDIR' || code === 'ELOOP')
    return { ok: false, absent: false, failure: notDirect('the Maildir is a link or no folder') };
  return { ok: false, absent: false, failure: fileFailure(error) };
}

function subfolderFailure(error: unknown): Failure {
  const code = errnoOf(error);
  if (code === 'ENOENT') return notDirect('the Maildir lacks tmp or new');
  if (code === 'ENOTDIR' || code === 'ELOOP') return notDirect('tmp or new is a link or no folder');
  return fileFailure(error);
}

function ownershipIn(stat: FileStat, account: FolderQuestion['account']): Ownership {
  const groupHasRights = (stat.mode & 0o070) !== 0;
  return {
    uid: account?.uid ?? stat.uid,
    gid: groupHasRights ? stat.gid : (account?.gid ?? stat.gid),
    fileMode: (stat.mode & 0o666) | 0o600,
  };
}

/** Why the user's home forbids direct delivery, or null. A folder called `sieve` only keeps scripts: none of them is active by that. */
async function whyNotAtHome(
  calls: FileCalls,
  path: string,
  question: FolderQuestion,
): Promise<string | null> {
  const home = question.home ?? `${path}/..`;
  const scripts = question.sieve.map(name => (name.startsWith('/') ? name : `${home}/${name}`));
  const stores = otherStoresInHome.map(name => `${home}/${name}`);
  const found = await Promise.all([...scripts, ...stores].map(name => lookAt(calls, name)));
  if (found.slice(0, scripts.length).some(stat => stat !== null && !stat.isDirectory()))
    return 'a Sieve script is active';
  if (found.slice(scripts.length).some(stat => stat?.isDirectory())) return 'the home has a dbox store';
  return null;
}

async function lookAt(calls: FileCalls, path: string): Promise<FileStat | null> {
  try {
    return await calls.lstat(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return null;
    throw error;
  }
}
