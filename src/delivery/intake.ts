/**
 * A message's body on its way in: final dot found, newlines made whole, hops counted, size watched, bytes spooled.
 * Stands between the client's raw DATA bytes and the transaction. A message that is refused for its size, its line ends or its hops is
 * still read to its final dot, since only there may we answer (RFC 5321 §4.1.1.4); nothing more of it is kept.
 */
import type { Failure } from '../core/failure.ts';
import { DotReader } from '../wire/dot.ts';
import type { BodyWriter, Finished } from './body.ts';
import { HopCount } from './received.ts';

export interface IntakeLimits {
  /** Of the message as it came, without our Received. */
  readonly maxBytes: number;
  /** RFC 5321 §6.3 says at least 100 for a plain count; loops that pass us are found sooner by `maxOwnHops`. */
  readonly maxHops: number;
  readonly maxOwnHops: number;
  readonly bareNewline: 'normalise' | 'refuse';
}

export interface Fed {
  /** Offset of the first byte behind the message, or -1 while it goes on. */
  readonly end: number;
  /** Wait for it before the next chunk. */
  readonly wait: Promise<void> | null;
  /** The client sends on and on, far past what was refused long ago: hang up. */
  readonly endless: boolean;
}

export class Intake {
  readonly #writer: BodyWriter;
  readonly #limits: IntakeLimits;
  readonly #dots: DotReader;
  readonly #hops: HopCount;
  #bytes = 0;
  #wait: Promise<void> | null = null;

  /** `trace` is our Received field; `name` is our own, as it stands there. */
  constructor(writer: BodyWriter, limits: IntakeLimits, trace: string, name: string) {
    this.#writer = writer;
    this.#limits = limits;
    this.#hops = new HopCount(name);
    this.#dots = new DotReader(piece => this.#keep(piece));
    this.#wait = writer.write(Buffer.from(trace));
  }

  feed(chunk: Buffer): Fed {
    const end = this.#dots.feed(chunk);
    const wait = this.#wait;
    this.#wait = null;
    return { end, wait, endless: this.#bytes > 2 * this.#limits.maxBytes + 1024 * 1024 };
  }

  /** Once the final dot was seen. */
  async finish(): Promise<Finished> {
    const failure = this.#refusal();
    if (failure === null) return this.#writer.finish();
    await this.#writer.abort();
    return { ok: false, failure };
  }

  /** The client is gone, or too slow. */
  abort(): Promise<void> {
    return this.#writer.abort();
  }

  #keep(piece: Buffer): void {
    this.#bytes += piece.length;
    this.#hops.feed(piece);
    if (this.#bytes <= this.#limits.maxBytes) this.#wait = this.#writer.write(piece);
    else if (this.#wait === null) this.#wait = this.#writer.abort();
  }

  #refusal(): Failure | null {
    const { maxBytes, maxHops, maxOwnHops, bareNewline } = this.#limits;
    if (this.#bytes > maxBytes) return { kind: 'too-big', text: `more than ${maxBytes} bytes` };
    if (bareNewline === 'refuse' && this.#dots.bareNewlines > 0) return { kind: 'bad-line-ends' };
    if (this.#hops.hops > maxHops) return { kind: 'mail-loop', text: `${this.#hops.hops} hops` };
    if (this.#hops.ownHops > maxOwnHops)
      return { kind: 'mail-loop', text: `${this.#hops.ownHops} times here` };
    return null;
  }
}
