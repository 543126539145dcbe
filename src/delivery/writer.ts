/**
 * The writer process's service: it alone has rights on the spool. Takes requests on a Unix socket and answers when mail is on disk.
 * Runs as root (files are given to the spool's account) or as that account. A hung file system holds one of libuv's threads for each call
 * it swallows: start the process with UV_THREADPOOL_SIZE=`writerThreads`, and replace it when the courier says that it hangs.
 * Must never write on a serving process's word outside the spool: paths and owners come from its own settings alone.
 *
 *   connection: idle ─frame begins→ taking ─whole (small)→ working ─answered→ idle
 *                                      └─header (large)→ working, body streamed ─answered and body taken→ idle
 *               a wrong frame, or bytes while working: closed
 */
import { existsSync } from 'node:fs';
import { chmod, chown, lstat, rename, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { realFileCalls } from '../storage/file-calls.ts';
import { errnoOf } from '../storage/file-failure.ts';
import { createMaildirs, type MaildirOptions, type Maildirs } from '../storage/maildir.ts';
import { parseSpoolTemplate, type SpoolTemplate } from '../storage/spool-path.ts';
import { createWriterConnection } from './writer-connection.ts';

/** Value for UV_THREADPOOL_SIZE of a writer process: calls that may hang or wait for the disk at the same time. */
export const writerThreads = 32;

/** `.dovecot.sieve` is Dovecot's active script; `sieve` is one where it is a file, while a folder of that name only keeps scripts. */
export const defaultSieve: readonly string[] = ['.dovecot.sieve', 'sieve'];

/** The spool as plain values, so that it can travel to the writer process. Paths are templates of {user}, {local}, {domain}. */
export interface SpoolOptions {
  readonly path: string;
  readonly mark: string;
  /** Null: the Maildir's parent. */
  readonly home: string | null;
  readonly sieve: readonly string[];
  /** Null: the owner of the user's Maildir. */
  readonly account: { readonly uid: number; readonly gid: number } | null;
  readonly create: boolean;
}

export interface WriterOptions {
  readonly socketPath: string;
  /** Who may connect besides root: the serving process's account. Null leaves the socket to the writer's own. */
  readonly socketOwner: { readonly uid: number; readonly gid: number } | null;
  readonly spool: SpoolOptions;
  /** Who the process will be once it serves, where it gives up root after this. Default: who it is. */
  readonly processUid?: number;
  readonly clock: Clock;
  readonly log: Log;
  /** Requests at the same time; one connection each. */
  readonly connectionsLimit?: number;
}

export interface Writer {
  close(): Promise<void>;
}

export type StartedWriter =
  | { readonly ok: true; readonly writer: Writer }
  | { readonly ok: false; readonly why: string };

export async function startWriter(options: WriterOptions): Promise<StartedWriter> {
  const { clock, log, connectionsLimit = 512 } = options;
  const spool = parseSpool(options.spool);
  if (!spool.ok) return spool;
  if (!existsSync('/proc/self/fd')) return { ok: false, why: '/proc is not mounted' };
  process.umask(0o077);
  const maildirs = createMaildirs(spool.spool, {
    calls: realFileCalls,
    log,
    now: clock.now,
    after: clock.after,
    token: () => clock.token(8),
    processUid: options.processUid ?? process.geteuid?.() ?? -1,
  });
  const sockets = new Set<Socket>();
  const listener = createServer(socket => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    createWriterConnection({ socket, maildirs, log });
  });
  listener.maxConnections = connectionsLimit;
  const listening = await listenAt(listener, options);
  if (!listening.ok) {
    maildirs.close();
    return listening;
  }
  const close = (): Promise<void> => closeAll({ listener, sockets, maildirs, ...listening, ...options });
  return { ok: true, writer: { close } };
}

function parseSpool(
  spool: SpoolOptions,
): { readonly ok: true; readonly spool: MaildirOptions } | { readonly ok: false; readonly why: string } {
  const path = parseSpoolTemplate(spool.path);
  if (!path.ok) return { ok: false, why: `spool path ${path.why}` };
  const mark = parseSpoolTemplate(spool.mark);
  if (!mark.ok) return { ok: false, why: `spool mark ${mark.why}` };
  let home: SpoolTemplate | null = null;
  if (spool.home !== null) {
    const parsed = parseSpoolTemplate(spool.home);
    if (!parsed.ok) return { ok: false, why: `spool home ${parsed.why}` };
    home = parsed.template;
  }
  return { ok: true, spool: { ...spool, path: path.template, mark: mark.template, home } };
}

/**
 * Listens under a passing name, then renames: a new writer takes the place of a hung one in one step, and whoever connects meets
 * either the old or the new, never a missing file.
 */
async function listenAt(
  listener: Server,
  { socketPath, socketOwner }: WriterOptions,
): Promise<{ readonly ok: true; readonly inode: number } | { readonly ok: false; readonly why: string }> {
  const passing = `${socketPath}.${process.pid}`;
  try {
    await rm(passing, { force: true });
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen(passing, () => {
        listener.off('error', reject);
        resolve();
      });
    });
    await chmod(passing, 0o600);
    if (socketOwner !== null) await chown(passing, socketOwner.uid, socketOwner.gid);
    const { ino } = await lstat(passing);
    await rename(passing, socketPath);
    return { ok: true, inode: ino };
  } catch (error) {
    if (listener.listening) listener.close();
    return { ok: false, why: `socket ${socketPath}: ${errnoOf(error) || String(error)}` };
  }
}

async function closeAll({
  listener,
  sockets,
  maildirs,
  socketPath,
  inode,
}: {
  readonly listener: Server;
  readonly sockets: ReadonlySet<Socket>;
  readonly maildirs: Maildirs;
  readonly socketPath: string;
  readonly inode: number;
}): Promise<void> {
  const closed = new Promise<void>(resolve => listener.close(() => resolve()));
  for (const socket of sockets) socket.destroy();
  await closed;
  maildirs.close();
  // Only if it is still ours: another writer may have taken the place.
  const there = await lstat(socketPath).catch(() => null);
  if (there?.ino === inode) await rm(socketPath, { force: true });
}
