/**
 * The contract of the stores that hold view, members and proposals (barrier.md §2): `embedded` now, `redis` for several machines.
 * Each method is one atomic script. Arguments and results are plain data that survive JSON, so that a channel can stand between.
 * What can fail is a value; `unreachable` means it may have run all the same, so every script is idempotent and fenced by run,
 * epoch and proposal id. No method may ever act on a clock of the store.
 */
import type { CatchUp, Head, MapContent, PinTally, Proposal, Standing } from '../core/barrier.ts';
import type { PinKey } from '../core/pins.ts';
import type { Epoch, NodeName, User } from '../core/types.ts';
import type { ViewEvent, ViewImage } from '../core/view.ts';

export type { CatchUp, Head, MapContent, PinTally, Proposal, Standing };

/** One serving process. */
export interface MemberIdentity {
  readonly member: string;
  readonly machine: string;
  /** The machine's boot: with the pid it names a process for ever. */
  readonly boot: string;
  readonly pid: number;
}

export type Refused<Why extends string> = {
  readonly ok: false;
  readonly why: Why | 'unreachable';
  /** The store's head where it answered, so that a new run is noticed. */
  readonly head?: Head;
  /** For people: which member, which node, which file. */
  readonly detail?: string;
};
export type Done = { readonly ok: true };

export type RenewReply = ({ readonly ok: true } & Standing) | Refused<'unknown' | 'expelled'>;
export type JoinReply = ({ readonly ok: true } & Standing) | Refused<'expelled'>;
export type LookReply = ({ readonly ok: true } & Standing) | Refused<never>;
export type RestoreReply = Done | Refused<'not-in-grace' | 'not-higher' | 'not-kept'>;
export type OpenReply = { readonly ok: true; readonly head: Head } | Refused<'not-kept'>;
export type ProposeReply =
  | { readonly ok: true; readonly epoch: Epoch }
  | Refused<
      /** `mixed`: urgent with planned events, or marked as what they are not. `no-map`: the content must be there first. */
      | 'not-open'
      | 'stale-base'
      | 'one-open'
      | 'node-unfenced'
      | 'member-absent'
      | 'mixed'
      | 'no-map'
      | 'used-id'
    >;
export type AckReply = Done | Refused<'not-this-proposal' | 'unknown' | 'pins-differ'>;
export type CommitReply =
  | { readonly ok: true; readonly epoch: Epoch }
  /** `not-all`: somebody has neither acked nor lapsed with this beat. `not-kept`: the journal would not take it. */
  | Refused<'not-this-proposal' | 'not-all' | 'lapsed-under-serve' | 'not-kept'>;
export type WithdrawReply = Done | Refused<'not-this-proposal' | 'not-serve' | 'urgent' | 'none-lapsed'>;
export type ClaimReply = { readonly ok: true; readonly node: NodeName } | Refused<'unknown'>;
export type PutMapReply = Done | Refused<'not-kept' | 'too-many'>;
export type MapReply = ({ readonly ok: true } & MapContent) | Refused<'no-map'>;

/** What became of a proposal. `void` also for one that is too long ago. */
export type FateReply =
  | { readonly ok: true; readonly fate: 'open'; readonly unacked: readonly string[] }
  | { readonly ok: true; readonly fate: 'committed'; readonly epoch: Epoch }
  | { readonly ok: true; readonly fate: 'void' }
  | Refused<never>;

export interface PinChunk {
  readonly node: NodeName;
  /** At most 1000. */
  readonly keys: readonly PinKey[];
}
export const pinsPerChunk = 1000;

/** All pins of some chunks, unsorted. */
export function pinsByNode(chunks: readonly PinChunk[]): Map<NodeName, number[]> {
  const byNode = new Map<NodeName, number[]>();
  for (const { node, keys } of chunks) {
    const all = byNode.get(node) ?? [];
    for (const key of keys) all.push(key);
    byNode.set(node, all);
  }
  return byNode;
}

/** Which pins a member has in use: index ranges by set; and users whose `until idle` override is in use. */
export interface BusyReport {
  readonly epoch: Epoch;
  readonly sets: readonly { readonly set: string; readonly ranges: readonly number[] }[];
  readonly users: readonly User[];
}

/** What no member has in use; null while a member has not reported for this view. */
export interface IdleReply {
  readonly ok: true;
  readonly idle: {
    readonly epoch: Epoch;
    readonly sets: readonly { readonly set: string; readonly ranges: readonly number[] }[];
    readonly users: readonly User[];
  } | null;
}

export interface Store {
  /** Stores the beat. `have`: the epoch of the member's view, for the catch-up. */
  renew(member: string, beat: number, have: Epoch): Promise<RenewReply>;
  /** `dead`: members of the same machine that are certainly dead. The reply has the view in full, and the proposal. */
  join(identity: MemberIdentity, dead: readonly string[]): Promise<JoinReply>;
  /** The same as `renew` tells, for those who are no member. */
  look(have: Epoch): Promise<LookReply>;
  restore(image: ViewImage, maps: readonly MapContent[]): Promise<RestoreReply>;
  open(): Promise<OpenReply>;
  propose(proposal: {
    readonly id: string;
    readonly base: Epoch;
    readonly urgent: boolean;
    readonly events: readonly ViewEvent[];
  }): Promise<ProposeReply>;
  /** Appends pins to the proposal's; before `ack`. A chunk sent twice is one chunk: `index` counts from 0 for each member. */
  addPins(id: string, member: string, index: number, chunk: PinChunk): Promise<AckReply>;
  ack(id: string, member: string, tally: PinTally): Promise<AckReply>;
  commit(id: string, lapsed: Readonly<Record<string, number>>): Promise<CommitReply>;
  withdraw(id: string, lapsed: Readonly<Record<string, number>>): Promise<WithdrawReply>;
  fate(id: string): Promise<FateReply>;
  leave(member: string): Promise<Done | Refused<never>>;
  /** Its parent saw it end, or an operator says so. */
  gone(member: string): Promise<Done | Refused<never>>;
  /** Its renewals are refused from now on; it stays a member until it is gone or lapsed. */
  expel(member: string): Promise<Done | Refused<never>>;
  /** Set if absent; the first claim wins and is answered to all. */
  claim(user: User, node: NodeName, member: string): Promise<ClaimReply>;
  unclaim(user: User, member: string): Promise<Done | Refused<never>>;
  putMap(content: MapContent): Promise<PutMapReply>;
  map(digest: string): Promise<MapReply>;
  busy(member: string, report: BusyReport): Promise<Done | Refused<'unknown'>>;
  idle(): Promise<IdleReply | Refused<never>>;
  /** A hint that something may have changed. May be lost, late or doubled: nothing depends on it. Answers how to stop. */
  onHint(listener: () => void): () => void;
}
