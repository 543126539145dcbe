/**
 * The trace of a message: the Received field that we put on top (RFC 5321 §4.4), and the count of those that it brings along.
 * Too many of all, or of our own, is a loop (RFC 5321 §6.3). What a client says of itself crosses into the header through an
 * allow-list of characters alone: no control, no parenthesis, no line break of its choice.
 */
import { isIPv6 } from 'node:net';

export interface Trace {
  /** What the client called itself in LHLO, EHLO or HELO; raw. */
  readonly helo: string;
  /** The client's IP address; '' on a Unix socket. */
  readonly address: string;
  /** Our own name. */
  readonly name: string;
  /** RFC 3848, RFC 6531. */
  readonly protocol:
    | 'SMTP'
    | 'ESMTP'
    | 'ESMTPS'
    | 'LMTP'
    | 'LMTPS'
    | 'UTF8SMTP'
    | 'UTF8SMTPS'
    | 'UTF8LMTP'
    | 'UTF8LMTPS';
  readonly id: string;
  /** The one recipient, in its safe spelling; null where there are several, so that none learns of another. */
  readonly recipient: string | null;
  /** Unix ms. */
  readonly atMs: number;
}

/** The whole field, folded, with its CRLF. */
export function receivedField(trace: Trace): string {
  const { helo, address, name, protocol, id, recipient, atMs } = trace;
  const from = `from ${safeName(helo)} (${addressLiteral(address)})`;
  const by = `by ${safeName(name)} with ${protocol} id ${id}`;
  const to = recipient === null ? '' : `\r\n\tfor <${recipient}>`;
  return `Received: ${from}\r\n\t${by}${to};\r\n\t${mailDate(atMs)}\r\n`;
}

/** RFC 5322 §3.3, in UTC. */
export function mailDate(atMs: number): string {
  return new Date(atMs).toUTCString().replace('GMT', '+0000');
}

/** A domain or an address literal as peers write it; every other character becomes `?`. */
function safeName(raw: string): string {
  const name = raw.slice(0, 255).replace(/[^A-Za-z0-9.:_[\]-]/g, '?');
  return name === '' ? 'unknown' : name;
}

function addressLiteral(address: string): string {
  if (address === '') return 'local';
  return isIPv6(address) ? `[IPv6:${address}]` : `[${safeName(address)}]`;
}

const received = Buffer.from('received:');
const CR = 13;
const LF = 10;
/** Enough of a Received field to hold its `by` clause. */
const keptBytes = 512;

/**
 * Counts the Received fields of a message as it streams by; stops looking at the empty line that ends its header.
 * Holds at most the beginning of one field.
 */
export class HopCount {
  /** All Received fields. */
  hops = 0;
  /** Those that say `by` our own name. */
  ownHops = 0;
  readonly #by: string;
  #inHeader = true;
  #field: number[] = [];
  #lineBytes = 0;
  #isReceived = false;

  constructor(name: string) {
    this.#by = ` by ${safeName(name).toLowerCase()} `;
  }

  /** Takes the next piece; lines end with CRLF. */
  feed(piece: Buffer): void {
    for (let at = 0; at < piece.length && this.#inHeader; ) {
      const end = piece.indexOf(LF, at);
      const stop = end === -1 ? piece.length : end + 1;
      this.#take(piece, at, stop);
      at = stop;
      if (end !== -1) this.#endLine();
    }
  }

  #take(piece: Buffer, from: number, to: number): void {
    let at = from;
    // A line that begins with white space goes on with the field before it (RFC 5322 §2.2.3).
    if (this.#lineBytes === 0) {
      const first = piece[from];
      if (first !== 0x20 && first !== 0x09) this.#endField();
    }
    this.#lineBytes += to - from;
    for (; at < to && this.#field.length < (this.#isReceived ? keptBytes : received.length); at++) {
      this.#field.push(piece[at] ?? 0);
      if (this.#field.length === received.length) this.#begin();
    }
  }

  #begin(): void {
    this.#isReceived = Buffer.from(this.#field).toString('latin1').toLowerCase() === received.toString();
    if (this.#isReceived) this.hops++;
  }

  #endLine(): void {
    const bytes = this.#lineBytes;
    this.#lineBytes = 0;
    const empty = bytes === 2 && this.#field[0] === CR;
    if (empty) this.#inHeader = false;
  }

  #endField(): void {
    if (this.#isReceived) {
      const text = Buffer.from(this.#field).toString('latin1').toLowerCase().replace(/\s+/g, ' ');
      if (`${text} `.includes(this.#by)) this.ownHops++;
    }
    this.#field = [];
    this.#isReceived = false;
  }
}
