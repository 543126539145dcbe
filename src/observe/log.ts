/**
 * The process's logger: pino lines an operator can grep, one destination, reopened on SIGHUP.
 * Must never print a password or a SASL response: callers pass names, never credentials, and `redact` is the belt.
 */
import { hostname } from 'node:os';
import { type Logger, pino } from 'pino';
import { LogFile } from './log-file.ts';

export type Log = Logger;

export interface LogOptions {
  readonly level: string;
  /** A path, or `-` for standard output. `{host}` and `{node}` are filled in by the settings. */
  readonly file: string;
  /** Which process: `parent`, `serving`, `writer`. */
  readonly role: string;
  /** Who else must be able to write the file, by uid or by gid: it is given to them at each opening. Root's to say. */
  readonly owner?: { readonly uid: number; readonly gid: number };
}

export interface LogWriter {
  readonly log: Log;
  /** After log rotation: opens the file anew, or goes on with the old one and says why. No effect on standard output. */
  reopen(): void;
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
  const destination = new LogFile({
    file,
    ...(owner === undefined ? {} : { owner }),
    onLost: (lines, why) => log.error({ lines, why }, 'lines of this log were lost'),
  });
  const log = pino(
    {
      level,
      base: { host: hostname(), role, pid: process.pid },
      redact: { paths: secretPaths, censor: '[hidden]' },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination,
  );
  const reopen = () => {
    const reopened = destination.reopen();
    if (!reopened.ok) log.error({ file, why: reopened.why }, 'the log goes on in the old file');
  };
  return { log, reopen };
}
