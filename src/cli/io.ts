/**
 * What a command may touch: its streams and its environment. Tests lend their own; `main.ts` lends the process's.
 */
import type { Readable, Writable } from 'node:stream';

export interface Io {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Width of the terminal that standard output is; null where it is none. */
  readonly columns: number | null;
  /** Why standard output could not be written, other than that its reader has gone; '' while it can. */
  outputFailure?(): string;
  /** `homing serve`: resolves with the exit code once it has ended. Passed in, since it is everything below. */
  serve(settingsPath: string): Promise<number>;
}

/** Writes and waits while the reader is slow. False: the reader has gone (`| head`), so there is no more to do. */
export function write(stream: Writable, text: string): Promise<boolean> {
  if (text === '') return Promise.resolve(!stream.destroyed);
  return new Promise(resolve => {
    if (stream.destroyed || stream.writableEnded) {
      resolve(false);
      return;
    }
    stream.write(text, error => resolve(error === null || error === undefined));
  });
}

export const say = (io: Io, text: string): Promise<boolean> => write(io.stdout, `${text}\n`);

/** A line on standard error, after the command's name. */
export const complain = (io: Io, text: string): Promise<boolean> => write(io.stderr, `homing: ${text}\n`);

/** The streams and environment of this process. A reader that goes away is no error: without a listener it would crash us. */
export function processIo(serve: Io['serve']): Io {
  let failure = '';
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') failure = error.code ?? error.message;
  });
  // Nobody is left to tell.
  process.stderr.on('error', () => {});
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    columns: process.stdout.isTTY ? process.stdout.columns : null,
    outputFailure: () => failure,
    serve,
  };
}
