/**
 * The store of one machine: its scripts are synchronous functions in the parent process (barrier.md §10), so each is atomic.
 * Every commit is in the journal, with fsync, before anybody is told. A parent that starts has first killed the children recorded by
 * the one before it: nobody is left, so there is no grace, and `open` jumps the epoch: no number is ever given twice.
 * Must never tell a view that is not on disk, and never let a member out of `members` while it may still act.
 */
import {
  type CatchUp,
  type Head,
  type MapContent,
  openChangeId,
  type Proposal,
  type Standing,
} from '../core/barrier.ts';
import { isMixed, isUrgent } from '../core/change.ts';
import { type PackedPinSet, packKeys, sortKeys, tallyPins } from '../core/pins.ts';
import type { Epoch, NodeName, User } from '../core/types.ts';
import { buildMap, type UserMap } from '../core/user-map.ts';
import {
  apply,
  type Change,
  fromImage,
  missingMap,
  toImage,
  unfencedNodes,
  type View,
  type ViewEvent,
  type ViewImage,
  type ViewRules,
} from '../core/view.ts';
import { idleIn } from './idle-pins.ts';
import type { Journal } from './journal.ts';
import type { BusyReport, MemberIdentity, PinChunk, Refused, Store } from './store.ts';
import { pinsByNode, pinsPerChunk } from './store.ts';
import { type JournalRecord, replay, withRules } from './view-replay.ts';

export interface EmbeddedOptions {
  readonly journal: Journal;
  /** As the journal gave them. */
  readonly records: readonly unknown[];
  readonly rules: ViewRules;
  /** A name for this start, never used before: the store's run. */
  readonly run: string;
  /** Leaves the store in grace, as a Redis that began anew: for the contract's tests. */
  readonly grace?: boolean;
}

export interface EmbeddedStore extends Store {
  /** For the process that holds it: what was committed last. */
  view(): View;
  close(): void;
}

export type OpenedStore =
  | { readonly ok: true; readonly store: EmbeddedStore }
  | { readonly ok: false; readonly why: string };

interface Member {
  readonly identity: MemberIdentity;
  beat: number;
  busy: BusyReport | null;
}

interface OpenProposal {
  readonly proposal: Proposal;
  readonly acks: Map<string, { readonly count: number; readonly digest: string }>;
  /** Member → its chunks in order. */
  readonly chunks: Map<string, PinChunk[]>;
}

/** Members that are further behind get the whole view. */
const changesKept = 64;
const mapsKept = 8;
/** A journal smaller than this is not worth compacting. */
const compactBytes = 1024 * 1024;

export function openEmbeddedStore(options: EmbeddedOptions): OpenedStore {
  const replayed = replay(options.records, options.rules, options.run);
  if (!replayed.ok) return replayed;
  const scripts = new Scripts(options, replayed.view, replayed.contents);
  if (options.grace !== true) {
    const opened = scripts.open();
    if (!opened.ok) return { ok: false, why: opened.detail ?? opened.why };
  }
  return { ok: true, store: asStore(scripts) };
}

class Scripts {
  view: View;
  private state: Head['state'] = 'grace';
  private open_: OpenProposal | null = null;
  private readonly run: string;
  private readonly journal: Journal;
  private readonly contents: Map<string, MapContent>;
  private readonly maps = new Map<string, UserMap>();
  private readonly members = new Map<string, Member>();
  private readonly expelled = new Set<string>();
  private readonly absent = new Set<string>();
  private readonly claims = new Map<User, { readonly node: NodeName; readonly members: Set<string> }>();
  private readonly listeners = new Set<() => void>();
  private changes: Change[] = [];
  private snapshotBytes = 0;

  constructor({ journal, run, rules }: EmbeddedOptions, view: View, contents: Map<string, MapContent>) {
    this.journal = journal;
    this.run = run;
    this.contents = contents;
    // Nobody is active, so other rules contradict nothing now.
    this.view = withRules(view, rules);
    for (const content of contents.values())
      this.maps.set(content.digest, buildMap(content.lines, content.digest));
  }

  head(): Head {
    return { run: this.run, state: this.state, epoch: this.view.epoch };
  }

  private refuse<Why extends string>(why: Why, detail?: string): Refused<Why> {
    return { ok: false, why, head: this.head(), ...(detail === undefined ? {} : { detail }) };
  }

  private standing(catchUp: CatchUp): { readonly ok: true } & Standing {
    const acks = this.open_?.acks;
    const members = [...this.members].map(([member, { beat }]) => ({
      member,
      beat,
      acked: acks?.has(member) ?? false,
    }));
    return { ok: true, head: this.head(), proposal: this.open_?.proposal ?? null, members, catchUp };
  }

