/**
 * The two lines operators grep: one for each ended session, one for each settled recipient of a message.
 * The field names are a contract (docs/operating.md); never a credential, never a message's content.
 */
import type { CourierName, NodeName, Protocol, User } from '../core/types.ts';
import type { Log } from './log.ts';

export interface SessionLine {
  /** Our session id, also sent to the node where its protocol can carry it. */
  readonly session: string;
  readonly protocol: Protocol;
  /** '' where the client never got so far as to name a user. */
  readonly user: User;
  readonly node: NodeName | null;
  /** Why this node (place), or why none. */
  readonly why: string;
  /** `address:port`. */
  readonly client: string;
  readonly tls: boolean;
  /** From the client, to the client; relayed bytes only. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly seconds: number;
  /** How it ended: `logout`, `client-closed`, `node-closed`, `refused`, `unavailable`, `timeout`, a CloseReason, … */
  readonly end: string;
}

export interface DeliveryLine {
  readonly id: string;
  /** Envelope sender, '' printed as `<>`. */
  readonly from: string;
  readonly to: string;
  readonly user: User;
  readonly courier: CourierName;
  readonly node: NodeName | null;
  readonly outcome: 'delivered' | 'rejected' | 'deferred' | 'in-doubt' | 'queued';
  /** The reply that settled it, in one line. */
  readonly reply: string;
  readonly ms: number;
  readonly bytes: number;
}

export function logSession(log: Log, line: SessionLine): void {
  log.info({ ...line, seconds: Math.round(line.seconds * 1000) / 1000 }, 'session');
}

export function logDelivery(log: Log, line: DeliveryLine): void {
  log.info(
    { ...line, from: line.from === '' ? '<>' : line.from, ms: Math.round(line.ms * 10) / 10 },
    'delivery',
  );
}
