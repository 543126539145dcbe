/**
 * Files in one folder of ours that are whole or not there: written beside, fsynced, renamed, and the folder fsynced.
 * The queue folder keeps its envelopes and bodies with it. The folder's descriptor stays open, and its syncs are joined.
 * DANGER: what resolves with null is on disk and stays there after a power cut; nothing else may be acknowledged. Failures are values.
 */
import { constants } from 'node:fs';
import { lstat, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Failure } from '../core/failure.ts';
import type { FileCalls } from './file-calls.ts';
import { errnoOf, fileFailure } from './file-failure.ts';
import { createJoinedSync } from './joined-sync.ts';

/** Null: it is done. */
export type Trouble = { readonly failure: Failure; readonly errno: string } | null;

/** What stands behind a name: its bytes, or why not. `ENOENT` where it is not there. */
export type ReadResult =
  | { readonly ok: true; readonly bytes: Buffer }
  | { readonly ok: false; readonly failure: Failure; readonly errno: string };

/** A file's content, in memory or as it comes. */
export type Content = Buffer | AsyncIterable<Buffer>;

export interface SafeFolder {
  readonly path: string;
  /** Creates the file under its own name, fsynced; its name is not durable before `sync`. `EEXIST` where the name is taken. */
  create(name: string, content: Content): Promise<Trouble>;
  /** Writes it beside (`NAME.tmp`), fsynced; `keep` gives it its name, over what had it before. */
  prepare(name: string, content: Content): Promise<Trouble>;
  keep(name: string): Promise<Trouble>;
  /** All names given and taken before this call are on disk when it resolves with null. */
  sync(): Promise<Trouble>;
  /** `prepare`, `keep` and `sync`. */
  replace(name: string, content: Content): Promise<Trouble>;
  /** Not durable before `sync`. A name that is not there is no trouble. */
  remove(name: string): Promise<Trouble>;
  /** Into a folder beneath this one, over what has the name there. */
  moveTo(subfolder: string, name: string): Promise<Trouble>;
  read(name: string, limitBytes: number): Promise<ReadResult>;
  close(): Promise<void>;
}

export const temporarySuffix = '.tmp';
const { O_WRONLY, O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW, O_RDONLY, O_DIRECTORY } = constants;

/** The folder is made where it is missing; its parent must be there. */
export async function openSafeFolder(
  path: string,
  calls: FileCalls,
): Promise<
  { readonly ok: true; readonly folder: SafeFolder } | { readonly ok: false; readonly failure: Failure }
> {
  try {
    await calls.mkdir(path, 0o700).catch(error => {
      if (errnoOf(error) !== 'EEXIST') throw error;
    });
    const fd = await calls.open(path, O_RDONLY | O_DIRECTORY);
    return { ok: true, folder: safeFolder(path, fd, calls) };
  } catch (error) {
    return { ok: false, failure: fileFailure(error) };
  }
}

function safeFolder(path: string, folderFd: number, calls: FileCalls): SafeFolder {
  const joined = createJoinedSync(() => calls.fsync(folderFd));
  const at = (name: string) => join(path, name);
  const beside = (name: string) => at(`${name}${temporarySuffix}`);
  const folder: SafeFolder = {
    path,
    create: (name, content) => written(calls, at(name), O_EXCL, content),
    prepare: (name, content) => written(calls, beside(name), O_TRUNC, content),
    keep: name => attempt(() => calls.rename(beside(name), at(name))),
    sync: () => attempt(() => joined.sync()),
    async replace(name, content) {
      return (await folder.prepare(name, content)) ?? (await folder.keep(name)) ?? (await folder.sync());
    },
    async remove(name) {
      const trouble = await attempt(() => calls.unlink(at(name)));
      return trouble?.errno === 'ENOENT' ? null : trouble;
    },
    moveTo: (subfolder, name) =>
      attempt(async () => {
        await calls.mkdir(at(subfolder), 0o700).catch(error => {
          if (errnoOf(error) !== 'EEXIST') throw error;
        });
        await calls.rename(at(name), join(path, subfolder, name));
      }),
    async read(name, limitBytes) {
      try {
        // A foreign file may be anything: a symbolic link, a device, a terabyte.
        const stat = await lstat(at(name));
        if (!stat.isFile()) return notRead('EINVAL', 'not a plain file');
        if (stat.size > limitBytes) return notRead('EFBIG', 'too large');
        return { ok: true, bytes: await readFile(at(name)) };
      } catch (error) {
        return { ok: false, failure: fileFailure(error), errno: errnoOf(error) };
      }
    },
    close: () => calls.close(folderFd),
  };
  return folder;
}

function notRead(errno: string, text: string): ReadResult {
  return { ok: false, failure: { kind: 'io-error', text: `${errno} ${text}` }, errno };
}

async function written(calls: FileCalls, path: string, how: number, content: Content): Promise<Trouble> {
  return attempt(async () => {
    const fd = await calls.open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | how, 0o600);
    try {
      if (Buffer.isBuffer(content)) await calls.write(fd, content);
      else for await (const piece of content) await calls.write(fd, piece);
      await calls.fsync(fd);
    } catch (error) {
      await calls.unlink(path).catch(() => undefined);
      throw error;
    } finally {
      await calls.close(fd);
    }
  });
}

async function attempt(work: () => Promise<void>): Promise<Trouble> {
  try {
    await work();
    return null;
  } catch (error) {
    return { failure: fileFailure(error), errno: errnoOf(error) };
  }
}