  private catchUp(have: Epoch): CatchUp {
    if (have === this.view.epoch) return { kind: 'none' };
    const first = this.changes.findIndex(change => change.epoch > have);
    // Only a chain that starts at the very view the member has: epochs jump at `open`.
    const linked = first > 0 ? this.changes[first - 1]?.epoch === have : false;
    if (linked) return { kind: 'changes', changes: this.changes.slice(first) };
    return this.full();
  }

  private full(): CatchUp {
    const content = this.contents.get(this.view.map.digest);
    const maps = new Map(content === undefined ? [] : [[content.digest, content]]);
    for (const event of this.open_?.proposal.events ?? []) {
      const proposed = event.kind === 'map' ? this.contents.get(event.digest) : undefined;
      if (proposed !== undefined) maps.set(proposed.digest, proposed);
    }
    return { kind: 'full', image: toImage(this.view), maps: [...maps.values()] };
  }

  renew(member: string, beat: number, have: Epoch) {
    const known = this.members.get(member);
    if (this.expelled.has(member)) return this.refuse('expelled');
    if (known === undefined) return this.refuse('unknown');
    known.beat = beat;
    this.absent.delete(member);
    return this.standing(this.catchUp(have));
  }

  join(identity: MemberIdentity, dead: readonly string[]) {
    if (this.expelled.has(identity.member)) return this.refuse('expelled');
    for (const each of dead)
      if (each !== identity.member && this.members.get(each)?.identity.machine === identity.machine)
        this.drop(each);
    this.members.set(identity.member, { identity, beat: 0, busy: null });
    this.absent.delete(identity.member);
    this.open_?.acks.delete(identity.member);
    this.open_?.chunks.delete(identity.member);
    this.hint();
    return this.standing(this.full());
  }

  look(have: Epoch) {
    return this.standing(this.catchUp(have));
  }

  restore(image: ViewImage, maps: readonly MapContent[]) {
    if (this.state !== 'grace') return this.refuse('not-in-grace');
    if (image.epoch <= this.view.epoch) return this.refuse('not-higher');
    for (const content of maps) this.learn(content);
    const view = fromImage(image, this.maps);
    if (view === null) return this.refuse('not-kept', `the content of map ${image.mapDigest} is missing`);
    const kept = this.journal.rewrite([this.snapshot(view)]);
    if (!kept.ok) return this.refuse('not-kept', kept.why);
    this.view = view;
    this.changes = [];
    return { ok: true } as const;
  }

  open() {
    if (this.state === 'open') return { ok: true, head: this.head() } as const;
    const epoch = (Math.floor(this.view.epoch / 1000) + 1) * 1000;
    const view = { ...this.view, epoch, run: this.run };
    // Written anew: what stood there is one view now, and the rules may have changed.
    const kept = this.journal.rewrite([this.snapshot(view)]);
    if (!kept.ok) return this.refuse('not-kept', kept.why);
    this.snapshotBytes = this.journal.bytes;
    // No way leads here from a view of before: everybody gets it in full.
    this.changes = [{ id: openChangeId, epoch, events: [] }];
    this.view = view;
    this.state = 'open';
    this.open_ = null;
    this.hint();
    return { ok: true, head: this.head() } as const;
  }

  propose(wish: {
    readonly id: string;
    readonly base: Epoch;
    readonly urgent: boolean;
    readonly events: readonly ViewEvent[];
  }) {
    const { id, base, urgent, events } = wish;
    const epoch = base + 1;
    if (this.state !== 'open') return this.refuse('not-open');
    // The same command again, after a reply that got lost.
    if (this.open_?.proposal.id === id) return { ok: true, epoch } as const;
    if (this.changes.some(change => change.id === id)) return this.refuse('used-id');
    if (base !== this.view.epoch) return this.refuse('stale-base');
    const foreign = events.some(event => event.kind === 'pins-added');
    if (foreign || isMixed(events) || isUrgent(events) !== urgent) return this.refuse('mixed');
    const missing = missingMap(events, this.maps);
    if (missing !== null) return this.refuse('no-map', missing);
    if (this.open_ !== null && !(urgent && !this.open_.proposal.urgent)) return this.refuse('one-open');
    if (!urgent) {
      const waiting = this.plannedMustWait(events);
      if (waiting !== null) return waiting;
    }
    const proposal: Proposal = { id, base, epoch, urgent, events };
    this.open_ = { proposal, acks: new Map(), chunks: new Map() };
    this.hint();
    return { ok: true, epoch } as const;
  }

