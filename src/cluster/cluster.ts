/**
 * One serving process as a member: holds the view, runs core/barrier against a store, and admits users (cluster/admission.ts).
 * Stands between the sessions and deliveries, which ask here before the first byte to a node, and the store, whose view all share.
 *
 *     store ⇄ renew, join ⇄ core/barrier ─intents→ hold · let go · ack · commit · adopt · close all
 *                                                   └─ admit(): one synchronous step, lease and proposal looked at each time
 *
 * Must never await within `tryAdmit`, admit outside the lease, or ack what is not let go.
 */
import {
  type BarrierState,
  dueAtMs,
  type Input,
  type Intent,
  mayAdmit,
  type Proposal,
  type Standing,
  startBarrier,
  step,
} from '../core/barrier.ts';
import { change } from '../core/change.ts';
import { tallyPins } from '../core/pins.ts';
import { placerOf } from '../core/place.ts';
import type { ActivityRow } from '../core/status.ts';
import type { Timers } from '../core/timers.ts';
import type { ClusterNode, NodeName, Place, Protocol, User } from '../core/types.ts';
import type { View } from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { MapShelf } from '../storage/map-shelf.ts';
import type { MemberIdentity, PinChunk, Refused, Store } from '../storage/store.ts';
import { type ActiveCounts, type ActiveEntry, Actives, type ActiveUser, inSlices } from './actives.ts';
import type { Admission, AdmissionWish, Admitting, CloseReason, Entry, Evidence } from './admission.ts';
import { BusyReporter } from './busy-report.ts';
import { breakOffHolder, tellHolder } from './holder.ts';
import { LetGo } from './let-go.ts';
import { inTime, Questions } from './questions.ts';
import { spread } from './spread.ts';
import { type Tried, Waiting } from './waiting.ts';
import { writePins } from './write-pins.ts';

export interface MemberOptions {
  readonly identity: MemberIdentity;
  /** Members of this machine that are certainly dead. */
  readonly dead?: readonly string[];
  readonly store: Store;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Pick<Log, 'debug' | 'info' | 'warn' | 'error'>;
  /** How long a session's end counts as uncertain where the node's own end was not seen: `move.quiet`. */
  readonly quietMs: number;
  /** Closes of many sessions are spread over this. */
  readonly spreadMs: number;
  /** Held admissions at once; more are refused. */
  readonly waitingLimit: number;
  /** Called within the step that adopts a view. */
  readonly onView?: (view: View) => void;
  readonly onEvidence?: (node: NodeName, protocol: Protocol, evidence: Evidence) => void;
  /** The lease is over or we are expelled: the process must end. Not set: it tries to join again (tests). */
  readonly onEnd?: (why: string) => void;
}

export interface MemberStatus {
  readonly member: string;
  readonly state: BarrierState['name'];
  readonly epoch: number;
  readonly run: string;
  readonly leaseMs: number;
  readonly users: number;
  readonly entries: number;
  readonly usersByNode: Readonly<Record<NodeName, number>>;
  readonly waiting: number;
  readonly proposal: { readonly id: string; readonly urgent: boolean } | null;
}

export interface Member extends Admitting {
  /** Resolves when the first view is here. */
  start(): Promise<void>;
  view(): View | null;
  /** One clock reading against the lease: what every read callback asks before it relays. */
  inLease(): boolean;
  status(): MemberStatus;
  countsOn(node: NodeName): ActiveCounts;
  /** Of one user or all, at most `limit`. */
  activities(options: { readonly user: User | null; readonly limit: number }): ActivityRow[];
  /** Closes what the user has here; answers how many entries were told. */
  kick(user: User, reason?: CloseReason): number;
  /** From now on nobody is admitted; who waits is refused. Entries go on. */
  drain(): void;
  /** Leaves the store and forgets what is left, telling its holders. */
  stop(): Promise<void>;
}

export function createMember(options: MemberOptions): Member {
  return new ClusterMember(options);
}

class ClusterMember implements Member {
  private readonly options: MemberOptions;
  private readonly clock: Clock;
  private readonly actives = new Actives();
  private readonly waiting: Waiting;
  private readonly maps = new MapShelf(() => this.state.view?.map.digest ?? '');
  private state: BarrierState;
  private letGo: LetGo | null = null;
  /** Set while all closes: stops the spread when a renewal came in time. */
  private stopClosing: (() => void) | null = null;
  private readonly questions = new Questions(() => this.tick(true));
  private draining = false;
  private stopped = false;
  private readonly busy: BusyReporter;
  private cancelTimer: () => void = () => undefined;
  private cancelHints: () => void = () => undefined;
  private onFirstView: (() => void) | null = null;

