/**
 * A seeded world around the real member, proposer and embedded store: nodes that die and return, members that crash, pause and are cut
 * off, a parent that restarts, clients that log in and deliver. It keeps its own books of who really is at which node, and checks
 * the barrier's promises against them at every step. The first breach ends it with a sentence.
 */
import type { CloseReason, Entry } from '../../src/cluster/admission.ts';
import { createMember, type Member } from '../../src/cluster/cluster.ts';
import { keepPins } from '../../src/cluster/pin-keeper.ts';
import { createProposer, type Proposer } from '../../src/cluster/proposer.ts';
import { change } from '../../src/core/change.ts';
import { place } from '../../src/core/place.ts';
import { defaultTimers } from '../../src/core/timers.ts';
import type { NodeName, NodeSpec, User } from '../../src/core/types.ts';
import type { MapLine } from '../../src/core/user-map.ts';
import { apply, type View, type ViewEvent } from '../../src/core/view.ts';
import { type EmbeddedStore, openEmbeddedStore } from '../../src/storage/store-embedded.ts';
import { ProcessClock, SimClock, seeded, settle } from './sim-clock.ts';
import { type Breakage, type Link, linkedStore, memoryJournal, nobody } from './sim-store.ts';

export interface WorldOptions {
  readonly seed: number;
  readonly fence: 'none' | 'required';
  readonly breakage?: Breakage;
  readonly seconds?: number;
}

export interface WorldReport {
  readonly breach: string | null;
  readonly commits: number;
  readonly admitted: number;
  readonly refused: number;
  readonly pinned: number;
  readonly restarts: number;
}

interface Stay {
  readonly user: User;
  readonly node: NodeName;
  /** Which life of the node: one that died and came back has forgotten its sessions. */
  readonly life: number;
  readonly process: SimMember;
  readonly entry: Entry;
  /** Told to close, or its client left. */
  ending: boolean;
}

interface SimMember {
  readonly name: string;
  readonly clock: ProcessClock;
  readonly link: Link;
  readonly member: Member;
  lastEpoch: number;
}

const userCount = 24;
const quietMs = 2000;
const poolOf = (name: NodeName): string => (name === 'n5' ? 'other' : 'default');
const spec = (name: NodeName): NodeSpec => ({
  name,
  address: '127.0.0.1',
  weight: 100,
  pool: poolOf(name),
  ports: {},
});

class Breach extends Error {}

export class World {
  private readonly options: WorldOptions;
  private readonly clock: SimClock;
  private readonly chance: () => number;
  private readonly disk = { records: [] as string[] };
  private store: EmbeddedStore;
  private proposer: Proposer;
  private stopPins: () => void = () => undefined;
  private members: SimMember[] = [];
  private readonly nodes = new Map<NodeName, { alive: boolean; life: number }>();
  private readonly stays = new Map<User, Set<Stay>>();
  private readonly proposals = new Map<string, readonly ViewEvent[]>();
  private readonly waits = new Map<object, { sinceMs: number; process: SimMember }>();
  private wishes = 0;
  private breach: string | null = null;
  private faults = true;
  private logins = true;
  private count = { members: 0, commits: 0, admitted: 0, refused: 0, pinned: 0, restarts: 0, maps: 0 };
  private topEpoch = 0;

  constructor(options: WorldOptions) {
    this.options = options;
    this.chance = seeded(options.seed);
    this.clock = new SimClock(this.chance);
    for (const name of ['n1', 'n2', 'n3', 'n4', 'n5']) this.nodes.set(name, { alive: true, life: 0 });
    this.store = this.openStore();
    this.proposer = this.openProposer();
  }

  async run(): Promise<WorldReport> {
    const endMs = (this.options.seconds ?? 60) * 1000;
    this.wish([{ kind: 'nodes', specs: ['n1', 'n2', 'n3', 'n5'].map(spec) }], 'settings');
    for (let i = 0; i < 3; i += 1) this.startMember();
    this.loop(60, () => this.login());
    this.loop(1500, () => this.disturbNodes());
    this.loop(2500, () => this.operate());
    this.loop(4000, () => this.disturbMembers());
    // A fence is tried until it works (barrier.md §6).
    this.loop(6000, () => {
      for (const name of this.nodes.keys()) this.fence(name);
    });
    this.clock.after(endMs * (0.4 + 0.4 * this.chance()), () => this.chance() < 0.5 && this.restartParent());
    await this.until(endMs);
    if (this.breach === null) await this.calm(endMs);
    const { commits, admitted, refused, pinned, restarts } = this.count;
    return { breach: this.breach, commits, admitted, refused, pinned, restarts };
  }

