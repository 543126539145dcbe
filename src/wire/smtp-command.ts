/**
 * Encodes the envelope commands that go to a node: MAIL, RCPT, LHLO (RFC 5321 §4.1, RFC 2033 §4.1).
 * The only way by which an address reaches a node's command stream: nothing that could end a line or a path passes, and a UTF-8
 * address never goes to a node that does not offer SMTPUTF8 (RFC 6531). What can't be said is a value with the reply for it.
 */
import { domainToASCII } from 'node:url';

/** What the node's LHLO reply offered (RFC 5321 §4.1.1.1), as far as we use it. */
export interface Offers {
  readonly pipelining: boolean;
  /** RFC 6152. */
  readonly eightBitMime: boolean;
  /** RFC 6531. */
  readonly smtpUtf8: boolean;
  /** RFC 1870: SIZE was offered. */
  readonly size: boolean;
  /** The limit that came with SIZE, or 0. */
  readonly sizeLimitBytes: number;
}

export type Encoded =
  | { readonly ok: true; readonly line: string }
  | { readonly ok: false; readonly why: 'bad-address' | 'no-utf8-route' };

export interface MailFrom {
  /** '' is the null sender. */
  readonly from: string;
  readonly bytes: number;
  readonly eightBit: boolean;
  readonly smtpUtf8: boolean;
}

/** The first line of the LHLO reply names the node; the others are its offers. */
export function readOffers(lines: readonly string[]): Offers {
  const words = lines.slice(1).map(line => line.trim().toUpperCase().split(/ +/));
  const has = (word: string) => words.some(([first]) => first === word);
  const limit = Number(words.find(([first]) => first === 'SIZE')?.[1] ?? 0);
  return {
    pipelining: has('PIPELINING'),
    eightBitMime: has('8BITMIME'),
    smtpUtf8: has('SMTPUTF8'),
    size: has('SIZE'),
    sizeLimitBytes: Number.isSafeInteger(limit) && limit > 0 ? limit : 0,
  };
}

/** With CRLF. `name` is our own, from the settings; anything but a domain or an address literal becomes a bare literal. */
export function lhloCommand(name: string): string {
  return `LHLO ${/^[A-Za-z0-9.\-[\]:_]{1,255}$/.test(name) ? name : '[127.0.0.1]'}\r\n`;
}

/** With CRLF. */
export function mailCommand({ from, bytes, eightBit, smtpUtf8 }: MailFrom, offers: Offers): Encoded {
  const path = from === '' ? { ok: true as const, path: '' } : pathOf(from, offers.smtpUtf8);
  if (!path.ok) return path;
  let line = `MAIL FROM:<${path.path}>`;
  if (offers.size && bytes > 0) line += ` SIZE=${bytes}`;
  if (eightBit && offers.eightBitMime) line += ' BODY=8BITMIME';
  if (offers.smtpUtf8 && (smtpUtf8 || !isAscii(path.path))) line += ' SMTPUTF8';
  return { ok: true, line: `${line}\r\n` };
}

/** With CRLF. */
export function rcptCommand(address: string, offers: Offers): Encoded {
  const path =
    address === '' ? { ok: false as const, why: 'bad-address' as const } : pathOf(address, offers.smtpUtf8);
  return path.ok ? { ok: true, line: `RCPT TO:<${path.path}>\r\n` } : path;
}

/** RFC 5321 §4.5.3.1.3 says 256 octets; senders in use (VERP, SRS) are longer, and nodes take them. */
const pathLimitBytes = 1000;
/** A dot-atom as the world uses it: anything but space, controls and the marks that end or change a path. */
const plainForm = /^[^\p{Cc}\p{Zl}\p{Zp} <>()[\]\\,;:"@]+$/u;
/** RFC 5321 §4.1.2 Quoted-string: printable, with backslash pairs. */
const quotedForm = /^"(?:[^\p{Cc}\p{Zl}\p{Zp}"\\]|\\[ -~])*"$/u;
const literalForm = /^\[[A-Za-z0-9.:-]+\]$/;

type Path =
  | { readonly ok: true; readonly path: string }
  | { readonly ok: false; readonly why: 'bad-address' | 'no-utf8-route' };

function pathOf(address: string, utf8: boolean): Path {
  const bad: Path = { ok: false, why: 'bad-address' };
  if (Buffer.byteLength(address) > pathLimitBytes || !address.isWellFormed()) return bad;
  const at = address.lastIndexOf('@');
  const local = at === -1 ? address : address.slice(0, at);
  const domain = at === -1 ? '' : address.slice(at + 1);
  if (!plainForm.test(local) && !quotedForm.test(local)) return bad;
  if (at !== -1 && !plainForm.test(domain) && !literalForm.test(domain)) return bad;
  if (utf8 || isAscii(address)) return { ok: true, path: address };
  if (!isAscii(local)) return { ok: false, why: 'no-utf8-route' };
  // Our receiver decodes IDNs; a node without SMTPUTF8 gets the A-labels it knows (RFC 5891).
  const ascii = domainToASCII(domain);
  return ascii === '' ? { ok: false, why: 'no-utf8-route' } : { ok: true, path: `${local}@${ascii}` };
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i += 1) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}