  constructor(options: MemberOptions) {
    this.options = options;
    this.clock = options.clock;
    this.state = startBarrier(options.identity.member, options.clock.now());
    this.busy = new BusyReporter({
      actives: this.actives,
      clock: options.clock,
      send: report => this.within(options.store.busy(options.identity.member, report)),
    });
    this.waiting = new Waiting({
      clock: options.clock,
      limit: options.waitingLimit,
      holdMs: options.timers.holdMs,
      tryAdmit: wish => this.tryAdmit(wish),
    });
  }

  start(): Promise<void> {
    return new Promise(resolve => {
      this.onFirstView = resolve;
      this.cancelHints = this.options.store.onHint(() => this.tick(true));
      this.tick(false);
    });
  }

  view(): View | null {
    return this.state.view;
  }

  inLease(): boolean {
    return this.clock.now() < this.state.leaseUntilMs;
  }

  // Admission ---------------------------------------------------------------------------------------------------------

  async admit(wish: AdmissionWish): Promise<Admission> {
    if (wish.signal?.aborted === true)
      return { ok: false, reason: 'aborted', why: 'the client went away', place: this.peek(wish.user) };
    const tried = this.tryAdmit(wish);
    return 'done' in tried ? tried.done : this.waiting.add(wish, tried.wait);
  }

  /** DANGER: one synchronous step. An await between the place and the entry would let a barrier pass in between. */
  private tryAdmit(wish: AdmissionWish): Tried {
    const place = this.peek(wish.user);
    const refuse = (reason: 'none' | 'held' | 'stale' | 'shutdown', why: string) =>
      ({ ok: false, reason, why, place }) as const;
    if (this.draining) return { done: refuse('shutdown', 'this process is shutting down') };
    const { view } = this.state;
    if (view === null || !mayAdmit(this.state, this.clock.now()))
      return { wait: refuse('stale', 'the store has not been reached: the view may be old') };
    const changing = this.waitsForChange(wish.user);
    if (changing !== null) return { wait: refuse('held', changing) };
    if (place.kind === 'held') return { wait: refuse('held', place.why) };
    if (place.kind === 'none') return { done: refuse('none', place.why) };
    const node = placerOf(view).node(place.node);
    if (node === null) throw new Error(`a place on ${place.node}, which is not in view ${view.epoch}`);
    const active = this.actives.of(wish.user);
    if (active !== null && active.node !== node.name)
      return { wait: refuse('held', `its sessions on ${active.node} are not closed yet`) };
    return { done: { ok: true, entry: this.register(wish, node, place) } };
  }

  private waitsForChange(user: User): string | null {
    const { view, next, proposal } = this.state;
    if (view === null || next === null || proposal === null) return null;
    if (change(view, next, user) === 'same' || this.letGo?.mayStay(user) === true) return null;
    return `the cluster changes to view ${proposal.epoch}, which moves this user`;
  }

  private register(wish: AdmissionWish, node: ClusterNode, place: Place): Entry {
    const active = this.actives.add(wish, node.name, this.clock.wall());
    return {
      user: wish.user,
      node,
      place,
      isLive: () => active.phase === 'live' && this.inLease(),
      release: how => this.release(active, how?.nodeEnded === true),
    };
  }

  private release(entry: ActiveEntry, nodeEnded: boolean): void {
    if (entry.phase === 'gone' || entry.phase === 'lingering') return;
    if (nodeEnded || this.options.quietMs <= 0) {
      this.remove(entry);
      return;
    }
    // The node may still work on what we closed: the user counts as active until it is quiet.
    entry.phase = 'lingering';
    this.clock.after(this.options.quietMs, () => this.remove(entry));
  }

  private remove(entry: ActiveEntry): void {
    if (entry.phase === 'gone') return;
    this.actives.remove(entry);
    this.letGo?.notice(entry.user);
  }

  private tell(entry: ActiveEntry, reason: CloseReason): void {
    tellHolder(entry, reason, this.options.log);
  }

  private cut(entry: ActiveEntry, reason: CloseReason): void {
    this.tell(entry, reason);
    if (entry.phase === 'closing')
      this.options.log.warn(
        { user: entry.user, node: entry.node },
        'an entry did not close in time and was cut',
      );
    breakOffHolder(entry, this.options.log);
    this.remove(entry);
  }

  peek(user: User): Place {
    const { view } = this.state;
    return view === null ? { kind: 'none', why: 'there is no view yet' } : placerOf(view).place(user);
  }

