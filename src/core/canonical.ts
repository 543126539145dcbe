/**
 * From what a client typed, or an envelope names, to the one user it means: the same for logins and addresses of every protocol.
 *
 *     raw → bounded, no hostile bytes → unquoted → master suffix off → domain → NFC, lower case → detail off → aliases → user
 *
 * Everything else (placement, paths, logs) works on its result. Must never throw, never guess at a hostile name (it is refused as
 * a value), and never give a name whose own canonical form differs: canonicalUser(user) is user.
 */
import type { User } from './types.ts';

export interface UserRules {
  /** Added to names without a domain; '' where users have none. Lower case. */
  readonly defaultDomain: string;
  /** The domains we accept mail for; not consulted here, the receiver refuses others. */
  readonly domains: ReadonlySet<string>;
  /** Each of its characters begins the detail (Postfix' and Dovecot's recipient_delimiter); '' = none. */
  readonly detail: string;
  /** Its first character ends the user in `user*master`; '' = none. */
  readonly masterSeparator: string;
  /** What is hashed: `user`, `domain`, or a template of {user}, {local}, {domain}. */
  readonly affinity: 'user' | 'domain' | string;
  /** Canonical user → whom it means. Followed up to eight steps. */
  readonly aliases: ReadonlyMap<string, User>;
}

export type Canonical =
  | {
      readonly ok: true;
      readonly user: User;
      /** As typed but for NFC, '' if none; from the name itself, never from an alias. */
      readonly detail: string;
      /** Of the user, after aliases; '' if it has none. */
      readonly domain: string;
      readonly local: string;
    }
  | { readonly ok: false; readonly why: string };

/** RFC 5321 §4.5.3.1.3: 256 bytes with the angle brackets; also the longest name in a folder. */
const limitBytes = 255;
const aliasSteps = 8;

export function canonicalUser(raw: string, rules: UserRules): Canonical {
  const first = parse(raw, rules);
  if (!first.ok || rules.aliases.size === 0) return first;
  let current = first;
  for (let step = 0; step < aliasSteps; step += 1) {
    const meant = rules.aliases.get(current.user);
    if (meant === undefined || meant === current.user) return { ...current, detail: first.detail };
    const next = parse(meant, rules);
    if (!next.ok) return refuse(`is an alias of a name that ${next.why}`);
    current = next;
  }
  return refuse(`is an alias of an alias, more than ${aliasSteps} steps deep`);
}

/** What a user is hashed by. A user without a domain is its own affinity key under `domain`: not everyone on one node. */
export function affinityKey(user: User, rules: Pick<UserRules, 'affinity'>): string {
  if (rules.affinity === 'user') return user;
  const at = user.lastIndexOf('@');
  const local = at < 0 ? user : user.slice(0, at);
  const domain = at < 0 ? '' : user.slice(at + 1);
  if (rules.affinity === 'domain') return domain === '' ? user : domain;
  const values: Readonly<Record<string, string>> = { user, local, domain };
  return rules.affinity.replace(/\{(user|local|domain)\}/g, (_, name: string) => values[name] ?? '');
}

function refuse(why: string): { readonly ok: false; readonly why: string } {
  return { ok: false, why };
}

/**
 * Controls, line and paragraph separators, invisible format characters (but the joiners Persian and Indic scripts need), lone
 * surrogates, white space but the plain one; and code points this engine's Unicode does not know: their case and normal form may
 * differ on the next machine, so they are refused rather than placed differently.
 */
const hostile = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}\p{Cn}]|(?![\u200c\u200d])\p{Cf}|(?! )\p{Zs}/u;

