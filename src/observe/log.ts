/**
 * The process's logger: pino lines an operator can grep, one destination, reopened on SIGHUP.
 * Must never print a password or a SASL response: callers pass names, never credentials, and `redact` is the belt.
 */
import { chownSync } from 'node:fs';
import { hostname } from 'node:os';
import { type DestinationStream, type Logger, pino } from 'pino';

export type Log = Logger;

export interface LogOptions {
  readonly level: string;
  /** A path, or `-` for standard output. `{host}` and `{node}` are filled in by the settings. */
  readonly file: string;
  /** Which process: `parent`, `serving`, `writer`. */
  readonly role: string;
  /** Who else must be able to write the file: it is given to this account at each opening. Root's to say. */
  readonly owner?: { readonly uid: number; readonly gid: number };
}

export interface LogWriter {
  readonly log: Log;
  /** After log rotation: opens the file anew. No effect on standard output. */
  reopen(): void;
  /** Writes out what is buffered; call before the process ends. */
  flush(): void;
}

const secretPaths = [
  'pass',
  'password',
  'secret',
  'token',
  'credentials',
  '*.pass',
  '*.password',
  '*.secret',
  '*.token',
  '*.credentials',
];

export function openLog({ level, file, role, owner }: LogOptions): LogWriter {
  // Unbuffered on standard output so that lines of several processes never interleave within a line.
  const destination = pino.destination({ dest: file === '-' ? 1 : file, sync: true, mkdir: file !== '-' });
  // Later processes open it as that account: the parent opens it first, also after a rotation.
  const give = () => {
    if (file !== '-' && owner !== undefined) chownSync(file, owner.uid, owner.gid);
  };
  give();
  const log = pino(
    {
      level,
      base: { host: hostname(), role, pid: process.pid },
      redact: { paths: secretPaths, censor: '[hidden]' },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination as DestinationStream,
  );
  return {
    log,
    reopen: () => {
      if (file === '-') return;
      destination.reopen();
      give();
    },
    flush: () => destination.flushSync(),
  };
}
