/**
 * One delivery into one open Maildir folder, and the order of its calls, which is what makes promise 2 true:
 *
 *     tmp/ O_EXCL → owner, mode → write → fsync → close → link into new/ → unlink tmp/ ┐
 *                                                                        fsync new/    ├→ answered
 *                                                                        maildirsize   ┘
 *     any error before the link: unlink tmp/, a Failure, nothing delivered. After it: a Failure, and the next try finds the name.
 * Must never answer before file AND folder are on disk, never overwrite anything, never leave a half written file in new/.
 */
import { constants } from 'node:fs';
import type { Failure } from '../core/failure.ts';
import type { User } from '../core/types.ts';
import type { Log } from '../observe/log.ts';
import type { FileCalls } from './file-calls.ts';
import { errnoOf, fileFailure } from './file-failure.ts';
import { folderFlags, type MaildirFolder } from './maildir-folder.ts';
import { createStoredForm, type StoredForm } from './stored-form.ts';

/** 255 (NAME_MAX) less `,S=…,W=…` and the flags that sessions add. */
const nameLimit = 180;
const addressLimit = 900;

export interface MaildirTools {
  readonly calls: FileCalls;
  readonly log: Log;
  /** Monotonic, ms. */
  readonly now: () => number;
  readonly after: (ms: number, then: () => void) => () => void;
  /** Random, unique; lower-case hex. */
  readonly token: () => string;
  /** The user id of this process. */
  readonly processUid: number;
}

export interface MaildirWish {
  readonly user: User;
  /** The base name fixed at acceptance; sizes are added here. */
  readonly name: string;
  /** Envelope sender, '' is the null sender. */
  readonly from: string;
  readonly to: string;
  /** True where this name may have been written before: then it is looked for first. */
  readonly again: boolean;
  /** CRLF line ends, as received. */
  readonly body: Buffer | AsyncIterable<Buffer>;
  /** What `body` must add up to; a body cut short is never delivered. */
  readonly bodyBytes: number;
}

export type Written =
  | { readonly ok: true; readonly kind: 'delivered' | 'already'; readonly file: string }
  /** `mayBeThere`: the error came at or after the link, so the message may stand in new/, though it is not known to be durable. */
  | { readonly ok: false; readonly failure: Failure; readonly mayBeThere: boolean };

export function failed(failure: Failure, mayBeThere = false): Written {
  return { ok: false, failure, mayBeThere };
}

/** No separator of paths, sizes or flags, no hidden file. `\` is allowed: qmail writes `/` and `:` of machine names as \057 and \072. */
export function isPlainName(name: string): boolean {
  return name.length <= nameLimit && /^[!-~]+$/.test(name) && !/^\.|[/:,]/.test(name);
}

/** One delivery into one borrowed folder. */
export class Delivery {
  private readonly calls: FileCalls;
  private readonly tools: MaildirTools;
  private readonly folder: MaildirFolder;
  private readonly wish: MaildirWish;
  /** True from the file in tmp/ on: the body may have been read, so there is no second try with the same one. */
  begun = false;
  private linking = false;

  constructor(tools: MaildirTools, folder: MaildirFolder, wish: MaildirWish) {
    this.calls = tools.calls;
    this.tools = tools;
    this.folder = folder;
    this.wish = wish;
  }

  async run(): Promise<Written> {
    const { calls, folder, wish } = this;
    const tmp = `${folder.tmpPath}/${wish.name}.${this.tools.token()}`;
    try {
      if (wish.again) {
        const found = await findAndSync(calls, folder, wish.name);
        if (found !== null) return { ok: true, kind: 'already', file: found };
      }
      const fd = await calls.open(tmp, tmpFlags, 0o600);
      this.begun = true;
      return await this.fill(fd, tmp);
    } catch (error) {
      // After EEXIST or a failed open there is nothing of ours to remove, and the token makes sure that it is ours.
      if (this.begun) await calls.unlink(tmp).catch(() => undefined);
      if (error instanceof BodyCut) return failed(error.failure);
      return failed(fileFailure(error), this.linking && !surelyNotLinked.has(errnoOf(error)));
    }
  }

  private async fill(fd: number, tmp: string): Promise<Written> {
    const { calls, folder, wish } = this;
    const form = createStoredForm();
    try {
      await this.own(fd);
      await writeMessage(calls, fd, form, wish);
      // Not fdatasync: owner and mode must be as durable as the bytes, and CephFS would leave them out.
      await calls.fsync(fd);
    } finally {
      await calls.close(fd);
    }
    const file = `${wish.name},S=${form.physicalBytes},W=${form.virtualBytes}`;
    this.linking = true;
    const linked = await moveIn(calls, tmp, `${folder.newPath}/${file}`);
    // A failing unlink leaves a file in tmp/ that Dovecot clears away after some hours: no reason to fail what is delivered.
    const unlinked = calls.unlink(tmp).catch(() => undefined);
    const counted = linked && folder.hasSizeFile ? this.count(form.physicalBytes) : null;
    // Also where it was there already: whoever linked it may have died before this.
    const synced = await Promise.allSettled([folder.newSync.sync(), unlinked, counted]);
    if (synced[0].status === 'rejected') return failed(fileFailure(synced[0].reason), true);
    return { ok: true, kind: linked ? 'delivered' : 'already', file };
  }

