/**
 * The member's machine: what one serving process does with the store's replies, the clock and its own progress (barrier.md §3).
 * Sans-io: `step(state, input)` gives the next state and the intents that cluster/cluster.ts carries out. It never reads a clock:
 * each input brings its time on the member's monotonic clock.
 *
 *     out ──joined──→ serving ──proposal seen──→ letting-go ──pins written, ack──→ holding
 *      ↑  └─in grace─→ waiting     ↑  ↑                │ void or replaced             │ commit, void or replaced
 *      │                  └─open───┘  └────────────────┴──────────────────────────────┘
 *      └── lease over, expelled, or the store no longer knows us (from every state)
 *
 * It must never: extend the lease from anything but a renewal's sending; adopt or release in grace; ack before the let-go is done.
 */
import { endBeforeLeaseMs, type Timers } from './timers.ts';
import type { Epoch } from './types.ts';
import type { MapLine } from './user-map.ts';
import type { View, ViewEvent, ViewImage } from './view.ts';
import { apply, type Change, fromImage, type Maps, missingMap, toImage } from './view.ts';

export interface Head {
  readonly run: string;
  readonly state: 'grace' | 'open';
  readonly epoch: Epoch;
}

/** A change of the view that waits for its members. */
export interface Proposal {
  readonly id: string;
  readonly base: Epoch;
  readonly epoch: Epoch;
  readonly urgent: boolean;
  readonly events: readonly ViewEvent[];
}

export interface MemberBeat {
  readonly member: string;
  readonly beat: number;
  /** Of the open proposal. */
  readonly acked: boolean;
}

export interface MapContent {
  readonly digest: string;
  readonly lines: readonly MapLine[];
}

/** How to get from the view one has to the store's. */
export type CatchUp =
  | { readonly kind: 'none' }
  | { readonly kind: 'changes'; readonly changes: readonly Change[] }
  | { readonly kind: 'full'; readonly image: ViewImage; readonly maps: readonly MapContent[] };

/** What the store says of itself in one atomic step. */
export interface Standing {
  readonly head: Head;
  readonly proposal: Proposal | null;
  readonly members: readonly MemberBeat[];
  readonly catchUp: CatchUp;
}

export interface PinTally {
  readonly count: number;
  /** Of the pins, in order: the store compares it with the chunks it has. */
  readonly digest: string;
}

/** A member's beat, and since when (our clock) we have seen it stand still. */
interface Seen {
  readonly beat: number;
  readonly sinceMs: number;
}

export type StateName = 'out' | 'waiting' | 'serving' | 'letting-go' | 'holding';

export interface BarrierState {
  readonly name: StateName;
  readonly member: string;
  readonly view: View | null;
  /** The proposal that is held for, and the view it would make. */
  readonly proposal: Proposal | null;
  readonly next: View | null;
  /** Pins of `proposal`, once they are written. */
  readonly tally: PinTally | null;
  readonly beat: number;
  readonly leaseUntilMs: number;
  readonly renewAtMs: number;
  /** Closing because the lease runs out, or we are out: no join until all is closed. */
  readonly closing: boolean;
  /** Set where we woke after the lease: one renewal may still save all. */
  readonly wokenAtMs: number | null;
  /** In grace: since when we have seen this run. */
  readonly graceSinceMs: number | null;
  readonly seen: ReadonlyMap<string, Seen>;
}

export type Input =
  /** `hinted`: renew now, the store may have news. `jitter`: chance in [0, 1). */
  | { readonly kind: 'tick'; readonly nowMs: number; readonly jitter: number; readonly hinted?: boolean }
  | {
      readonly kind: 'joined' | 'renewed';
      readonly nowMs: number;
      readonly sentAtMs: number;
      readonly standing: Standing;
      readonly maps: Maps;
    }
  /** The store answered, but does not know us; `head` tells whether it began anew. */
  | { readonly kind: 'unknown'; readonly nowMs: number; readonly head: Head }
  | { readonly kind: 'expelled'; readonly nowMs: number }
  /** All users of the proposal are let go and the pins are in the store. */
  | { readonly kind: 'let-go'; readonly nowMs: number; readonly id: string; readonly tally: PinTally }
  /** Nothing is active any more after a `close-all`. */
  | { readonly kind: 'all-closed'; readonly nowMs: number };

