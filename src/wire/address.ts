/**
 * Envelope paths and their parameters: the argument of MAIL FROM and RCPT TO (RFC 5321 §4.1.2, RFC 6531 §3.3), and mailboxes as text.
 * What it accepts it gives back in one safe spelling, so that an address can be written into another SMTP dialogue, a header or a
 * log without any byte that means something there (promise 7). Must never accept a control character, a lone quote or `<` `>` outside
 * a quoted local part.
 */

export interface Mailbox {
  /** Without quotes and backslashes. */
  readonly local: string;
  /** Lower case as to ASCII; null for `<postmaster>`. A literal keeps its brackets. */
  readonly domain: string | null;
  /** The safe spelling: quoted where it must be. */
  readonly address: string;
  /** True where it holds a character beyond ASCII: only for peers that speak SMTPUTF8. */
  readonly utf8: boolean;
}

export interface Path {
  /** null is the null sender `<>`. */
  readonly mailbox: Mailbox | null;
  /** Upper-case keyword → value, '' where it has none. */
  readonly params: ReadonlyMap<string, string>;
}

export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly why: string };

/** RFC 5321 §4.5.3.1; 254 is what remains of a path's 256 bytes between its angle brackets. */
const localLimitBytes = 64;
const domainLimitBytes = 255;
const addressLimitBytes = 254;
const paramsLimit = 16;

const dotString = /^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u{80}-\u{10ffff}-]+$/u;
const quotedString = /^"((?:[^"\\]|\\.)*)"$/u;
const dotted = /^(?:[A-Za-z0-9_\u{80}-\u{10ffff}-]+\.)*[A-Za-z0-9_\u{80}-\u{10ffff}-]+$/u;
const literal =
  /^\[(?:(\d{1,3}(?:\.\d{1,3}){3})|IPv6:([0-9A-Fa-f:.]{2,45})|([A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+))\]$/i;
/** Controls, separators, invisible format characters and half surrogates: they forge headers, logs and eyes. */
const hostile = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}]|(?![\u200c\u200d])\p{Cf}/u;
const sourceRoute = /^@[^\s,:@<>"]+(?:,@[^\s,:@<>"]+)*:/;

/** Parses what follows `FROM:` or `TO:`. Bytes must be UTF-8. `side` decides whether `<>` or `<postmaster>` is allowed. */
export function parsePath(argument: string, side: 'from' | 'to'): Parsed<Path> {
  const text = argument.trim();
  if (hostile.test(text)) return refuse('a control or invisible character');
  const close = closingBracket(text);
  if (close < 0) return refuse('the address is not in angle brackets');
  const params = parseParams(text.slice(close + 1));
  if (!params.ok) return params;
  // RFC 5321 §4.1.1.3, appendix C: a source route is accepted and ignored.
  const inner = text.slice(1, close).replace(sourceRoute, '');
  if (inner === '' && side === 'from') return { ok: true, value: { mailbox: null, params: params.value } };
  if (side === 'to' && inner.toLowerCase() === 'postmaster') {
    const mailbox = { local: inner, domain: null, address: inner, utf8: false };
    return { ok: true, value: { mailbox, params: params.value } };
  }
  const mailbox = parseMailbox(inner, side === 'from' ? addressLimitBytes : localLimitBytes);
  return mailbox.ok ? { ok: true, value: { mailbox: mailbox.value, params: params.value } } : mailbox;
}

/** `localBytes`: senders' local parts pass 64 in the wild (VERP, SRS, forwarders), and a sender refused is a message lost. */
export function parseMailbox(text: string, localBytes: number = localLimitBytes): Parsed<Mailbox> {
  if (hostile.test(text)) return refuse('a control or invisible character');
  if (Buffer.byteLength(text) > addressLimitBytes) return refuse(`longer than ${addressLimitBytes} bytes`);
  const at = text.lastIndexOf('@');
  if (at < 0) return refuse('no domain');
  const local = parseLocal(text.slice(0, at).normalize('NFC'));
  if (local === null) return refuse('bad local part');
  if (Buffer.byteLength(local) > localBytes) return refuse(`local part longer than ${localBytes} bytes`);
  const domain = parseDomain(text.slice(at + 1).normalize('NFC'));
  if (domain === null) return refuse('bad domain');
  const address = encodeMailbox(local, domain);
  if (Buffer.byteLength(address) > addressLimitBytes) return refuse(`longer than ${addressLimitBytes} bytes`);
  return { ok: true, value: { local, domain, address, utf8: !isAscii(address) } };
}

/** The safe spelling. Quotes only what is no dot-string; in quotes only `"` and `\` are escaped (RFC 5321 §4.1.2). */
export function encodeMailbox(local: string, domain: string | null): string {
  const safe = dotString.test(local) ? local : `"${local.replace(/["\\]/g, '\\$&')}"`;
  return domain === null ? safe : `${safe}@${domain}`;
}

export function isAscii(text: string): boolean {
  return !/[^\0-\x7f]/.test(text);
}

function refuse(why: string): { readonly ok: false; readonly why: string } {
  return { ok: false, why };
}

/** The `>` that ends the path: one inside a quoted local part is a letter of it. */
function closingBracket(text: string): number {
  if (!text.startsWith('<')) return -1;
  let quoted = false;
  for (let at = 1; at < text.length; at++) {
    const char = text[at];
    if (quoted && char === '\\') at++;
    else if (char === '"') quoted = !quoted;
    else if (!quoted && char === '>') return at;
    else if (!quoted && char === '<') return -1;
  }
  return -1;
}

/** Dots at the edges or in a row are let through unquoted: such mailboxes exist, and the node decides. */
function parseLocal(text: string): string | null {
  if (dotString.test(text)) return text;
  const quoted = quotedString.exec(text);
  const inner = quoted?.[1]?.replace(/\\(.)/gu, '$1');
  return inner === undefined || inner === '' ? null : inner;
}

function parseDomain(text: string): string | null {
  if (text === '' || Buffer.byteLength(text) > domainLimitBytes) return null;
  if (text.startsWith('[')) return parseLiteral(text);
  const name = text.replace(/[A-Z]/g, letter => letter.toLowerCase());
  return dotted.test(name) && name.split('.').every(label => label.length <= 63) ? name : null;
}

/** RFC 5321 §4.1.3. Kept as written, but for the case of the tag. */
function parseLiteral(text: string): string | null {
  const parts = literal.exec(text);
  if (parts === null) return null;
  const ipv4 = parts[1];
  if (ipv4 !== undefined) return ipv4.split('.').every(byte => Number(byte) <= 255) ? text : null;
  const ipv6 = parts[2];
  return ipv6 === undefined ? text : `[IPv6:${ipv6.toLowerCase()}]`;
}

function parseParams(text: string): Parsed<ReadonlyMap<string, string>> {
  const params = new Map<string, string>();
  if (text !== '' && !text.startsWith(' ')) return refuse('no space before the parameters');
  for (const word of text.split(' ')) {
    if (word === '') continue;
    const parts = /^([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\s]+))?$/u.exec(word);
    const key = parts?.[1]?.toUpperCase();
    if (key === undefined) return refuse('a bad parameter');
    if (params.has(key)) return refuse(`${key} is given twice`);
    if (params.size === paramsLimit) return refuse('too many parameters');
    params.set(key, parts?.[2] ?? '');
  }
  return { ok: true, value: params };
}