function parse(raw: string, rules: UserRules): Canonical {
  if (raw === '') return refuse('is empty');
  // UTF-16 units are never more than UTF-8 bytes, so this bounds all the work below.
  if (raw.length > limitBytes || utf8Bytes(raw) > limitBytes)
    return refuse(`is longer than ${limitBytes} bytes`);
  if (hostile.test(raw)) return refuse('has a control or invisible character');
  const split = splitDomain(raw, rules.masterSeparator);
  if (split === null) return refuse('has a misplaced quote or @');
  const domain = fold(split.domain ?? rules.defaultDomain);
  const typed = split.local.normalize('NFC');
  const cut = detailStart(typed, rules.detail);
  const local = fold(cut < 0 ? typed : typed.slice(0, cut));
  if (local === null || domain === null) return refuse('has no stable lower case form');
  const why = badLocal(local) ?? (split.domain === null ? null : badDomain(domain));
  if (why !== null) return refuse(why);
  const user = domain === '' ? local : `${local}@${domain}`;
  if (user.length * 3 > limitBytes && utf8Bytes(user) > limitBytes)
    return refuse(`is longer than ${limitBytes} bytes`);
  return { ok: true, user, detail: cut < 0 ? '' : typed.slice(cut + 1), domain, local };
}

/**
 * Takes the quotes (RFC 5321 §4.1.2: `"joe"@x` is `joe@x`), the domain and the master suffix off. `joe@x*admin` and
 * `joe*admin@x` are both joe@x: where the user itself has no domain, the last one counts, so that an address can never change domain.
 */
function splitDomain(raw: string, masterSeparator: string): { local: string; domain: string | null } | null {
  if (raw.startsWith('"')) {
    const quoted = /^"((?:[^"\\@]|\\[^"\\@])*)"(?:@([^@]*))?$/u.exec(raw);
    if (quoted === null) return null;
    const local = (quoted[1] ?? '').replace(/\\(.)/gu, '$1');
    return { local: beforeMaster(local, masterSeparator), domain: quoted[2] ?? null };
  }
  const login = beforeMaster(raw, masterSeparator);
  const source = login.includes('@') ? login : raw;
  const at = source.lastIndexOf('@');
  if (at < 0) return { local: login, domain: null };
  const local = source === raw ? beforeMaster(raw.slice(0, at), masterSeparator) : login.slice(0, at);
  return local.includes('@') ? null : { local, domain: source.slice(at + 1) };
}

/** As Dovecot: the first separator counts. One at the very start belongs to the name. */
function beforeMaster(name: string, masterSeparator: string): string {
  const cut = masterSeparator === '' ? -1 : name.indexOf(masterSeparator.charAt(0), 1);
  return cut < 0 ? name : name.slice(0, cut);
}

/** Where the first delimiter is, or -1. One at the very start belongs to the name, as in Postfix. */
function detailStart(local: string, delimiters: string): number {
  let start = -1;
  for (const delimiter of delimiters) {
    const at = local.indexOf(delimiter, 1);
    if (at > 0 && (start < 0 || at < start)) start = at;
  }
  return start;
}

/** NFC and lower case, or null where doing it twice differs from doing it once. */
function fold(text: string): string | null {
  if (/^[\0-@[-\x7f]*$/.test(text)) return text;
  const once = text.normalize('NFC').toLowerCase().normalize('NFC');
  return once.toLowerCase().normalize('NFC') === once ? once : null;
}

function badLocal(local: string): string | null {
  if (local === '') return 'has nothing before the @';
  if (/["\\/]/.test(local)) return 'has a slash, backslash or quote';
  if (local.startsWith('.') || local.includes('..')) return 'has a misplaced dot';
  if (local.startsWith(' ') || local.endsWith(' ')) return 'has a misplaced space';
  return null;
}

/** Letters, digits, `-`, `_` and single dots between them. Unicode names are taken as they are: no IDNA mapping. */
function badDomain(domain: string): string | null {
  if (/^(?:[a-z0-9_-]+\.)*[a-z0-9_-]+$/.test(domain)) return null;
  return /^(?:[\p{L}\p{M}\p{N}_-]+\.)*[\p{L}\p{M}\p{N}_-]+$/u.test(domain) ? null : 'has a bad domain';
}

function utf8Bytes(text: string): number {
  let bytes = 0;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    // A surrogate pair is four bytes; lone ones are refused anyway.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || (unit & 0xf800) === 0xd800 ? 2 : 3;
  }
  return bytes;
}
