/**
 * The seam between a message and the ways it can be handed over.
 * A courier takes one letter for some recipients and answers one outcome each; it never throws, and it ends by `deadlineAtMs`.
 */
import type { Readable } from 'node:stream';
import type { ClusterNode, CourierName, Outcome, Recipient } from '../core/types.ts';

/** A message's body at rest: CRLF line ends only, no dot-stuffing, ends with CRLF. In memory while small, else a file. */
export interface Body {
  /** Size in bytes, CRLF counted. */
  readonly bytes: number;
  /** A fresh reader from the first byte; may be called many times, also at once. */
  open(): Readable;
  /** The whole body where it is in memory, else null. */
  readonly memory: Buffer | null;
  /** Frees memory or the file. Idempotent. */
  dispose(): Promise<void>;
}

/** A message on its way: envelope sender, body, and what is the same for all its recipients. */
export interface Letter {
  /** Our queue id: `[0-9A-Za-z]+`, unique in the cluster, in every log line and in Received. */
  readonly id: string;
  /** Envelope sender without angle brackets; '' is the null sender. */
  readonly from: string;
  readonly body: Body;
  readonly eightBit: boolean;
  readonly smtpUtf8: boolean;
  /** When it was accepted, Unix ms. */
  readonly acceptedAtMs: number;
}

/**
 * The barrier's hold on an errand under way (barrier.md §3). `unless-sent`: give up if nothing was sent to the node yet.
 * `now`: break off at once, in doubt where the final dot was sent. `onPull` is set by whoever waits, and called when `pull` grows.
 */
export interface Leash {
  pull: 'none' | 'unless-sent' | 'now';
  onPull: (() => void) | null;
}

export interface Errand {
  readonly letter: Letter;
  readonly recipients: readonly Recipient[];
  /** The node the recipients' place names; null for couriers that need none. */
  readonly node: ClusterNode | null;
  /** On the monotonic clock (`performance.now()`), ms. */
  readonly deadlineAtMs: number;
  /** How the barrier pulls at an errand to a node; other couriers need not look. */
  readonly leash?: Leash;
}

export interface Courier {
  readonly name: CourierName;
  /** One outcome per recipient, in the same order. */
  carry(errand: Errand): Promise<readonly Outcome[]>;
}