  private async until(endMs: number): Promise<void> {
    for (let atMs = this.clock.now() + 200; this.breach === null && atMs <= endMs; atMs += 200) {
      await this.clock.run(atMs);
      this.guard(() => this.checkWaits());
    }
  }

  /** Once faults and logins stop, everything ends: holds, proposals, and the pins of users that are idle. */
  private async calm(endMs: number): Promise<void> {
    this.faults = false;
    for (const each of this.members) each.link.cut = false;
    for (const [name, node] of this.nodes) {
      this.fence(name);
      if (!node.alive) this.revive(name);
    }
    await this.until(endMs + 40_000);
    this.logins = false;
    for (const stays of this.stays.values()) for (const stay of [...stays]) this.endStay(stay);
    await this.until(endMs + 100_000);
    this.guard(() => {
      if (this.breach !== null) return;
      if (this.wishes > 0) throw new Breach(`${this.wishes} wishes were never answered`);
      if (this.waits.size > 0) throw new Breach(`${this.waits.size} admissions were never answered`);
      const view = this.store.view();
      for (const { member, name } of this.living()) {
        const { epoch, state } = member.status();
        if (state !== 'serving' || epoch !== view.epoch)
          throw new Breach(`${name} is ${state} at view ${epoch}, the store at ${view.epoch}`);
      }
      if (view.pins.length > 0) throw new Breach(`${view.pins.length} sets of pins never ended`);
    });
  }

  private guard(check: () => void): void {
    try {
      check();
    } catch (error) {
      if (!(error instanceof Breach)) throw error;
      this.breach ??= `${error.message} (at ${Math.round(this.clock.now())} ms)`;
    }
  }

  private fail(message: string): void {
    this.guard(() => {
      throw new Breach(message);
    });
  }

  private loop(everyMs: number, then: () => void): void {
    this.clock.after(everyMs * (0.2 + 1.6 * this.chance()), () => {
      if (this.breach !== null) return;
      then();
      this.loop(everyMs, then);
    });
  }

  private pick<Item>(items: readonly Item[]): Item | undefined {
    return items[Math.floor(this.chance() * items.length)];
  }

  private living(): SimMember[] {
    return this.members.filter(each => each.clock.alive);
  }

  // The parent --------------------------------------------------------------------------------------------------------

  private openStore(): EmbeddedStore {
    const opened = openEmbeddedStore({
      journal: memoryJournal(this.disk),
      records: this.disk.records.map(record => JSON.parse(record) as unknown),
      rules: { affinity: 'user', rulesDigest: 'r', fence: this.options.fence, onLoss: 'refuse' },
      run: this.clock.token(4),
    });
    if (!opened.ok) throw new Error(opened.why);
    const { store } = opened;
    if (store.view().epoch <= this.topEpoch)
      this.fail(`the store opened at ${store.view().epoch}, after ${this.topEpoch}`);
    const propose: EmbeddedStore['propose'] = proposal => {
      this.proposals.set(proposal.id, proposal.events);
      return store.propose(proposal);
    };
    const commit: EmbeddedStore['commit'] = async (id, lapsed) => {
      const fate = await store.fate(id);
      if (this.options.breakage === 'commit-without-all' && fate.ok && fate.fate === 'open')
        for (const member of fate.unacked) await store.ack(id, member, nobody);
      const reply = await store.commit(id, lapsed);
      if (reply.ok) {
        this.count.commits += 1;
        if (reply.epoch <= this.topEpoch) this.fail(`epoch ${reply.epoch} came after ${this.topEpoch}`);
        this.topEpoch = reply.epoch;
        this.count.pinned = Math.max(this.count.pinned, store.view().pins.length);
      }
      return reply;
    };
    return { ...store, propose, commit };
  }

