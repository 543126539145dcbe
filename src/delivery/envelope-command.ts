/**
 * MAIL FROM and RCPT TO as the client wrote them, read into an envelope, or into the reply that refuses them.
 * Pure: what the recipient or the sender means to us is the transaction's affair. A parameter that we do not offer is refused, never
 * ignored (RFC 5321 §4.1.1.11): its sender relies on it.
 */
import { isUtf8 } from 'node:buffer';
import { type Failure, lmtpReply, smtpReply } from '../core/failure.ts';
import type { Reply } from '../core/types.ts';
import { type Mailbox, type Parsed, type Path, parsePath } from '../wire/address.ts';
import type { Envelope } from './transaction.ts';

export interface EnvelopeRules {
  readonly kind: 'lmtp' | 'smtp';
  readonly maxBytes: number;
  /** Whether SMTPUTF8 is offered. */
  readonly smtpUtf8: boolean;
}

export type Read<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly reply: Reply };

export function readMail(command: Buffer, rules: EnvelopeRules): Read<Envelope> {
  const path = pathOf(command, 'from');
  if (!path.ok) return refuse(501, '5.1.7', `Bad sender address: ${path.why}`);
  const { mailbox, params } = path.value;
  const reply = badMailParams(params, rules);
  if (reply !== null) return { ok: false, reply };
  const smtpUtf8 = params.has('SMTPUTF8');
  if (mailbox?.utf8 === true && !smtpUtf8)
    return { ok: false, reply: ours(rules, { kind: 'no-utf8-route' }) };
  const eightBit = params.get('BODY')?.toUpperCase() === '8BITMIME';
  return { ok: true, value: { from: mailbox?.address ?? '', eightBit, smtpUtf8 } };
}

export function readRcpt(command: Buffer, rules: EnvelopeRules): Read<Mailbox> {
  const path = pathOf(command, 'to');
  if (!path.ok) return refuse(501, '5.1.3', `Bad recipient address: ${path.why}`);
  const { mailbox, params } = path.value;
  const [first] = params.keys();
  if (first !== undefined) return unknownParam(first);
  if (mailbox === null) return refuse(501, '5.1.3', 'Bad recipient address');
  if (mailbox.utf8 && !rules.smtpUtf8) return { ok: false, reply: ours(rules, { kind: 'no-utf8-route' }) };
  return { ok: true, value: mailbox };
}

function badMailParams(params: ReadonlyMap<string, string>, rules: EnvelopeRules): Reply | null {
  for (const [key, value] of params) {
    switch (key) {
      case 'SIZE': // RFC 1870 §6
        if (!/^\d{1,20}$/.test(value)) return refuse(501, '5.5.4', 'Bad SIZE').reply;
        if (Number(value) > rules.maxBytes) return ours(rules, { kind: 'too-big' });
        break;
      case 'BODY': // RFC 6152 §2
        if (!/^(?:7BIT|8BITMIME)$/i.test(value)) return refuse(501, '5.5.4', 'Bad BODY').reply;
        break;
      case 'SMTPUTF8': // RFC 6531 §3.4
        if (!rules.smtpUtf8) return unknownParam(key).reply;
        if (value !== '') return refuse(501, '5.5.4', 'SMTPUTF8 takes no value').reply;
        break;
      case 'AUTH': // RFC 4954 §5: some send it unasked; it says nothing that we believe.
        break;
      default:
        return unknownParam(key).reply;
    }
  }
  return null;
}

function pathOf(command: Buffer, side: 'from' | 'to'): Parsed<Path> {
  if (!isUtf8(command)) return { ok: false, why: 'not UTF-8' };
  const rest = (side === 'from' ? /^MAIL FROM:(.*)$/is : /^RCPT TO:(.*)$/is).exec(command.toString())?.[1];
  return rest === undefined ? { ok: false, why: 'syntax' } : parsePath(rest, side);
}

function ours({ kind }: EnvelopeRules, failure: Failure): Reply {
  return kind === 'smtp' ? smtpReply(failure) : lmtpReply(failure);
}

function unknownParam(key: string): { readonly ok: false; readonly reply: Reply } {
  return refuse(555, '5.5.4', `Parameter ${key} is not supported`);
}

function refuse(code: number, enhanced: string, text: string): { readonly ok: false; readonly reply: Reply } {
  return { ok: false, reply: { code, enhanced, lines: [text] } };
}
