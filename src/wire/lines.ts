/**
 * Cuts a stream of bytes into lines and counted blocks, within a limit: the first step of every parser of a text protocol.
 * Pull, not push: a session may stop in the middle (LOGIN, STARTTLS) and take the rest unparsed with `rest()`.
 * Must never know a socket, and must give the same lines however the bytes were split.
 */

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
const nothing = Buffer.alloc(0);

export class Lines {
  readonly #maxLineBytes: number;
  #pending: Buffer = nothing;
  #start = 0;
  /** Where the search for the next line end goes on, so that a slow line is not searched anew for each byte. */
  #searchFrom = 0;

  /** `maxLineBytes` counts a line without its LF (a CR before it counts). */
  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** Bytes held and not yet taken. The caller stops reading its socket when this grows beyond what it wants to hold. */
  get heldBytes(): number {
    return this.#pending.length - this.#start;
  }

  /** Takes over the chunk without copying it; the caller must not write into it afterwards. */
  push(bytes: Buffer): void {
    if (bytes.length === 0) return;
    if (this.heldBytes === 0) {
      this.#pending = bytes;
      this.#searchFrom = 0;
    } else {
      this.#pending = Buffer.concat([this.#pending.subarray(this.#start), bytes]);
      this.#searchFrom = Math.max(0, this.#searchFrom - this.#start);
    }
    this.#start = 0;
  }

  /**
   * The next line without its CRLF (a bare LF ends a line too), `null` when it is not complete yet, or `too-long`.
   * After `too-long` the stream has no next line that could be trusted: the caller ends the connection.
   */
  nextLine(): Buffer | 'too-long' | null {
    const end = this.#pending.indexOf(lineFeed, Math.max(this.#searchFrom, this.#start));
    const lineBytes = (end === -1 ? this.#pending.length : end) - this.#start;
    if (lineBytes > this.#maxLineBytes) return 'too-long';
    if (end === -1) {
      this.#searchFrom = this.#pending.length;
      return null;
    }
    const last = end > this.#start && this.#pending[end - 1] === carriageReturn ? end - 1 : end;
    const line = this.#pending.subarray(this.#start, last);
    this.#moveTo(end + 1);
    return line;
  }

  /** Exactly `bytes` bytes, or null when they are not all here yet. */
  take(bytes: number): Buffer | null {
    if (this.heldBytes < bytes) return null;
    const block = this.#pending.subarray(this.#start, this.#start + bytes);
    this.#moveTo(this.#start + bytes);
    return block;
  }

  /** Everything that was not taken yet; afterwards nothing is held. */
  rest(): Buffer {
    const rest = this.#pending.subarray(this.#start);
    this.#pending = nothing;
    this.#start = 0;
    this.#searchFrom = 0;
    return rest;
  }

  #moveTo(start: number): void {
    this.#start = start;
    this.#searchFrom = start;
    if (start === this.#pending.length) {
      this.#pending = nothing;
      this.#start = 0;
      this.#searchFrom = 0;
    }
  }
}
