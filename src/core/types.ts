/**
 * The nouns of Homing, as immutable values. Every floor above speaks in these.
 * Pure: no node:*, no clock, no chance. A word has one meaning (docs/hacking.md).
 */
import type { Failure } from './failure.ts';
import type { Reply } from './reply.ts';

export type { Reply };

/** A cluster machine's stable name; its addresses may change, its name is what users are hashed to. */
export type NodeName = string;

/** The canonical mailbox owner, the same for every protocol: the result of `canonicalUser`, never raw input. */
export type User = string;

/** Number of a view. Grows by one a change; jumps to the next multiple of 1000 when a store (re)opens. */
export type Epoch = number;

/** The protocols a node can offer a backend for. */
export const protocols = ['imap', 'pop3', 'sieve', 'lmtp', 'submission'] as const;
export type Protocol = (typeof protocols)[number];

/** What the operator wants of a node. */
export const adminStates = ['ready', 'drain', 'maint'] as const;
export type AdminState = (typeof adminStates)[number];

/** What the evidence says of a node or of one backend. `suspect` never enters the view: it changes nothing by itself. */
export type Health = 'up' | 'suspect' | 'down';

/**
 * What a probe or live traffic saw of a backend. Silence (`greeting-timeout`, `reply-timeout`) is never death by itself (design §3);
 * `explicit-error` is a clear refusal of service: `* BYE`, 421, a failed canary.
 */
export type Evidence =
  | 'ok'
  | 'connect-failed'
  | 'tls-failed'
  | 'greeting-timeout'
  | 'reply-timeout'
  | 'explicit-error';

/** A node as the settings describe it. */
export interface NodeSpec {
  readonly name: NodeName;
  /** IP address or DNS name. */
  readonly address: string;
  /** Relative share of users, 0…1000; 0 takes no user by ranking. */
  readonly weight: number;
  readonly pool: string;
  /** TCP port of each backend the node has. */
  readonly ports: Readonly<Partial<Record<Protocol, number>>>;
}

/** A node as the view describes it: its spec and what operators and evidence say of it. */
export interface ClusterNode extends NodeSpec {
  readonly admin: AdminState;
  readonly health: 'up' | 'down';
  /** The epoch at which it went down; 0 while it is up. A fence confirmation names it. */
  readonly incident: Epoch;
  /** True once the fence confirmed this incident (at once with `fence: none`). Meaningless while up. */
  readonly fenced: boolean;
}

/** Where an override or a map line sends a user. */
export type Target = { readonly node: NodeName } | { readonly pool: string };

/** Where a user belongs, and why. `none`: no node can take the user now. `held`: wait, its node is down and not fenced yet. */
export type Place =
  | { readonly kind: 'home' | 'override' | 'pin'; readonly node: NodeName; readonly why: string }
  /** `homeDown`: the node it stands in for is down; else that node was taken out of service in order (drain, maint, weight 0). */
  | { readonly kind: 'failover'; readonly node: NodeName; readonly why: string; readonly homeDown: boolean }
  | { readonly kind: 'held'; readonly node: NodeName; readonly why: string }
  | { readonly kind: 'none'; readonly why: string };

/** Which way a message was handed over. */
export type CourierName = 'node' | 'direct' | 'queue' | 'exec';

/**
 * What became of one recipient of one message.
 * `in-doubt`: the link broke between the final dot and the reply, so it may or may not have arrived.
 */
export interface Outcome {
  readonly kind: 'delivered' | 'rejected' | 'deferred' | 'in-doubt';
  readonly courier: CourierName;
  /** The node it was handed to, or null (direct, queue). */
  readonly node: NodeName | null;
  /** The node's own words; where `failure` is set, ours: told in full to the site's own MTA only. */
  readonly reply: Reply;
  /** Set where the reply is ours. On a deferred outcome of courier `node`: nothing reached the node, so another courier may try. */
  readonly failure?: Failure;
}

/** One envelope address of a message, resolved to its user. */
export interface Recipient {
  /** Position in the client's RCPT order, from 0; duplicates have positions of their own. */
  readonly index: number;
  /** The address as the client gave it, without angle brackets. */
  readonly address: string;
  readonly user: User;
  /** The `+detail` part, or ''. */
  readonly detail: string;
  /** The Maildir base name fixed at acceptance (design §2.3), without `,S=`/`,W=` and flags. */
  readonly maildirName: string;
}
