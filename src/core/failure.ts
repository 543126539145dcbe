/**
 * Each way in which Homing itself can fail someone, and the one answer it gets in every protocol.
 * The only file that knows reply codes for our own failures; a node's own replies pass beside it.
 * Must never turn an outage into an authentication failure or a 5xx (promise 6), nor print a raw byte: `text` may come from a peer,
 * so it is cleaned and cut here, and strangers on SMTP and before login are told neither it nor the node's name.
 */
import type { Reply } from './reply.ts';

/**
 * What the failure is to a client that logs in. `outage`: ours, try later. `limit`: too much at once.
 * `refused`: the name itself is impossible, which must look like any other wrong login. `bug`: ours, and no retry is promised.
 */
type SessionClass = 'outage' | 'limit' | 'refused' | 'bug';

interface FailureRow {
  readonly code: number;
  /** RFC 3463, RFC 5248. */
  readonly enhanced: string;
  readonly say: string;
  readonly session: SessionClass;
}

function row(code: number, enhanced: string, say: string, session: SessionClass = 'outage'): FailureRow {
  return { code, enhanced, say, session };
}

const table = {
  /** No node of the user's pool can take the user. */
  'no-node': row(451, '4.4.1', 'No mail node can take this mailbox at the moment'),
  /** The hold of a view change ran out, or a fence is pending. */
  held: row(451, '4.4.1', 'This mailbox is changing its node, try again soon'),
  /** Our own lease or store is gone. */
  stale: row(451, '4.4.1', 'This proxy has lost touch with its cluster, try again soon'),
  shutdown: row(451, '4.3.2', 'This proxy is shutting down, try again soon'),
  /** Ended by the client, or because of it; hardly anyone is there to read this. */
  aborted: row(451, '4.4.2', 'Broken off'),
  'node-unreachable': row(451, '4.4.1', 'The mail node cannot be reached at the moment'),
  'node-tls-failed': row(451, '4.4.1', 'The mail node cannot be reached securely at the moment'),
  'node-silent': row(451, '4.4.1', 'The mail node does not answer at the moment'),
  'node-broke-off': row(451, '4.4.2', 'The mail node broke off the connection'),
  /** It answered, but not as the protocol allows, or turned us away before it knew the user (421, BYE). */
  'node-refused': row(451, '4.4.1', 'The mail node takes no work at the moment'),
  'mount-missing': row(451, '4.3.0', 'Mail storage is not available at the moment'),
  'mount-read-only': row(451, '4.3.0', 'Mail storage cannot be written at the moment'),
  /** ENOSPC. Design §5: 451, never 550. */
  'disk-full': row(451, '4.3.1', 'Mail storage is full at the moment'),
  /** EDQUOT of the file system. Design §5: 451. */
  'disk-quota': row(451, '4.2.2', 'Mail storage quota is exhausted at the moment'),
  /** The mailbox's own quota, where we know it. Design §6: 452 by default. */
  'over-quota': row(452, '4.2.2', 'Mailbox is full'),
  'io-error': row(451, '4.3.0', 'Mail storage failed'),
  hung: row(451, '4.3.0', 'Mail storage does not answer at the moment'),
  /** An active Sieve script, or a store that is not plain Maildir or mbox, while its node is away. */
  'not-direct-capable': row(451, '4.4.1', 'The mail node of this mailbox is not available at the moment'),
  /** Neither a node nor an authoritative source vouches for the user now: never queued (no backscatter). */
  'unverified-user': row(451, '4.4.3', 'Recipient cannot be verified at the moment'),
  'not-ours': row(550, '5.7.1', 'Relaying denied', 'refused'),
  'too-many-recipients': row(452, '4.5.3', 'Too many recipients', 'limit'),
  'too-big': row(552, '5.3.4', 'Message is too big', 'limit'),
  'queue-failed': row(451, '4.3.0', 'Message cannot be queued at the moment'),
  /** `multiHome: pin-first`: this recipient's home differs from the first one's. */
  'other-home': row(452, '4.5.3', 'Send this recipient in a transaction of its own', 'limit'),
  'bad-address': row(553, '5.1.3', 'Bad mailbox name', 'refused'),
  /** The link broke between the final dot and the reply (promise 3). */
  'in-doubt': row(451, '4.4.2', 'The mail node broke off after the message was sent'),
  'too-many-connections': row(451, '4.7.0', 'Too many connections', 'limit'),
  'client-timeout': row(451, '4.4.2', 'Timeout', 'limit'),
  /** RFC 5321 §6.3: too many Received lines. */
  'mail-loop': row(554, '5.4.6', 'Too many hops', 'refused'),
  /** Bare CR or LF where the configuration refuses it. */
  'bad-line-ends': row(550, '5.6.0', 'Message has bare CR or LF', 'refused'),
  /** RFC 6531 §3.7.4.2: the route cannot carry a UTF-8 address. */
  'no-utf8-route': row(550, '5.6.7', 'This route carries no UTF-8 address', 'refused'),
  /** A broken invariant met at a floor's edge. Still an outage to the client. */
  internal: row(451, '4.3.0', 'Internal error', 'bug'),
} as const satisfies Readonly<Record<string, FailureRow>>;