  /** While a node may still write, nobody may be placed past it; only its own return may pass (barrier.md §6). */
  private plannedMustWait(events: readonly ViewEvent[]) {
    const unfenced = unfencedNodes(this.view);
    const returns = events.every(event => event.kind === 'node-up' && unfenced.includes(event.node));
    if (unfenced.length > 0 && !returns) return this.refuse('node-unfenced', unfenced.join(', '));
    if (this.view.onLoss === 'serve' && this.absent.size > 0)
      return this.refuse('member-absent', [...this.absent].join(', '));
    return null;
  }

  private proposed(id: string): OpenProposal | null {
    return this.open_?.proposal.id === id ? this.open_ : null;
  }

  addPins(id: string, member: string, index: number, chunk: PinChunk) {
    const open = this.proposed(id);
    if (open === null) return this.refuse('not-this-proposal');
    if (!this.members.has(member)) return this.refuse('unknown');
    const chunks = open.chunks.get(member) ?? [];
    // Never replaced, never with a gap.
    if (index > chunks.length || chunk.keys.length > pinsPerChunk) return this.refuse('pins-differ');
    if (index === chunks.length) chunks.push(chunk);
    open.chunks.set(member, chunks);
    return { ok: true } as const;
  }

  ack(id: string, member: string, tally: { readonly count: number; readonly digest: string }) {
    const open = this.proposed(id);
    if (open === null) return this.refuse('not-this-proposal');
    if (!this.members.has(member)) return this.refuse('unknown');
    const have = tallyPins(pinsByNode(open.chunks.get(member) ?? []));
    if (have.count !== tally.count || have.digest !== tally.digest) return this.refuse('pins-differ');
    open.acks.set(member, tally);
    this.hint();
    return { ok: true } as const;
  }

  commit(id: string, lapsed: Readonly<Record<string, number>>) {
    const open = this.proposed(id);
    if (open === null) return this.refuse('not-this-proposal');
    const over: string[] = [];
    for (const [member, { beat }] of this.members) {
      if (open.acks.has(member)) continue;
      if (lapsed[member] !== beat) return this.refuse('not-all', member);
      over.push(member);
    }
    if (over.length > 0 && !open.proposal.urgent && this.view.onLoss === 'serve')
      return this.refuse('lapsed-under-serve', over.join(', '));
    const change: Change = {
      id,
      epoch: open.proposal.epoch,
      events: [...open.proposal.events, ...this.pinEvents(open)],
    };
    const view = apply(this.view, change.events, change.epoch, this.maps);
    const kept = this.keep({ kind: 'change', run: this.run, change }, view);
    if (!kept.ok) return this.refuse('not-kept', kept.why);
    this.view = view;
    this.open_ = null;
    this.changes = [...this.changes, change].slice(-changesKept);
    for (const member of over) this.lapse(member);
    this.hint();
    return { ok: true, epoch: change.epoch } as const;
  }

  /** One set a node: all members' answers agree on it. */
  private pinEvents(open: OpenProposal): ViewEvent[] {
    const acked = [...open.chunks].filter(([member]) => open.acks.has(member));
    const byNode = pinsByNode(acked.flatMap(([, chunks]) => chunks));
    const { id, epoch } = open.proposal;
    return [...byNode.keys()].sort().map(node => {
      const keys = packKeys(sortKeys(byNode.get(node) ?? []));
      const set: PackedPinSet = { id: `${id}/${node}`, node, epoch, keys, dropped: [] };
      return { kind: 'pins-added', set };
    });
  }

  private keep(record: JournalRecord, after: View) {
    const append = () => this.journal.append(record);
    const rewrite = () => {
      const rewritten = this.journal.rewrite([this.snapshot(after)]);
      if (rewritten.ok) this.snapshotBytes = this.journal.bytes;
      return rewritten;
    };
    const big = this.journal.bytes > Math.max(compactBytes, 4 * this.snapshotBytes);
    // Where one way fails (a full disk, a file that lost its end), the other may still work.
    const first = big ? rewrite() : append();
    return first.ok ? first : big ? append() : rewrite();
  }

  private snapshot(view: View): JournalRecord {
    const maps = [...this.contents.values()].filter(
      ({ digest }) =>
        digest === view.map.digest ||
        this.open_?.proposal.events.some(event => event.kind === 'map' && event.digest === digest),
    );
    return { kind: 'view', image: toImage(view), maps };
  }

  withdraw(id: string, lapsed: Readonly<Record<string, number>>) {
    const open = this.proposed(id);
    if (open === null) return this.refuse('not-this-proposal');
    if (this.view.onLoss !== 'serve') return this.refuse('not-serve');
    if (open.proposal.urgent) return this.refuse('urgent');
    const over = [...this.members].filter(
      ([member, { beat }]) => !open.acks.has(member) && lapsed[member] === beat,
    );
    if (over.length === 0) return this.refuse('none-lapsed');
    for (const [member] of over) this.lapse(member);
    this.open_ = null;
    this.hint();
    return { ok: true } as const;
  }

