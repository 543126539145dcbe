/**
 * What sessions and deliveries see of the cluster: ask to be admitted, hold an entry while active, let go when told.
 * The entry is registered in the same synchronous step that places the user (barrier.md §3), so there is no instant at which
 * work goes on at a node without the barrier knowing. Nothing may be sent to a node without a live entry.
 */
import type { ClusterNode, Evidence, Place, Protocol, User } from '../core/types.ts';

/** Why an entry's holder must close: printed in logs, and before login sent to the client in its protocol's form. */
export type CloseReason =
  | 'node-down'
  | 'node-maint'
  | 'moved'
  | 'kicked'
  | 'pin-deadline'
  | 'lease-lost'
  | 'shutdown';

export interface AdmissionWish {
  readonly user: User;
  readonly activity: 'session' | 'delivery';
  readonly protocol: Protocol;
  /** Client address for listings, e.g. `192.0.2.1:4711`; '' where there is none. */
  readonly client: string;
  /**
   * Called at most once, when the barrier wants this entry gone; never from within `admit`.
   * Sessions: close both sides, then `release`. Deliveries past DATA: finish or break off within `settleMs`, then `release`.
   */
  readonly onClose: (reason: CloseReason) => void;
  /**
   * Called at most once, after `onClose`: the time to let go is over and the entry is gone. What is still open to the node must be reset
   * before this returns, because the change of the view goes on without another wait.
   */
  readonly onCut?: () => void;
  /** Ends the wait early (the client went away). */
  readonly signal?: AbortSignal;
}

/** A registered activity of a user on a node. */
export interface Entry {
  readonly user: User;
  readonly node: ClusterNode;
  readonly place: Place;
  /** False once the entry is gone or marked for closing: checked after login and after every await. */
  isLive(): boolean;
  /** The holder is done. `nodeEnded`: the node's own FIN or RST was seen, so quiet is certain. Idempotent. */
  release(options?: { readonly nodeEnded: boolean }): void;
}

export type Admission =
  | { readonly ok: true; readonly entry: Entry }
  /**
   * `none`: no node can take the user. `held`: the hold ran out (design §4) or the fence is pending. `stale`: our own lease or store is
   * gone. `shutdown`: draining. `aborted`: by the wish's signal. All are outages, never a refusal of the user (promise 6).
   */
  | {
      readonly ok: false;
      readonly reason: 'none' | 'held' | 'stale' | 'shutdown' | 'aborted';
      readonly why: string;
      readonly place: Place;
    };

export type { Evidence };

export interface Admitting {
  /** Waits at most `failover.hold`; resolves always, never rejects. */
  admit(wish: AdmissionWish): Promise<Admission>;
  /** A guess without registering: for RCPT time and `explain`. Nothing may be sent on the strength of it but RCPT checks. */
  peek(user: User): Place;
  node(name: string): ClusterNode | null;
  /** What a session or courier saw of a backend. Cheap: call it on every connect. */
  report(node: string, protocol: Protocol, evidence: Evidence): void;
}