export type CloseAllReason = 'lease-lost' | 'unknown' | 'expelled' | 'contradiction';

export type Intent =
  | { readonly kind: 'join' }
  | { readonly kind: 'renew'; readonly beat: number; readonly have: Epoch }
  | { readonly kind: 'restore'; readonly image: ViewImage }
  | { readonly kind: 'open' }
  | { readonly kind: 'fetch-map'; readonly digest: string }
  /** At once, in the same synchronous step; then let go in slices. */
  | { readonly kind: 'hold'; readonly proposal: Proposal; readonly view: View; readonly next: View }
  | { readonly kind: 'ack'; readonly id: string; readonly tally: PinTally }
  | { readonly kind: 'commit'; readonly id: string; readonly lapsed: Readonly<Record<string, number>> }
  | { readonly kind: 'adopt'; readonly view: View }
  /** The proposal is void: holds end, users are placed by the view we have. */
  | { readonly kind: 'release'; readonly id: string }
  /** Close everything, done by `byMs`; then say `all-closed`. */
  | { readonly kind: 'close-all'; readonly why: CloseAllReason; readonly byMs: number }
  /** A renewal came in time: what is not closed yet may stay. */
  | { readonly kind: 'keep' }
  /** The process must end: its lease is over or it was expelled. */
  | { readonly kind: 'end'; readonly why: string };

export interface Step {
  readonly state: BarrierState;
  readonly intents: readonly Intent[];
}

const legal: Readonly<Record<StateName, readonly StateName[]>> = {
  out: ['waiting', 'serving', 'letting-go'],
  waiting: ['serving', 'letting-go', 'out'],
  serving: ['letting-go', 'out'],
  'letting-go': ['holding', 'serving', 'out'],
  holding: ['serving', 'letting-go', 'out'],
};

export function startBarrier(member: string, nowMs: number): BarrierState {
  return {
    name: 'out',
    member,
    view: null,
    proposal: null,
    next: null,
    tally: null,
    beat: 0,
    leaseUntilMs: Number.NEGATIVE_INFINITY,
    renewAtMs: nowMs,
    closing: false,
    wokenAtMs: null,
    graceSinceMs: null,
    seen: new Map(),
  };
}

/** May a user be admitted at all, as far as lease and grace go. */
export function mayAdmit(state: BarrierState, nowMs: number): boolean {
  if (state.name === 'out' || state.name === 'waiting' || state.view === null) return false;
  return !state.closing && nowMs < state.leaseUntilMs;
}

/** When the next `tick` must come. */
export function dueAtMs(state: BarrierState, timers: Timers): number {
  if (state.name === 'out') return state.renewAtMs;
  if (state.wokenAtMs !== null) return Math.min(state.renewAtMs, wokenEndMs(state.wokenAtMs, timers));
  const closeAtMs = state.leaseUntilMs - (state.closing ? endBeforeLeaseMs : timers.closeMs);
  return Math.min(state.renewAtMs, closeAtMs);
}

export function step(state: BarrierState, input: Input, timers: Timers): Step {
  const next = react(state, input, timers);
  const from = state.name;
  const to = next.state.name;
  if (from !== to && !legal[from].includes(to)) throw new Error(`barrier: no way from ${from} to ${to}`);
  return next;
}

function react(state: BarrierState, input: Input, timers: Timers): Step {
  switch (input.kind) {
    case 'tick':
      return tick(state, input, timers);
    case 'joined':
      return joined(state, input, timers);
    case 'renewed':
      return renewed(state, input, timers);
    case 'unknown':
      return unknown(state, input.nowMs, input.head);
    case 'expelled': {
      const out = leaveAll(state, 'expelled', input.nowMs);
      const end: Intent = { kind: 'end', why: 'this member was expelled' };
      return { state: out.state, intents: [...out.intents, end] };
    }
    case 'let-go':
      return letGoDone(state, input.id, input.tally);
    case 'all-closed':
      return { state: state.name === 'out' ? { ...state, closing: false } : state, intents: [] };
  }
}

