/**
 * What the serving process and a writer say to each other on their Unix socket. One request at a time on a connection: a hung file
 * system then holds up its own connection only, and a connection that ends in the middle is one request without an answer.
 *
 *     frame:    "HMW" version(1) | header length (4, big endian) | header, JSON | body, `bytes` of the header long (deliver only)
 *     client → writer  deliver {user, name, from, to, again, bytes} + body · verify {user} · ping
 *     writer → client  done {…} · presence {…} · pong · failure {…}          (never a body)
 *
 * No path, uid or mode crosses this wire: the writer has its own settings, so whoever takes over a serving process can deliver mail but
 * not write files of its choice. Both sides are bounded, work at any split, and take nothing on trust: a wrong frame ends the connection.
 */
import { type Failure, failureKinds } from '../core/failure.ts';

export interface DeliverRequest {
  readonly kind: 'deliver';
  readonly user: string;
  readonly name: string;
  readonly from: string;
  readonly to: string;
  readonly again: boolean;
  /** Length of the body behind this header. */
  readonly bytes: number;
}

export type WriterRequest =
  | DeliverRequest
  | { readonly kind: 'verify'; readonly user: string }
  | { readonly kind: 'ping' };

export type WriterAnswer =
  | { readonly kind: 'done'; readonly already: boolean; readonly file: string }
  | { readonly kind: 'presence'; readonly presence: 'present' | 'absent' | 'unknown' }
  | { readonly kind: 'pong' }
  /** `mayBeThere`: it may stand in new/ all the same, see maildir-delivery.ts. */
  | { readonly kind: 'failure'; readonly failure: Failure; readonly mayBeThere: boolean };

/** Addresses and names are a few hundred bytes; JSON escapes can make six of one. */
const headerLimitBytes = 16_384;
const bodyLimitBytes = 2 ** 40;
const preamble = Buffer.from([0x48, 0x4d, 0x57, 1]);
const preambleBytes = preamble.length + 4;

export function encodeFrame(header: WriterRequest | WriterAnswer): Buffer {
  const json = Buffer.from(JSON.stringify(header));
  const frame = Buffer.allocUnsafe(preambleBytes + json.length);
  preamble.copy(frame);
  frame.writeUInt32BE(json.length, preamble.length);
  json.copy(frame, preambleBytes);
  return frame;
}

export type FrameEvent<H> =
  | { readonly kind: 'header'; readonly header: H }
  | { readonly kind: 'body'; readonly bytes: Buffer }
  /** The frame is whole. */
  | { readonly kind: 'end' };

export interface FrameReader<H> {
  /** What these bytes complete; null once they break the rules, and from then on: end the connection. */
  push(bytes: Buffer): readonly FrameEvent<H>[] | null;
}

/** `parse` answers null for a header it does not know. */
export function createFrameReader<H>(parse: (json: unknown) => H | null): FrameReader<H> {
  let held: Buffer = Buffer.alloc(0);
  let bodyLeft = 0;
  let broken = false;

  /** The next header in `held`, `more` where it is not whole yet, null where it can't be one. */
  function takeHeader(): H | 'more' | null {
    const known = Math.min(held.length, preamble.length);
    if (held.compare(preamble, 0, known, 0, known) !== 0) return null;
    if (held.length < preambleBytes) return 'more';
    const length = held.readUInt32BE(preamble.length);
    if (length > headerLimitBytes) return null;
    if (held.length < preambleBytes + length) return 'more';
    const header = parseJson(held.toString('utf8', preambleBytes, preambleBytes + length));
    held = held.subarray(preambleBytes + length);
    return header === undefined ? null : parse(header);
  }

  function step(events: FrameEvent<H>[]): boolean {
    if (bodyLeft > 0) {
      const bytes = held.subarray(0, bodyLeft);
      held = held.subarray(bytes.length);
      bodyLeft -= bytes.length;
      events.push({ kind: 'body', bytes });
      if (bodyLeft === 0) events.push({ kind: 'end' });
      return true;
    }
    const header = takeHeader();
    if (header === 'more') return false;
    if (header === null) {
      broken = true;
      return false;
    }
    events.push({ kind: 'header', header });
    bodyLeft = bodyBytesOf(header);
    if (bodyLeft === 0) events.push({ kind: 'end' });
    return true;
  }

  return {
    push(bytes) {
      if (broken) return null;
      held = held.length === 0 ? bytes : Buffer.concat([held, bytes]);
      const events: FrameEvent<H>[] = [];
      while (held.length > 0 && step(events));
      return broken ? null : events;
    },
  };
}

function bodyBytesOf(header: unknown): number {
  return isRecord(header) && typeof header.bytes === 'number' ? header.bytes : 0;
}

/** Undefined is what JSON cannot say. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

export function parseRequest(json: unknown): WriterRequest | null {
  if (!isRecord(json)) return null;
  const { kind, user, name, from, to, again, bytes } = json;
  if (kind === 'ping') return { kind };
  if (typeof user !== 'string') return null;
  if (kind === 'verify') return { kind, user };
  if (kind !== 'deliver' || typeof name !== 'string' || typeof from !== 'string') return null;
  if (typeof to !== 'string' || typeof again !== 'boolean' || typeof bytes !== 'number') return null;
  if (!Number.isInteger(bytes) || bytes < 0 || bytes > bodyLimitBytes) return null;
  return { kind, user, name, from, to, again, bytes };
}

export function parseAnswer(json: unknown): WriterAnswer | null {
  if (!isRecord(json)) return null;
  const { kind, already, file, presence } = json;
  switch (kind) {
    case 'pong':
      return { kind };
    case 'done':
      return typeof already === 'boolean' && typeof file === 'string' ? { kind, already, file } : null;
    case 'presence':
      return presence === 'present' || presence === 'absent' || presence === 'unknown'
        ? { kind, presence }
        : null;
    case 'failure': {
      const failure = parseFailure(json.failure);
      if (failure === null || typeof json.mayBeThere !== 'boolean') return null;
      return { kind, failure, mayBeThere: json.mayBeThere };
    }
    default:
      return null;
  }
}

function parseFailure(json: unknown): Failure | null {
  if (!isRecord(json)) return null;
  const kind = failureKinds.find(one => one === json.kind);
  if (kind === undefined) return null;
  return typeof json.text === 'string' ? { kind, text: json.text } : { kind };
}