export type FailureKind = keyof typeof table;

export const failureKinds = Object.keys(table) as readonly FailureKind[];

export interface Failure {
  readonly kind: FailureKind;
  readonly node?: string | undefined;
  /** Detail for the operator: an errno, a peer's line, the place's why. Raw input is allowed: it is cleaned here. */
  readonly text?: string | undefined;
}

/** RFC 5530, RFC 9051 §7.1. Sent as `NO [code] text`, or `BYE [code] text` before login. */
export interface ImapAnswer {
  readonly code: 'UNAVAILABLE' | 'LIMIT' | 'AUTHENTICATIONFAILED' | 'SERVERBUG';
  readonly text: string;
}

/** RFC 2449 §8, RFC 3206. Sent as `-ERR [code] text`. */
export interface Pop3Answer {
  readonly code: 'SYS/TEMP' | 'AUTH';
  readonly text: string;
}

/** RFC 5804 §1.3. Sent as `NO (code) "text"`, or without the code where it is null. */
export interface SieveAnswer {
  readonly code: 'TRYLATER' | null;
  readonly text: string;
}

/** The answer to SMTP clients: anyone on the net, so neither node nor detail is told. */
export function smtpReply(f: Failure): Reply {
  const { code, enhanced, say } = table[f.kind];
  return { code, enhanced, lines: [say] };
}

/** The answer to LMTP clients: the site's own MTA, whose log is where the operator looks, so node and detail are told. */
export function lmtpReply(f: Failure): Reply {
  const { code, enhanced, say } = table[f.kind];
  const detail = detailOf(f);
  return { code, enhanced, lines: [detail === '' ? say : `${say} (${detail})`] };
}

/** The same failure where it also ends the connection (RFC 5321 §3.8): greeting, idle timeout, shutdown. */
export function closingReply(f: Failure): Reply {
  const { enhanced, say } = table[f.kind];
  return { code: 421, enhanced: `4${enhanced.slice(1)}`, lines: [say] };
}

const refusedText = 'Authentication failed';

export function imapAnswer(f: Failure): ImapAnswer {
  const { session, say } = table[f.kind];
  switch (session) {
    case 'outage':
      return { code: 'UNAVAILABLE', text: say };
    case 'limit':
      return { code: 'LIMIT', text: say };
    case 'refused':
      return { code: 'AUTHENTICATIONFAILED', text: refusedText };
    case 'bug':
      return { code: 'SERVERBUG', text: say };
  }
}

export function pop3Answer(f: Failure): Pop3Answer {
  const { session, say } = table[f.kind];
  return session === 'refused' ? { code: 'AUTH', text: refusedText } : { code: 'SYS/TEMP', text: say };
}

export function sieveAnswer(f: Failure): SieveAnswer {
  const { session, say } = table[f.kind];
  return session === 'refused' ? { code: null, text: refusedText } : { code: 'TRYLATER', text: say };
}

/** One word to grep for: `node-unreachable`. */
export function logWord(f: Failure): FailureKind {
  return f.kind;
}

/** The word with what is known beside it: `node-unreachable mail1: ECONNREFUSED`. Cleaned and bounded. */
export function logText(f: Failure): string {
  const detail = detailOf(f);
  return detail === '' ? f.kind : `${f.kind} ${detail}`;
}

/** True where trying again later may help: exactly the kinds answered with 4xx. */
export function isTransient(f: Failure): boolean {
  return table[f.kind].code < 500;
}

const detailLimitChars = 200;

/** `mail1: text`, either part, or ''. Printable ASCII only: what a peer said reaches the wire through here (promise 7). */
function detailOf(f: Failure): string {
  const parts = [f.node ?? '', f.text ?? ''].filter(part => part !== '');
  return parts
    .join(': ')
    .slice(0, detailLimitChars)
    .replace(/[^ -~]/g, '?')
    .trim();
}