  node(name: string): ClusterNode | null {
    return this.state.view === null ? null : placerOf(this.state.view).node(name);
  }

  report(node: string, protocol: Protocol, evidence: Evidence): void {
    this.options.onEvidence?.(node, protocol, evidence);
  }

  countsOn(node: NodeName): ActiveCounts {
    return this.actives.countsOn(node);
  }

  activities({ user, limit }: { readonly user: User | null; readonly limit: number }): ActivityRow[] {
    const entries =
      user === null ? this.actives.list(limit) : [...(this.actives.of(user)?.entries ?? [])].slice(0, limit);
    return entries.map(({ user: name, node, wish, sinceMs }) => {
      return { user: name, protocol: wish.protocol, node, client: wish.client, sinceMs };
    });
  }

  kick(user: User, reason: CloseReason = 'kicked'): number {
    const entries = [...(this.actives.of(user)?.entries ?? [])].filter(entry => entry.phase === 'live');
    for (const entry of entries) this.tell(entry, reason);
    return entries.length;
  }

  status(): MemberStatus {
    const { view, proposal, leaseUntilMs, name } = this.state;
    const byNode = (view?.nodes ?? []).map(node => [node.name, this.actives.usersOn(node.name)] as const);
    return {
      member: this.options.identity.member,
      state: name,
      epoch: view?.epoch ?? 0,
      run: view?.run ?? '',
      leaseMs: Math.max(0, leaseUntilMs - this.clock.now()),
      users: this.actives.userCount,
      entries: this.actives.entriesCount,
      usersByNode: Object.fromEntries(byNode),
      waiting: this.waiting.size,
      proposal: proposal === null ? null : { id: proposal.id, urgent: proposal.urgent },
    };
  }

  drain(): void {
    this.draining = true;
    this.waiting.refuseAll('shutdown', 'this process is shutting down');
  }

  async stop(): Promise<void> {
    this.drain();
    this.stopped = true;
    this.cancelTimer();
    this.cancelHints();
    this.stopClosing?.();
    this.letGo?.stop();
    await inSlices(this.actives.clear(), entry => this.dismiss(entry, 'shutdown'), this.clock);
    await this.within(this.options.store.leave(this.options.identity.member));
  }

  // The machine's loop ------------------------------------------------------------------------------------------------

  private tick(hinted: boolean): void {
    if (this.stopped) return;
    const asking = this.questions.busy;
    if (hinted && asking) this.questions.again();
    this.feed({
      kind: 'tick',
      nowMs: this.clock.now(),
      jitter: this.clock.chance(),
      hinted: hinted && !asking,
    });
    this.busy.report(this.state);
  }

  private feed(input: Input): void {
    if (this.stopped) return;
    const { state, intents } = step(this.state, input, this.options.timers);
    this.state = state;
    for (const intent of intents) this.act(intent);
    this.cancelTimer();
    const waitMs = Math.max(1, dueAtMs(this.state, this.options.timers) - this.clock.now());
    this.cancelTimer = this.clock.after(waitMs, () => this.tick(false));
  }

  private act(intent: Intent): void {
    switch (intent.kind) {
      case 'join':
        void this.questions.ask(() => this.join());
        break;
      case 'renew':
        void this.questions.ask(() => this.renew(intent.beat, intent.have));
        break;
      case 'restore': {
        const content = this.maps.contents.get(intent.image.mapDigest);
        void this.questions.ask(() =>
          this.options.store.restore(intent.image, content === undefined ? [] : [content]),
        );
        break;
      }
      case 'open':
        void this.questions.ask(() => this.options.store.open());
        break;
      case 'fetch-map':
        void this.fetchMap(intent.digest);
        break;
      case 'hold':
        void this.hold(intent.proposal, intent.view, intent.next);
        break;
      case 'ack':
        void this.thenAsk(() =>
          this.options.store.ack(intent.id, this.options.identity.member, intent.tally),
        );
        break;
      case 'commit':
        void this.thenAsk(() => this.options.store.commit(intent.id, intent.lapsed));
        break;
      case 'adopt':
        this.adopt(intent.view);
        break;
      case 'release':
        this.endHold();
        break;
      case 'close-all':
        this.closeAll(intent.why, intent.byMs);
        break;
      case 'keep':
        this.stopClosing?.();
        this.waiting.retry();
        break;
      case 'end':
        this.options.log.error({ why: intent.why }, 'this process is no member any more');
        this.options.onEnd?.(intent.why);
        break;
    }
  }

  private async thenAsk(command: () => Promise<unknown>): Promise<void> {
    await this.within(command());
    this.tick(true);
  }