  private openProposer(): Proposer {
    const proposer = createProposer({
      store: this.store,
      clock: this.clock,
      timers: defaultTimers,
      log: silent,
      wishMs: 30_000,
      onExpelled: name => this.kill(name),
    });
    this.stopPins = keepPins({ store: this.store, proposer, clock: this.clock });
    return proposer;
  }

  private restartParent(): void {
    this.count.restarts += 1;
    this.stopPins();
    this.proposer.stop();
    for (const each of this.living()) this.crash(each);
    this.members = [];
    this.store = this.openStore();
    this.proposer = this.openProposer();
    for (let i = 0; i < 3; i += 1) this.startMember();
  }

  private wish(events: readonly ViewEvent[], by: string): void {
    this.wishes += 1;
    void this.proposer.wish(events, by).then(() => {
      this.wishes -= 1;
    });
  }

  // Members -----------------------------------------------------------------------------------------------------------

  private startMember(): void {
    this.count.members += 1;
    const name = `m${this.count.members}`;
    const clock = new ProcessClock(this.clock);
    const link: Link = { cut: false };
    const breakage = this.options.breakage ?? 'none';
    const { store } = this;
    const remote = linkedStore({
      store: () => store,
      world: this.clock,
      process: clock,
      link,
      lossChance: () => (this.faults ? 0.02 : 0),
      breakage,
    });
    const timers = breakage === 'acts-after-lease' ? { ...defaultTimers, leaseMs: 1e9 } : defaultTimers;
    const member = createMember({
      identity: { member: name, machine: 'here', boot: 'b', pid: this.count.members },
      store: remote,
      clock,
      timers,
      log: silent,
      quietMs,
      spreadMs: 1000,
      waitingLimit: 1000,
      onView: view => this.guard(() => this.checkView(process, view)),
      // The process ends itself; its parent sees that.
      onEnd: () => this.kill(name),
    });
    const process: SimMember = { name, clock, link, member, lastEpoch: 0 };
    this.members.push(process);
    void member.start();
  }

  private kill(name: string): void {
    const process = this.members.find(each => each.name === name);
    if (process === undefined || !process.clock.alive) return;
    this.crash(process);
    const { store } = this;
    this.clock.after(50 * this.chance(), () => {
      void store.gone(name);
      if (store === this.store) this.startMember();
    });
  }

  /** The kernel closes its sockets: its sessions end. */
  private crash(process: SimMember): void {
    process.clock.crash();
    for (const stays of this.stays.values())
      for (const stay of [...stays]) if (stay.process === process) stays.delete(stay);
    for (const [wait, { process: owner }] of [...this.waits]) if (owner === process) this.waits.delete(wait);
  }

  private disturbMembers(): void {
    if (!this.faults) return;
    const process = this.pick(this.living());
    if (process === undefined) return;
    const roll = this.chance();
    if (roll < 0.3) this.kill(process.name);
    else if (roll < 0.5) {
      process.link.cut = true;
      this.clock.after(12_000 * this.chance(), () => {
        process.link.cut = false;
      });
    } else if (roll < 0.6) process.clock.pause(3000 * this.chance());
    else if (roll < 0.8 && this.living().length < 5) this.startMember();
  }

  // Nodes and operators -------------------------------------------------------------------------------------------------

  private disturbNodes(): void {
    if (!this.faults) return;
    const name = this.pick([...this.nodes.keys()]);
    const node = this.nodes.get(name ?? '');
    if (name === undefined || node === undefined) return;
    if (!node.alive) this.revive(name);
    // With a fence, a node may live although it is voted down; the fence then ends it.
    else if (this.options.fence === 'required' && this.chance() < 0.3) this.down(name);
    else if (this.chance() < 0.5) {
      node.alive = false;
      this.clock.after(1000 * this.chance(), () => this.down(name));
    }
  }

  private down(name: NodeName): void {
    this.wish([{ kind: 'node-down', node: name }], 'health');
  }

  private fence(name: NodeName): void {
    const known = this.store.view().nodes.find(each => each.name === name);
    const node = this.nodes.get(name);
    if (known?.health !== 'down' || known.fenced || node === undefined) return;
    // Whatever it was doing has ended.
    node.alive = false;
    node.life += 1;
    this.wish([{ kind: 'fenced', node: name, incident: known.incident }], 'fence');
  }

