/**
 * Parses what an IMAP node says until we are logged in: greeting, untagged and tagged replies, continuations, response codes,
 * literals inside untagged responses (RFC 9051 §7). Bytes in, events out; what follows the tagged reply stays in `rest()`.
 * Text is kept as latin1, byte for byte, so it can be passed on unchanged. Must never know a socket nor hold beyond its limits.
 */
import { Lines } from './lines.ts';

/** `[CAPABILITY IMAP4rev1 …]` is name `CAPABILITY`, value `IMAP4rev1 …`. */
export interface ResponseCode {
  readonly name: string;
  readonly value: string;
}

export type ResponseEvent =
  | { readonly kind: 'continue'; readonly text: string }
  /** `name` in upper case: OK, NO, BAD, BYE, PREAUTH, CAPABILITY, ID … ; `raw` is the response as it came, CRLF included. */
  | {
      readonly kind: 'untagged';
      readonly name: string;
      readonly code: ResponseCode | null;
      readonly text: string;
      readonly raw: Buffer;
    }
  | {
      readonly kind: 'tagged';
      readonly tag: string;
      readonly status: Status;
      readonly code: ResponseCode | null;
      readonly text: string;
    }
  | { readonly kind: 'fatal'; readonly why: string };

export type Status = 'OK' | 'NO' | 'BAD';

export interface ResponseLimits {
  readonly lineBytes: number;
  /** One response with its literals. */
  readonly responseBytes: number;
}

export const defaultResponseLimits: ResponseLimits = { lineBytes: 16_384, responseBytes: 65_536 };

/** Their text is free text and has no literals (RFC 9051 §9 resp-text), even where it happens to end in `{5}`. */
const statusNames: ReadonlySet<string> = new Set(['OK', 'NO', 'BAD', 'BYE', 'PREAUTH']);
const crlf = Buffer.from('\r\n');

export class ResponseParser {
  readonly #lines: Lines;
  readonly #limits: ResponseLimits;
  /** The parts of the response under way: lines and literals in turn. */
  #parts: Buffer[] = [];
  #bytes = 0;
  #literalBytes: number | null = null;
  #dead = false;

  constructor(limits: ResponseLimits = defaultResponseLimits) {
    this.#limits = limits;
    this.#lines = new Lines(limits.lineBytes);
  }

  push(bytes: Buffer): void {
    this.#lines.push(bytes);
  }

  /** What follows the last event that was taken. */
  rest(): Buffer {
    return this.#lines.rest();
  }

  next(): ResponseEvent | null {
    for (;;) {
      if (this.#dead) return null;
      if (this.#literalBytes !== null) {
        const block = this.#lines.take(this.#literalBytes);
        if (block === null) return null;
        this.#literalBytes = null;
        this.#parts.push(block);
      }
      const line = this.#lines.nextLine();
      if (line === null) return null;
      if (line === 'too-long') return this.#die('line too long');
      this.#bytes += line.length + crlf.length;
      this.#parts.push(line, crlf);
      const literal = this.#literalAfter(line);
      if (literal !== null) this.#bytes += literal;
      if (this.#bytes > this.#limits.responseBytes) return this.#die('response too big');
      if (literal !== null) {
        this.#literalBytes = literal;
        continue;
      }
      const raw = this.#parts.length === 2 ? Buffer.concat([line, crlf]) : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#bytes = 0;
      const event = readResponse(raw);
      return event.kind === 'fatal' ? this.#die(event.why) : event;
    }
  }

  #literalAfter(line: Buffer): number | null {
    const match = /\{(\d{1,10})\}$/.exec(line.toString('latin1', Math.max(0, line.length - 13)));
    if (match === null) return null;
    if (this.#parts.length === 2) {
      const head = /^(?:\+|\*) ?([A-Za-z]*)/.exec(line.toString('latin1', 0, 32));
      if (head === null || line[0] === 0x2b || statusNames.has((head[1] ?? '').toUpperCase())) return null;
    }
    return Number(match[1]);
  }

  #die(why: string): ResponseEvent {
    this.#dead = true;
    this.#parts = [];
    this.#lines.rest();
    return { kind: 'fatal', why };
  }
}

function readResponse(raw: Buffer): ResponseEvent {
  const line = raw.toString('latin1', 0, raw.length - crlf.length);
  if (line.startsWith('+')) return { kind: 'continue', text: line.slice(1).trimStart() };
  const match = /^(\S{1,64}) ([A-Za-z0-9]+)(?: ([\s\S]*))?$/.exec(line);
  if (match === null) return { kind: 'fatal', why: 'not an IMAP response' };
  const [, tag = '', word = '', rest = ''] = match;
  const name = word.toUpperCase();
  if (tag !== '*') {
    if (name !== 'OK' && name !== 'NO' && name !== 'BAD')
      return { kind: 'fatal', why: 'not an IMAP response' };
    return { kind: 'tagged', tag, status: name, ...readText(rest) };
  }
  if (statusNames.has(name)) return { kind: 'untagged', name, raw, ...readText(rest) };
  return { kind: 'untagged', name, code: null, text: rest, raw };
}

/** RFC 9051 §9 resp-text: `["[" code "]" SP] text`. */
function readText(rest: string): { readonly code: ResponseCode | null; readonly text: string } {
  const match = /^\[([A-Za-z][A-Za-z0-9-]*)(?: ([^\]]*))?\] ?/.exec(rest);
  if (match === null) return { code: null, text: rest };
  return {
    code: { name: (match[1] ?? '').toUpperCase(), value: match[2] ?? '' },
    text: rest.slice(match[0].length),
  };
}

/**
 * A capability list as the client may see it. Login referrals (RFC 2221) would send clients past us to a node of the node's choice.
 */
export function withoutReferrals(list: string): string {
  return list
    .split(' ')
    .filter(word => word !== '' && word.toUpperCase() !== 'LOGIN-REFERRALS')
    .join(' ');
}

/** The words of a capability list, in upper case, for asking. */
export function capabilitySet(list: string): ReadonlySet<string> {
  return new Set(
    list
      .split(' ')
      .filter(word => word !== '')
      .map(word => word.toUpperCase()),
  );
}
