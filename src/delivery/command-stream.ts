/**
 * smtp-server's command parser, with our own DATA: the raw bytes go to our intake before the library would unstuff them.
 * The library takes dots behind a bare LF for stuffing (a smuggling gadget), reads oversize bodies whole, and runs half a command when
 * the client hangs up in it; here none of it happens. Leans on private members: test/unit/delivery/library.test.ts holds them.
 */
import { SMTPStream } from 'smtp-server/lib/smtp-stream.js';

type Done = (error?: Error | null) => void;

/** Who takes the raw bytes while the stream is not reading commands. */
export interface RawTaker {
  /** `end` is the offset of the first byte that is a command again, or -1. `wait` holds the client back. */
  feed(chunk: Buffer): { readonly end: number; readonly wait: Promise<void> | null };
  /** All is taken; `resume` goes on with what was pipelined behind. */
  ended(resume: () => void): void;
}

export class CommandStream extends SMTPStream {
  #taker: RawTaker | null = null;

  /** From the next byte on, everything goes to `taker` until it says where its part ends. */
  divert(taker: RawTaker): void {
    this.#taker = taker;
    this._dataMode = true;
  }

  /** Called by the library for each chunk while `_dataMode` is set. */
  override _feedDataStream(chunk: Buffer, done: Done): void {
    const taker = this.#taker;
    if (taker === null || this.isClosed) {
      done();
      return;
    }
    const { end, wait } = taker.feed(chunk);
    if (end === -1) {
      if (wait === null) done();
      else wait.then(() => done(), done);
      return;
    }
    this.#taker = null;
    this._dataMode = false;
    this._remainder = '';
    const rest = chunk.subarray(end);
    taker.ended(() => this._write(rest, 'buffer', done));
  }

  /** At the end of input the library would run what stands there without a newline: a cut-off address is another address. */
  override _flushData(): void {
    this._remainder = '';
  }
}

/** Swallows exactly so many bytes: the payload of a BDAT that we refused must never be read as commands (RFC 3030 §2). */
export function swallow(bytes: number): RawTaker {
  let left = bytes;
  return {
    feed(chunk) {
      const end = left <= chunk.length ? left : -1;
      left -= chunk.length;
      return { end, wait: null };
    },
    ended: resume => resume(),
  };
}