  /** It comes back having forgotten its sessions. Nothing is wished while the view does not know it down. */
  private revive(name: NodeName): void {
    const node = this.nodes.get(name);
    if (node === undefined) return;
    node.alive = true;
    node.life += 1;
    this.wish([{ kind: 'node-up', node: name }], 'health');
  }

  private operate(): void {
    if (!this.faults) return;
    const name = this.pick([...this.nodes.keys()]) ?? 'n1';
    const user = `u${Math.floor(this.chance() * userCount)}@x`;
    const roll = Math.floor(this.chance() * 9);
    const state = this.pick(['ready', 'ready', 'drain', 'maint'] as const) ?? 'ready';
    if (roll < 3) this.wish([{ kind: 'admin', node: name, state }], 'operator');
    else if (roll === 3)
      this.wish([{ kind: 'weight', node: name, weight: this.pick([0, 50, 100]) ?? 1 }], 'operator');
    else if (roll === 4) this.changeMap();
    else if (roll === 5) this.wish([{ kind: 'override-removed', key: user }], 'operator');
    else if (roll === 6) {
      const some = ['n1', 'n2', 'n3', 'n4', 'n5'].filter(() => this.chance() < 0.85);
      this.wish([{ kind: 'nodes', specs: some.map(spec) }], 'settings');
    } else {
      const target = this.chance() < 0.8 ? { node: name } : { pool: 'other' };
      const key = this.chance() < 0.8 ? user : '@x';
      const until = key === user && this.chance() < 0.5 ? 'idle' : 'removed';
      this.wish([{ kind: 'override-set', key, target, until }], 'operator');
    }
  }

  private changeMap(): void {
    this.count.maps += 1;
    const lines: MapLine[] = [];
    for (let i = 0; i < 5; i += 1) {
      const user = `u${Math.floor(this.chance() * userCount)}@x`;
      const node = this.pick(['n1', 'n2', 'n3', 'n5']) ?? 'n1';
      lines.push({ file: 'users.map', line: i + 1, pattern: { kind: 'user', user }, target: { node } });
    }
    this.wishes += 1;
    void this.proposer.wishMap({ digest: `d${this.count.maps}`, lines }, 'map').then(() => {
      this.wishes -= 1;
    });
  }

  // Clients -------------------------------------------------------------------------------------------------------------

  private login(): void {
    const process = this.pick(this.living());
    if (!this.logins || process === undefined || process.clock.paused) return;
    const user = `u${Math.floor(this.chance() * userCount)}@x`;
    const activity = this.chance() < 0.3 ? 'delivery' : 'session';
    const wait = {};
    const mustNotWait = this.bystander(process, user);
    const live: { entry: Entry | null; stay: Stay | null } = { entry: null, stay: null };
    const onClose = (reason: CloseReason): void => {
      if (live.stay !== null && live.entry !== null) this.closeStay(live.stay, live.entry, activity, reason);
    };
    // Broken off: the node's side is reset at this instant.
    const onCut = (): void => {
      if (live.stay !== null) this.finish(live.stay, null, true);
    };
    this.waits.set(wait, { sinceMs: this.clock.now(), process });
    const asked = {
      user,
      activity,
      protocol: activity === 'session' ? 'imap' : 'lmtp',
      client: '',
      onClose,
      onCut,
    } as const;
    const admit =
      this.options.breakage === 'holds-all' && process.member.status().proposal !== null
        ? new Promise<null>(resolve => this.clock.after(500, () => resolve(null))).then(() =>
            process.member.admit(asked),
          )
        : process.member.admit(asked);
    void admit.then(admission => {
      if (!process.clock.alive) return;
      this.endWait(wait);
      if (!admission.ok) {
        this.count.refused += 1;
        return;
      }
      this.count.admitted += 1;
      live.entry = admission.entry;
      live.stay = this.beginStay(process, admission.entry, activity);
    });
    if (mustNotWait)
      void settle().then(() => {
        if (this.waits.has(wait) && process.clock.alive)
          this.fail(`${user} was held on ${process.name}, a bystander`);
      });
  }