function tick(state: BarrierState, input: Input & { kind: 'tick' }, timers: Timers): Step {
  const { nowMs, jitter } = input;
  const lease = state.name === 'out' ? { state, intents: [] } : watchLease(state, nowMs, timers);
  const hinted = input.hinted === true && state.name !== 'out';
  if (nowMs < lease.state.renewAtMs && !hinted) return lease;
  // R ± 10 %, so that members do not renew in step.
  const renewAtMs = nowMs + timers.renewMs * (0.9 + 0.2 * jitter);
  const due = { ...lease.state, renewAtMs };
  if (due.name === 'out')
    return due.closing
      ? { state: due, intents: lease.intents }
      : { state: due, intents: [...lease.intents, { kind: 'join' }] };
  const beat = due.beat + 1;
  const renew: Intent = { kind: 'renew', beat, have: due.view?.epoch ?? 0 };
  return { state: { ...due, beat }, intents: [...lease.intents, renew] };
}

function watchLease(state: BarrierState, nowMs: number, timers: Timers): Step {
  const endAtMs = state.leaseUntilMs - endBeforeLeaseMs;
  if (state.wokenAtMs !== null) {
    if (nowMs < wokenEndMs(state.wokenAtMs, timers)) return { state, intents: [] };
    return leaseOver(state, nowMs);
  }
  if (nowMs >= endAtMs) {
    if (state.closing) return leaseOver(state, nowMs);
    // We slept through the time of closing. Nothing is relayed (each read looks at the lease); ask before closing (§5).
    return { state: { ...state, wokenAtMs: nowMs, renewAtMs: nowMs }, intents: [] };
  }
  if (state.closing || nowMs < state.leaseUntilMs - timers.closeMs) return { state, intents: [] };
  return {
    state: { ...state, closing: true },
    intents: [{ kind: 'close-all', why: 'lease-lost', byMs: endAtMs }],
  };
}

function wokenEndMs(wokenAtMs: number, timers: Timers): number {
  return wokenAtMs + 2 * timers.commandTimeoutMs;
}

function leaseOver(state: BarrierState, nowMs: number): Step {
  const out = leaveAll(state, 'lease-lost', nowMs);
  const end: Intent = { kind: 'end', why: 'the lease is over: the store was not reached in time' };
  return { state: out.state, intents: [...out.intents, end] };
}

/** From any state to out; `by` now means: at once, whatever still runs is cut. */
function leaveAll(state: BarrierState, why: CloseAllReason, nowMs: number): Step {
  const out: BarrierState = {
    ...state,
    ...noProposal,
    name: 'out',
    closing: true,
    wokenAtMs: null,
    graceSinceMs: null,
    leaseUntilMs: Number.NEGATIVE_INFINITY,
    seen: new Map(),
  };
  return { state: out, intents: [{ kind: 'close-all', why, byMs: nowMs }] };
}

const noProposal = { proposal: null, next: null, tally: null } as const;

function joined(state: BarrierState, input: Input & { kind: 'joined' | 'renewed' }, timers: Timers): Step {
  const { nowMs, sentAtMs, standing, maps } = input;
  if (nowMs >= sentAtMs + timers.leaseMs) return { state, intents: [] };
  // A second join of a member that arrived in grace is a renewal.
  if (state.name !== 'out') return renewed(state, input, timers);
  if (state.closing) return { state, intents: [] };
  const view = followView(state.view, standing.catchUp, maps);
  if (view === null || view.epoch !== standing.head.epoch) return { state, intents: [] };
  const inGrace = standing.head.state === 'grace';
  const grace = inGrace ? { graceSinceMs: nowMs } : { graceSinceMs: null };
  const lease = { leaseUntilMs: sentAtMs + timers.leaseMs, closing: false, wokenAtMs: null };
  // In grace the one with the higher view restores it; nobody is admitted until the store opens.
  const higher = inGrace && state.view !== null && state.view.epoch > view.epoch ? state.view : null;
  const kept = higher ?? view;
  const serving: BarrierState = {
    ...state,
    ...noProposal,
    ...lease,
    ...grace,
    name: inGrace ? 'waiting' : 'serving',
    view: kept,
    seen: observe(state.seen, standing.members, nowMs),
  };
  const restore: Intent[] = higher === null ? [] : [{ kind: 'restore', image: toImage(higher) }];
  const adopted: Intent[] = [...restore, { kind: 'adopt', view: kept }];
  if (inGrace) return { state: serving, intents: adopted };
  return chain(serving, adopted, each => followProposal(each, standing, maps));
}