  private async own(fd: number): Promise<void> {
    const { uid, gid, fileMode } = this.folder.ownership;
    if (this.tools.processUid === 0) await this.calls.fchown(fd, uid, gid);
    if (fileMode !== 0o600) await this.calls.fchmod(fd, fileMode);
  }

  /** Maildir++: a line of bytes and messages at the end of maildirsize, which exists where a quota is kept. */
  private async count(bytes: number): Promise<void> {
    const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW;
    try {
      const fd = await this.calls.open(`${this.folder.path}/maildirsize`, flags);
      try {
        await this.calls.write(fd, Buffer.from(`${bytes} 1\n`));
      } finally {
        await this.calls.close(fd);
      }
    } catch (error) {
      // Gone: Dovecot is about to count anew. Anything else: the message is delivered all the same, and the count is mended by Dovecot.
      if (errnoOf(error) !== 'ENOENT')
        this.tools.log.warn({ user: this.wish.user, err: errnoOf(error) }, 'maildirsize not kept');
    }
  }
}

/** Answers of link(2) that leave nothing behind. Others may come from a lost reply (NFS) to a link that was made. */
const surelyNotLinked: ReadonlySet<string> = new Set([
  'ENOSPC',
  'EDQUOT',
  'EROFS',
  'EACCES',
  'EPERM',
  'EMLINK',
]);

const tmpFlags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** The body ended early or late: the sender broke off, or its count is wrong. */
class BodyCut extends Error {
  readonly failure: Failure = { kind: 'aborted', text: 'the body is not as long as announced' };
}

async function writeMessage(
  calls: FileCalls,
  fd: number,
  form: StoredForm,
  { from, to, body, bodyBytes }: MaildirWish,
): Promise<void> {
  // RFC 5321 §4.4: the one who delivers finally adds the return path.
  const head = form.push(Buffer.from(`Return-Path: <${clean(from)}>\nDelivered-To: ${clean(to)}\n`));
  if (Buffer.isBuffer(body)) {
    if (body.length !== bodyBytes) throw new BodyCut();
    await calls.write(fd, Buffer.concat([head, form.push(body), form.end()]));
    return;
  }
  await calls.write(fd, head);
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > bodyBytes) throw new BodyCut();
    const stored = form.push(chunk);
    if (stored.length > 0) await calls.write(fd, stored);
  }
  if (bytes !== bodyBytes) throw new BodyCut();
  const rest = form.end();
  if (rest.length > 0) await calls.write(fd, rest);
}

/** An envelope address as a header's text: no control character may start another header. */
function clean(address: string): string {
  return address.slice(0, addressLimit).replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, '?');
}

/** False where the name is there already. */
async function moveIn(calls: FileCalls, tmp: string, final: string): Promise<boolean> {
  try {
    await calls.link(tmp, final);
    return true;
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'EEXIST') return false;
    if (code !== 'EPERM' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS') throw error;
  }
  // No hard links here (some FUSE file systems). What a rename could replace is the same message: the name fixes its content.
  await calls.rename(tmp, final);
  return true;
}

/**
 * The file of this base name in new/ or cur/, with any sizes and flags; made durable before it is answered, as whoever wrote it may
 * have died between link and sync. new/ first: sessions move files that way only. A flag change can hide a file from one reading of
 * cur/, so a cur/ that changed meanwhile is read again.
 */
async function findAndSync(calls: FileCalls, folder: MaildirFolder, base: string): Promise<string | null> {
  let found: string | null = null;
  const passes = (name: string): boolean => {
    const next = name.charAt(base.length);
    if (!name.startsWith(base) || (next !== '' && next !== ',' && next !== ':')) return false;
    found = name;
    return true;
  };
  if (await calls.anyName(folder.newPath, passes)) {
    await folder.newSync.sync();
    return found;
  }
  for (let reading = 0; reading < 3; reading += 1) {
    const fd = await calls.open(`${folder.path}/cur`, folderFlags);
    try {
      const before = await calls.fstat(fd);
      if (await calls.anyName(`/proc/self/fd/${fd}`, passes)) {
        await Promise.all([calls.fsync(fd), folder.newSync.sync()]);
        return found;
      }
      if ((await calls.fstat(fd)).mtimeMs === before.mtimeMs) return null;
    } finally {
      await calls.close(fd);
    }
  }
  return null;
}