  /** True where neither lease nor proposal nor a down node gives a reason to wait. */
  private bystander(process: SimMember, user: User): boolean {
    const { member } = process;
    const view = member.view();
    const status = member.status();
    if (view === null || !['serving', 'letting-go', 'holding'].includes(status.state)) return false;
    // Before the closing that precedes the lease's end.
    if (status.leaseMs <= defaultTimers.closeMs) return false;
    const where = place(view, user);
    if (where.kind === 'held' || where.kind === 'none') return false;
    const events = status.proposal === null ? null : this.proposals.get(status.proposal.id);
    if (events === null) return true;
    if (events === undefined || events.some(event => event.kind === 'map')) return false;
    return change(view, apply(view, events, view.epoch + 1), user) === 'same';
  }

  private endWait(wait: object): void {
    const since = this.waits.get(wait);
    this.waits.delete(wait);
    if (since !== undefined && !since.process.clock.paused)
      this.guard(() => this.checkWait(since.sinceMs, since.process));
  }

  private checkWaits(): void {
    for (const { sinceMs, process } of this.waits.values()) this.checkWait(sinceMs, process);
  }

  private checkWait(sinceMs: number, process: SimMember): void {
    // A paused process answers when it wakes.
    const limitMs = defaultTimers.holdMs + 3100;
    const waitedMs = this.clock.now() - sinceMs;
    if (waitedMs > limitMs)
      throw new Breach(`an admission waited ${Math.round(waitedMs)} ms on ${process.name}`);
  }

  private beginStay(process: SimMember, entry: Entry, activity: 'session' | 'delivery'): Stay {
    const node = this.nodes.get(entry.node.name) ?? { alive: false, life: 0 };
    const { user } = entry;
    const stay: Stay = { user, node: entry.node.name, life: node.life, process, entry, ending: false };
    this.guard(() => this.checkOneNode(stay));
    const stays = this.stays.get(stay.user) ?? new Set();
    stays.add(stay);
    this.stays.set(stay.user, stays);
    const lastsMs = activity === 'delivery' ? 7000 * this.chance() ** 2 : 30_000 * this.chance() ** 2;
    process.clock.after(lastsMs, () => {
      if (!stay.ending) this.endStay(stay);
    });
    return stay;
  }

  /** Promise 1, by the world's own books. */
  private checkOneNode(stay: Stay): void {
    for (const other of this.stays.get(stay.user) ?? []) {
      const node = this.nodes.get(other.node);
      const works = node?.alive === true && node.life === other.life;
      if (works && other.node !== stay.node)
        throw new Breach(
          `${stay.user} is on ${other.node} (${other.process.name}) and on ${stay.node} (${stay.process.name})`,
        );
    }
  }

  private closeStay(stay: Stay, entry: Entry, activity: 'session' | 'delivery', reason: CloseReason): void {
    if (stay.ending) return;
    stay.ending = true;
    const { clock } = stay.process;
    if (reason === 'lease-lost' || reason === 'shutdown') {
      // There is no time: both sockets are reset.
      this.finish(stay, entry, true);
      return;
    }
    // A delivery settles, or is cut in the end; a session waits for its node's end, or leaves it to the quiet time.
    if (activity === 'delivery') clock.after(8000 * this.chance(), () => this.finish(stay, entry, true));
    else if (this.chance() < 0.7) clock.after(1500 * this.chance(), () => this.finish(stay, entry, true));
    else {
      entry.release({ nodeEnded: false });
      this.clock.after((quietMs - 100) * this.chance(), () => this.finish(stay, null, true));
    }
  }

  private endStay(stay: Stay): void {
    stay.ending = true;
    this.finish(stay, stay.entry, true);
  }

  private finish(stay: Stay, entry: Entry | null, nodeEnded: boolean): void {
    this.stays.get(stay.user)?.delete(stay);
    entry?.release({ nodeEnded });
  }

  private checkView(process: SimMember, view: View): void {
    if (view.epoch < process.lastEpoch)
      throw new Breach(`${process.name} went back from view ${process.lastEpoch} to ${view.epoch}`);
    process.lastEpoch = view.epoch;
    for (const stays of this.stays.values())
      for (const stay of stays) {
        if (stay.process !== process || stay.ending) continue;
        const where = place(view, stay.user);
        if (where.kind !== 'none' && where.node === stay.node) continue;
        throw new Breach(
          `${process.name} takes view ${view.epoch}, which sends ${stay.user} from ${stay.node} to ${where.kind}`,
        );
      }
  }
}

const silent = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