function renewed(state: BarrierState, input: Input & { kind: 'joined' | 'renewed' }, timers: Timers): Step {
  const { nowMs, sentAtMs, standing, maps } = input;
  const { head } = standing;
  if (state.name === 'out' || state.view === null) return { state, intents: [] };
  // From the sending, never the reply; a reply that comes after its own lease says nothing.
  if (nowMs >= sentAtMs + timers.leaseMs) return { state, intents: [] };
  const leaseUntilMs = Math.max(state.leaseUntilMs, sentAtMs + timers.leaseMs);
  const leased: BarrierState = {
    ...state,
    leaseUntilMs,
    closing: false,
    wokenAtMs: null,
    seen: observe(state.seen, standing.members, nowMs),
  };
  const keep: Intent[] = state.closing ? [{ kind: 'keep' }] : [];
  if (head.state === 'grace') return inGrace(leased, keep, nowMs, head, timers);
  return chain(leased, keep, each => {
    const adopted = catchUp(each, standing, maps, nowMs);
    if (adopted.state.name === 'out') return adopted;
    return chain(adopted.state, adopted.intents, then =>
      chain(
        then,
        [],
        last => followProposal(last, standing, maps),
        last => followAcks(last, standing, nowMs, timers),
      ),
    );
  });
}

/** Nothing is adopted, nothing released: a member may have acted on a commit that the store forgot (§7). */
function inGrace(
  state: BarrierState,
  before: readonly Intent[],
  nowMs: number,
  head: Head,
  timers: Timers,
): Step {
  const graceSinceMs = state.graceSinceMs ?? nowMs;
  const kept = { ...state, graceSinceMs };
  const intents = [...before];
  if (state.view !== null && state.view.epoch > head.epoch)
    intents.push({ kind: 'restore', image: toImage(state.view) });
  else if (nowMs - graceSinceMs >= timers.graceMs) intents.push({ kind: 'open' });
  return { state: kept, intents };
}

function catchUp(before: BarrierState, standing: Standing, maps: Maps, nowMs: number): Step {
  const mine = before.view;
  const state = { ...before, graceSinceMs: null };
  const wasInGrace = before.graceSinceMs !== null;
  if (mine === null || standing.catchUp.kind === 'none' || standing.head.epoch <= mine.epoch)
    return openFromWaiting(state, standing);
  // What was committed without our ack may contradict our sessions. Only `open` makes a view by itself.
  const acked = state.name === 'holding' ? state.proposal?.id : undefined;
  const known =
    standing.catchUp.kind === 'full'
      ? wasInGrace
      : standing.catchUp.changes.every(each => each.id === acked || each.id === openChangeId);
  if (!known && state.name !== 'waiting') return leaveAll(state, 'contradiction', nowMs);
  const caught = followView(mine, standing.catchUp, maps);
  if (caught === null) return { state, intents: [] };
  const view: View = { ...caught, run: standing.head.run };
  const serving: BarrierState = { ...state, ...noProposal, name: 'serving', view };
  return { state: serving, intents: [{ kind: 'adopt', view }] };
}

function openFromWaiting(state: BarrierState, standing: Standing): Step {
  if (state.name !== 'waiting' || state.view === null || standing.head.epoch !== state.view.epoch)
    return { state, intents: [] };
  return { state: { ...state, name: 'serving' }, intents: [{ kind: 'adopt', view: state.view }] };
}

/** The id under which `open` appears among the changes. */
export const openChangeId = 'open';

