/**
 * Where log lines go: a file that may be rotated, or standard output. Each line is one write, so that lines of several processes never
 * interleave. Must never throw nor keep what it can't write: a full disk or a folder in the way costs lines, not mail. Lost lines are
 * counted, and told of in the first line that can be written again.
 */
import { closeSync, fchmodSync, fchownSync, fstatSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

export interface LogFileOptions {
  /** A path, or `-` for standard output. */
  readonly file: string;
  /** Who else writes the file, by uid or by gid: it is given to them at each opening. Root's to say. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** The first line after `lines` were lost was written; `why` the first of them was. */
  readonly onLost: (lines: number, why: string) => void;
}

export type Reopened = { readonly ok: true } | { readonly ok: false; readonly why: string };

const modeOfShared = 0o660;
const waitMs = 10;
const waitsMax = 100;
const nobodyWakes = new Int32Array(new SharedArrayBuffer(4));

export class LogFile {
  readonly #options: LogFileOptions;
  #fd: number;
  #lostLines = 0;
  #lostWhy = '';
  #isMidLine = false;

  /** Throws where the file can't be opened: without a log nothing is started. */
  constructor(options: LogFileOptions) {
    this.#options = options;
    this.#fd = options.file === '-' ? 1 : this.#open();
  }

  write(text: string): void {
    try {
      this.#writeAll(Buffer.from(this.#isMidLine ? `\n${text}` : text));
    } catch (error) {
      if (this.#lostLines === 0) this.#lostWhy = message(error);
      this.#lostLines += 1;
      return;
    }
    if (this.#lostLines === 0) return;
    const lines = this.#lostLines;
    this.#lostLines = 0;
    this.#options.onLost(lines, this.#lostWhy);
  }

  /** After a rotation. Where the new file can't be opened, the old one is written on. */
  reopen(): Reopened {
    if (this.#options.file === '-') return { ok: true };
    try {
      const fd = this.#open();
      closeSync(this.#fd);
      this.#fd = fd;
      this.#isMidLine = false;
      return { ok: true };
    } catch (error) {
      return { ok: false, why: message(error) };
    }
  }

  #open(): number {
    const { file, owner } = this.#options;
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    const fd = openSync(file, 'a', 0o640);
    // Never a device: /dev/null is everybody's.
    if (owner !== undefined && fstatSync(fd).isFile()) {
      fchownSync(fd, owner.uid, owner.gid);
      fchmodSync(fd, modeOfShared);
    }
    return fd;
  }

  #writeAll(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      at += this.#writeSome(bytes, at);
      this.#isMidLine = at < bytes.length;
    }
  }

  /** A pipe whose reader is slow says EAGAIN: it is waited for, but a reader that is stuck must not stop the mail. */
  #writeSome(bytes: Buffer, at: number): number {
    let waitsLeft = this.#lostLines > 0 ? 0 : waitsMax;
    for (;;) {
      try {
        return writeSync(this.#fd, bytes, at);
      } catch (error) {
        if (!isAgain(error) || waitsLeft === 0) throw error;
        waitsLeft -= 1;
        Atomics.wait(nobodyWakes, 0, 0, waitMs);
      }
    }
  }
}

function isAgain(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EAGAIN';
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
