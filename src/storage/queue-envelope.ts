/**
 * What the queue knows of a message beside its body: one JSON file, its form, and its reading back.
 * Stands between the queue folder and the runner. A file is another program's word, or half of ours: nothing is believed unchecked,
 * and what does not fit is a value with its why, never a guess at whom a message was for.
 */
import type { NodeName, Recipient, Reply } from '../core/types.ts';

export const envelopeVersion = 1;

/** It may have arrived there already: only there may it be tried again. */
export type Doubt = { readonly courier: 'node'; readonly node: NodeName } | { readonly courier: 'direct' };

export interface QueuedRecipient extends Recipient {
  /** Set before it is handed over, so that a crash cannot forget it. Null: surely not delivered. */
  readonly doubt: Doubt | null;
  /** The last reply, and the node it came from or was meant for. */
  readonly last: { readonly node: NodeName | null; readonly reply: Reply } | null;
  /** Settled against it, and the sender is still to be told: not tried any more. */
  readonly refused: boolean;
}

export interface QueueEnvelope {
  readonly version: typeof envelopeVersion;
  /** The letter's id, as in the log. The files' name begins with it. */
  readonly id: string;
  /** '' is the null sender. */
  readonly from: string;
  readonly eightBit: boolean;
  readonly smtpUtf8: boolean;
  /** Unix ms. */
  readonly acceptedAtMs: number;
  readonly bodyBytes: number;
  readonly attempts: number;
  /** Unix ms. */
  readonly nextAtMs: number;
  /** Those not yet settled; never empty. */
  readonly recipients: readonly QueuedRecipient[];
}

export type EnvelopeRead =
  | { readonly ok: true; readonly envelope: QueueEnvelope }
  | { readonly ok: false; readonly why: string };

export function writeEnvelope(envelope: QueueEnvelope): Buffer {
  return Buffer.from(`${JSON.stringify(envelope)}\n`);
}

export function readEnvelope(bytes: Buffer): EnvelopeRead {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    return { ok: false, why: 'not JSON, or torn' };
  }
  if (!isRecord(value)) return { ok: false, why: 'not an object' };
  if (value.version !== envelopeVersion)
    return { ok: false, why: `version ${String(value.version)} is not known here` };
  const { id, from, eightBit, smtpUtf8, acceptedAtMs, bodyBytes, attempts, nextAtMs, recipients } = value;
  if (!isId(id)) return { ok: false, why: 'no id' };
  if (typeof from !== 'string' || typeof eightBit !== 'boolean' || typeof smtpUtf8 !== 'boolean')
    return { ok: false, why: 'no sender' };
  if (!isCount(acceptedAtMs) || !isCount(bodyBytes) || !isCount(attempts) || !isCount(nextAtMs))
    return { ok: false, why: 'a number is wrong' };
  if (!Array.isArray(recipients) || recipients.length === 0) return { ok: false, why: 'no recipients' };
  const read: QueuedRecipient[] = [];
  for (const each of recipients) {
    const recipient = recipientOf(each);
    if (recipient === null) return { ok: false, why: 'a recipient is wrong' };
    read.push(recipient);
  }
  const numbers = { acceptedAtMs, bodyBytes, attempts, nextAtMs };
  return {
    ok: true,
    envelope: { version: envelopeVersion, id, from, eightBit, smtpUtf8, ...numbers, recipients: read },
  };
}

/** An id is a file's name too. */
export function isId(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9A-Za-z]{1,128}$/.test(value);
}

function recipientOf(value: unknown): QueuedRecipient | null {
  if (!isRecord(value)) return null;
  const { index, address, user, detail, maildirName, doubt, last, refused } = value;
  if (
    !isCount(index) ||
    typeof address !== 'string' ||
    address === '' ||
    typeof user !== 'string' ||
    user === ''
  )
    return null;
  // The name becomes a path in the spool.
  if (typeof detail !== 'string' || typeof maildirName !== 'string' || !/^[^/\0:]{1,200}$/.test(maildirName))
    return null;
  if (maildirName.startsWith('.') || typeof refused !== 'boolean') return null;
  const readDoubt = doubtOf(doubt);
  const readLast = lastOf(last);
  if (readDoubt === undefined || readLast === undefined) return null;
  return { index, address, user, detail, maildirName, doubt: readDoubt, last: readLast, refused };
}

function doubtOf(value: unknown): Doubt | null | undefined {
  if (value === null) return null;
  if (!isRecord(value)) return undefined;
  if (value.courier === 'direct') return { courier: 'direct' };
  return value.courier === 'node' && typeof value.node === 'string'
    ? { courier: 'node', node: value.node }
    : undefined;
}

function lastOf(value: unknown): QueuedRecipient['last'] | undefined {
  if (value === null) return null;
  if (!isRecord(value) || !isRecord(value.reply)) return undefined;
  const { node, reply } = value;
  const { code, enhanced, lines } = reply;
  if (node !== null && typeof node !== 'string') return undefined;
  if (!isCount(code) || code < 200 || code > 599 || !Array.isArray(lines)) return undefined;
  if (enhanced !== null && typeof enhanced !== 'string') return undefined;
  const texts = lines.filter(line => typeof line === 'string');
  return texts.length === lines.length ? { node, reply: { code, enhanced, lines: texts } } : undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