function followProposal(state: BarrierState, standing: Standing, maps: Maps): Step {
  const { proposal } = standing;
  if (state.view === null || state.name === 'waiting' || standing.head.epoch !== state.view.epoch)
    return { state, intents: [] };
  const mine = state.proposal;
  if (proposal !== null && proposal.id === mine?.id) return { state, intents: [] };
  const missing = proposal === null ? null : missingMap(proposal.events, maps);
  // Without the map's content we cannot know who is concerned. Not seen yet is safe: nothing commits without our ack.
  const release: Intent[] = mine === null ? [] : [{ kind: 'release', id: mine.id }];
  const serving: BarrierState = { ...state, ...noProposal, name: 'serving' };
  if (proposal === null) return { state: serving, intents: release };
  if (missing !== null)
    return { state: serving, intents: [...release, { kind: 'fetch-map', digest: missing }] };
  const view = state.view;
  const all: Maps = new Map([...maps, [view.map.digest, view.map]]);
  const next = apply(view, proposal.events, proposal.epoch, all);
  const held: BarrierState = { ...serving, name: 'letting-go', proposal, next };
  return { state: held, intents: [...release, { kind: 'hold', proposal, view, next }] };
}

/** Our ack again where it did not arrive; the commit where all have acked or lapsed. The store checks both once more. */
function followAcks(state: BarrierState, standing: Standing, nowMs: number, timers: Timers): Step {
  const { proposal, tally } = state;
  if (
    state.name !== 'holding' ||
    proposal === null ||
    tally === null ||
    standing.proposal?.id !== proposal.id
  )
    return { state, intents: [] };
  const self = standing.members.find(each => each.member === state.member);
  if (self?.acked !== true) return { state, intents: [{ kind: 'ack', id: proposal.id, tally }] };
  const lapsed: Record<string, number> = {};
  for (const { member, beat, acked } of standing.members) {
    if (acked) continue;
    const seen = state.seen.get(member);
    if (seen === undefined || nowMs - seen.sinceMs < timers.lapseMs) return { state, intents: [] };
    lapsed[member] = beat;
  }
  return { state, intents: [{ kind: 'commit', id: proposal.id, lapsed }] };
}

function letGoDone(state: BarrierState, id: string, tally: PinTally): Step {
  if (state.name !== 'letting-go' || state.proposal?.id !== id) return { state, intents: [] };
  return { state: { ...state, name: 'holding', tally }, intents: [{ kind: 'ack', id, tally }] };
}

/** The store does not know us: it began anew (then we come back with all we have), or others went on without us. */
function unknown(state: BarrierState, nowMs: number, head: Head): Step {
  if (state.name === 'out') return { state, intents: [] };
  if (head.state === 'grace' && nowMs < state.leaseUntilMs)
    return { state: { ...state, graceSinceMs: state.graceSinceMs ?? nowMs }, intents: [{ kind: 'join' }] };
  return leaveAll(state, 'unknown', nowMs);
}

/** Since when each beat stands still, from the reception of the reply that first showed it. */
function observe(
  seen: ReadonlyMap<string, Seen>,
  members: readonly MemberBeat[],
  nowMs: number,
): ReadonlyMap<string, Seen> {
  const next = new Map<string, Seen>();
  for (const { member, beat } of members) {
    const before = seen.get(member);
    next.set(member, before !== undefined && before.beat === beat ? before : { beat, sinceMs: nowMs });
  }
  return next;
}

/** The store's view, from the one we have; null where map content is missing. */
export function followView(mine: View | null, catchUp: CatchUp, maps: Maps): View | null {
  switch (catchUp.kind) {
    case 'none':
      return mine;
    case 'full':
      return fromImage(catchUp.image, maps);
    case 'changes': {
      if (mine === null) return null;
      const all: Maps = new Map([...maps, [mine.map.digest, mine.map]]);
      let view = mine;
      for (const each of catchUp.changes) {
        if (missingMap(each.events, all) !== null) return null;
        view = apply(view, each.events, each.epoch, all);
      }
      return view;
    }
  }
}

function chain(
  state: BarrierState,
  intents: readonly Intent[],
  ...parts: readonly ((state: BarrierState) => Step)[]
): Step {
  let at: Step = { state, intents };
  for (const part of parts) {
    const next = part(at.state);
    at = { state: next.state, intents: [...at.intents, ...next.intents] };
  }
  return at;
}