  private async join(): Promise<void> {
    const sentAtMs = this.clock.now();
    const reply = await this.within(this.options.store.join(this.options.identity, this.options.dead ?? []));
    if (reply.ok) this.feedStanding('joined', reply, sentAtMs);
    else if (reply.why === 'expelled') this.feed({ kind: 'expelled', nowMs: this.clock.now() });
  }

  private async renew(beat: number, have: number): Promise<void> {
    const sentAtMs = this.clock.now();
    const reply = await this.within(this.options.store.renew(this.options.identity.member, beat, have));
    const nowMs = this.clock.now();
    if (reply.ok) this.feedStanding('renewed', reply, sentAtMs);
    else if (reply.why === 'expelled') this.feed({ kind: 'expelled', nowMs });
    else if (reply.why === 'unknown' && reply.head !== undefined)
      this.feed({ kind: 'unknown', nowMs, head: reply.head });
  }

  private feedStanding(kind: 'joined' | 'renewed', standing: Standing, sentAtMs: number): void {
    if (standing.catchUp.kind === 'full')
      for (const content of standing.catchUp.maps) this.maps.learn(content);
    this.feed({ kind, nowMs: this.clock.now(), sentAtMs, standing, maps: this.maps.maps });
  }

  private within<Reply>(reply: Promise<Reply>): Promise<Reply | Refused<never>> {
    const failed = (error: unknown): void => this.options.log.error({ error }, 'a store command failed');
    return inTime(reply, this.options.timers.commandTimeoutMs, this.clock, failed);
  }

  private async fetchMap(digest: string): Promise<void> {
    const reply = await this.within(this.options.store.map(digest));
    if (!reply.ok) return;
    this.maps.learn(reply);
    this.tick(true);
  }

  // What the machine wants --------------------------------------------------------------------------------------------

  private async hold(proposal: Proposal, view: View, next: View): Promise<void> {
    const { clock, timers, spreadMs } = this.options;
    const letGo = new LetGo({
      proposal,
      view,
      next,
      actives: this.actives,
      clock,
      settleMs: timers.settleMs,
      spreadMs,
      close: (entry, reason) => this.tell(entry, reason),
      cut: entry => this.cut(entry, proposal.urgent ? 'node-down' : 'moved'),
    });
    this.letGo = letGo;
    const pins = await letGo.run();
    if (pins === null || this.letGo !== letGo) return;
    const { id } = proposal;
    const write = (index: number, chunk: PinChunk) =>
      this.within(this.options.store.addPins(id, this.options.identity.member, index, chunk));
    const wanted = () => this.letGo === letGo && !this.stopped;
    if (!(await writePins(pins, write, wanted, clock))) return;
    this.feed({ kind: 'let-go', nowMs: clock.now(), id: proposal.id, tally: tallyPins(pins) });
  }

  private adopt(view: View): void {
    this.endHold();
    this.options.log.info({ epoch: view.epoch, run: view.run }, 'view adopted');
    this.options.onView?.(view);
    this.onFirstView?.();
    this.onFirstView = null;
  }

  private endHold(): void {
    this.letGo?.stop();
    this.letGo = null;
    this.waiting.retry();
  }

  private closeAll(why: string, byMs: number): void {
    this.stopClosing?.();
    const nowMs = this.clock.now();
    if (byMs > nowMs) {
      this.options.log.warn({ why, users: this.actives.userCount }, 'the lease runs out: closing everything');
      this.closeSpread(Math.min(this.options.spreadMs, (byMs - nowMs) / 2));
      return;
    }
    this.letGo?.stop();
    this.letGo = null;
    void this.cutAll();
  }

  private async cutAll(): Promise<void> {
    await inSlices(this.actives.clear(), entry => this.dismiss(entry, 'lease-lost'), this.clock);
    this.feed({ kind: 'all-closed', nowMs: this.clock.now() });
  }

  private dismiss(entry: ActiveEntry, reason: CloseReason): void {
    this.tell(entry, reason);
    breakOffHolder(entry, this.options.log);
    entry.phase = 'gone';
  }

  private closeSpread(windowMs: number): void {
    let stop = false;
    this.stopClosing = () => {
      stop = true;
      this.stopClosing = null;
    };
    const entries: ActiveEntry[] = [];
    const gather = (active: ActiveUser): void => void entries.push(...active.entries);
    void this.actives
      .walk('all', gather, this.clock, () => stop)
      .then(async whole => {
        if (whole)
          await spread(
            entries,
            windowMs,
            entry => this.tell(entry, 'lease-lost'),
            this.clock,
            () => stop,
          );
      });
  }
}