  fate(id: string) {
    const open = this.proposed(id);
    if (open !== null) {
      const unacked = [...this.members.keys()].filter(member => !open.acks.has(member));
      return { ok: true, fate: 'open', unacked } as const;
    }
    const change = this.changes.find(each => each.id === id);
    if (change !== undefined) return { ok: true, fate: 'committed', epoch: change.epoch } as const;
    return { ok: true, fate: 'void' } as const;
  }

  private lapse(member: string): void {
    this.drop(member);
    this.absent.add(member);
  }

  drop(member: string): void {
    this.members.delete(member);
    this.expelled.delete(member);
    this.absent.delete(member);
    this.open_?.acks.delete(member);
    this.open_?.chunks.delete(member);
    for (const [user, claim] of this.claims) {
      claim.members.delete(member);
      if (claim.members.size === 0) this.claims.delete(user);
    }
    this.hint();
  }

  expel(member: string): void {
    if (this.members.has(member)) this.expelled.add(member);
    this.hint();
  }

  claim(user: User, node: NodeName, member: string) {
    if (!this.members.has(member)) return this.refuse('unknown');
    const claim = this.claims.get(user) ?? { node, members: new Set<string>() };
    claim.members.add(member);
    this.claims.set(user, claim);
    return { ok: true, node: claim.node } as const;
  }

  unclaim(user: User, member: string): void {
    const claim = this.claims.get(user);
    claim?.members.delete(member);
    if (claim?.members.size === 0) this.claims.delete(user);
  }

  putMap(content: MapContent) {
    if (content.digest === '' || this.contents.has(content.digest)) return { ok: true } as const;
    const used = new Set([this.view.map.digest]);
    for (const event of this.open_?.proposal.events ?? []) if (event.kind === 'map') used.add(event.digest);
    for (const digest of [...this.contents.keys()])
      if (this.contents.size >= mapsKept && !used.has(digest)) this.forgetMap(digest);
    if (this.contents.size >= mapsKept) return this.refuse('too-many');
    const kept = this.journal.append({ kind: 'map', content } satisfies JournalRecord);
    if (!kept.ok) return this.refuse('not-kept', kept.why);
    this.learn(content);
    return { ok: true } as const;
  }

  private learn(content: MapContent): void {
    this.contents.set(content.digest, content);
    this.maps.set(content.digest, buildMap(content.lines, content.digest));
  }

  private forgetMap(digest: string): void {
    this.contents.delete(digest);
    this.maps.delete(digest);
  }

  map(digest: string) {
    const content = this.contents.get(digest);
    return content === undefined ? this.refuse('no-map') : ({ ok: true, ...content } as const);
  }

  busy(member: string, report: BusyReport) {
    const known = this.members.get(member);
    if (known === undefined) return this.refuse('unknown');
    known.busy = report;
    return { ok: true } as const;
  }

  idle() {
    const reports = [...this.members.values()].map(member => member.busy);
    return { ok: true, idle: idleIn(this.view, reports) } as const;
  }

  onHint(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private hint(): void {
    // Never from within a script: a listener may call the next one.
    for (const listener of this.listeners) queueMicrotask(listener);
  }

  close(): void {
    this.journal.close();
  }
}

function asStore(scripts: Scripts): EmbeddedStore {
  const done = { ok: true } as const;
  return {
    renew: async (member, beat, have) => scripts.renew(member, beat, have),
    join: async (identity, dead) => scripts.join(identity, dead),
    look: async have => scripts.look(have),
    restore: async (image, maps) => scripts.restore(image, maps),
    open: async () => scripts.open(),
    propose: async proposal => scripts.propose(proposal),
    addPins: async (id, member, index, chunk) => scripts.addPins(id, member, index, chunk),
    ack: async (id, member, tally) => scripts.ack(id, member, tally),
    commit: async (id, lapsed) => scripts.commit(id, lapsed),
    withdraw: async (id, lapsed) => scripts.withdraw(id, lapsed),
    fate: async id => scripts.fate(id),
    leave: async member => {
      scripts.drop(member);
      return done;
    },
    gone: async member => {
      scripts.drop(member);
      return done;
    },
    expel: async member => {
      scripts.expel(member);
      return done;
    },
    claim: async (user, node, member) => scripts.claim(user, node, member),
    unclaim: async (user, member) => {
      scripts.unclaim(user, member);
      return done;
    },
    putMap: async content => scripts.putMap(content),
    map: async digest => scripts.map(digest),
    busy: async (member, report) => scripts.busy(member, report),
    idle: async () => scripts.idle(),
    onHint: listener => scripts.onHint(listener),
    view: () => scripts.view,
    close: () => scripts.close(),
  };
}
