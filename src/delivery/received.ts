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

let lastDate = { second: -1, text: '' };

/** RFC 5322 §3.3, in UTC. Remembers the last one: most messages share their second with another. */
export function mailDate(atMs: number): string {
  const second = Math.floor(atMs / 1000);
  if (second !== lastDate.second) {
    lastDate = { second, text: new Date(atMs).toUTCString().replace('GMT', '+0000') };
  }
  return lastDate.text;
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

const received = 'received:';
const CR = 13;
const LF = 10;
const SPACE = 32;
const TAB = 9;
const lowerR = 0x72;
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
  #atLineStart = true;
  /** The field so far, while it may be a Received one; else null. */
  #field: string | null = null;

  constructor(name: string) {
    this.#by = ` by ${safeName(name).toLowerCase()} `;
  }

  /** Takes the next piece; no bare CR or LF is in it. */
  feed(piece: Buffer): void {
    for (let at = 0; at < piece.length && this.#inHeader; ) {
      if (this.#atLineStart) this.#beginLine(piece[at] ?? CR);
      const end = piece.indexOf(LF, at);
      const stop = end === -1 ? piece.length : end + 1;
      if (this.#field !== null) this.#keep(this.#field, piece, at, stop);
      this.#atLineStart = end !== -1;
      at = stop;
    }
  }

  #beginLine(first: number): void {
    // A line that begins with white space goes on with the field before it (RFC 5322 §2.2.3).
    if (first === SPACE || first === TAB) return;
    this.#endField();
    this.#inHeader = first !== CR;
    this.#field = (first | 0x20) === lowerR ? '' : null;
  }

  #keep(field: string, piece: Buffer, from: number, to: number): void {
    const room = keptBytes - field.length;
    if (room <= 0) return;
    const text = field + piece.toString('latin1', from, Math.min(to, from + room)).toLowerCase();
    const isReceived = text.length < received.length ? received.startsWith(text) : text.startsWith(received);
    this.#field = isReceived ? text : null;
  }

  #endField(): void {
    const field = this.#field;
    if (field === null || field.length < received.length) return;
    this.hops++;
    if (`${field.replace(/\s+/g, ' ')} `.includes(this.#by)) this.ownHops++;
  }
}
