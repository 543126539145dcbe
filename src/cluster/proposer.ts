/**
 * How the view comes to change: wishes of the prober, of operators and of settings become proposals, one at a time (barrier.md §1).
 * Runs in the parent; any number of proposers may run, the store refuses all but one. Urgent wishes go first and replace an open
 * planned proposal, whose wishes go out again; planned wishes that wait are merged into one.
 *
 *     wish → queue ─look at the view, propose → open ─all acked: commit─→ told its epoch
 *              ↑──── refused, replaced or void ──┘
 *
 * Must never promise what is not committed: `ok` is said after the store kept the view that has it.
 */
import { followView, type MapContent } from '../core/barrier.ts';
import { isMixed, isUrgent } from '../core/change.ts';
import type { Timers } from '../core/timers.ts';
import type { Epoch } from '../core/types.ts';
import type { UserMap } from '../core/user-map.ts';
import {
  apply,
  changesNothing,
  checkEvents,
  unfencedNodes,
  type View,
  type ViewEvent,
} from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { MapShelf } from '../storage/map-shelf.ts';
import type { Store } from '../storage/store.ts';

export type WishResult =
  | { readonly ok: true; readonly epoch: Epoch }
  | { readonly ok: false; readonly why: string };

export interface ProposerOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Pick<Log, 'info' | 'warn'>;
  /** After this a wish is answered with what it waits for. Default: two holds. */
  readonly wishMs?: number;
  /** Wishes that wait at once. */
  readonly wishLimit?: number;
  /** It has not acked for 2 S and was expelled: its parent must end it and say `gone`. */
  readonly onExpelled?: (member: string) => void;
}

export interface Proposer {
  /** Answers when the view has it, or why it has not; never rejects. */
  wish(events: readonly ViewEvent[], by: string): Promise<WishResult>;
  /** Map files that changed: content first, then the event. */
  wishMap(content: MapContent, by: string): Promise<WishResult>;
  /** As last seen. */
  view(): View | null;
  /** Waiting wishes are answered; an open proposal is left to the members. */
  stop(): void;
}

interface Wish {
  readonly events: readonly ViewEvent[];
  readonly by: string;
  readonly urgent: boolean;
  readonly answer: (result: WishResult) => void;
  answered: boolean;
}

interface Current {
  readonly id: string;
  readonly urgent: boolean;
  readonly wishes: readonly Wish[];
  readonly sinceMs: number;
  readonly expelled: Set<string>;
}

export function createProposer(options: ProposerOptions): Proposer {
  return new StoreProposer(options);
}

class StoreProposer implements Proposer {
  private readonly options: ProposerOptions;
  private readonly shelf = new MapShelf(() => this.seen?.map.digest ?? '');
  private seen: View | null = null;
  private queue: Wish[] = [];
  private current: Current | null = null;
  private waitsFor = 'the store';
  private pumping = false;
  private stopped = false;
  /** Something happened since the last look: do not pause. */
  private news = false;
  private resume: () => void = () => undefined;
  private readonly cancelHints: () => void;

  constructor(options: ProposerOptions) {
    this.options = options;
    this.cancelHints = options.store.onHint(() => this.wake());
  }

  view(): View | null {
    return this.seen;
  }

  wish(events: readonly ViewEvent[], by: string): Promise<WishResult> {
    const { clock, timers, wishMs, wishLimit } = this.options;
    const refuse = (why: string): Promise<WishResult> => Promise.resolve({ ok: false, why });
    if (this.stopped) return refuse('this process is shutting down');
    if (isMixed(events)) return refuse('urgent and planned changes cannot be wished together');
    if (this.queue.length >= (wishLimit ?? 1000)) return refuse('too many changes wait already');
    return new Promise(resolve => {
      const wish: Wish = {
        events,
        by,
        urgent: isUrgent(events),
        answered: false,
        answer: result => {
          if (wish.answered) return;
          wish.answered = true;
          cancel();
          resolve(result);
        },
      };
      const cancel = clock.after(wishMs ?? 2 * timers.holdMs, () => this.giveUp(wish));
      this.queue.push(wish);
      this.wake();
      void this.pump();
    });
  }

  async wishMap(content: MapContent, by: string): Promise<WishResult> {
    const put = await this.options.store.putMap(content);
    if (!put.ok) return { ok: false, why: `the map was not kept: ${put.detail ?? put.why}` };
    this.shelf.learn(content);
    return this.wish([{ kind: 'map', digest: content.digest }], by);
  }

  stop(): void {
    this.stopped = true;
    this.cancelHints();
    for (const wish of [...this.queue, ...(this.current?.wishes ?? [])])
      wish.answer({ ok: false, why: 'this process is shutting down' });
    this.queue = [];
    this.wake();
  }

  private giveUp(wish: Wish): void {
    this.queue = this.queue.filter(each => each !== wish);
    const proposed = this.current?.wishes.includes(wish) === true;
    const why = proposed
      ? `it is proposed, but still waits for ${this.waitsFor}`
      : `it waits for ${this.waitsFor}`;
    wish.answer({ ok: false, why });
  }

  private async pump(): Promise<void> {
    if (this.pumping) return;
    this.pumping = true;
    while (!this.stopped && (this.current !== null || this.queue.length > 0)) {
      this.news = false;
      const moved = this.current === null ? await this.propose() : await this.follow(this.current);
      if (!moved) await this.pause();
    }
    this.pumping = false;
  }

  private wake(): void {
    this.news = true;
    this.resume();
  }

  /** Until a hint, a new wish, or R. */
  private pause(): Promise<void> {
    if (this.news) return Promise.resolve();
    return new Promise(resolve => {
      const cancel = this.options.clock.after(this.options.timers.renewMs, resolve);
      this.resume = () => {
        cancel();
        resolve();
      };
    });
  }

  // From wishes to a proposal; true where something moved and there is no need to wait.

  private async propose(): Promise<boolean> {
    const view = await this.look();
    if (view === null) return false;
    const urgent = this.queue.some(wish => wish.urgent);
    const wishes = this.pick(view, urgent);
    if (wishes.length === 0) return this.queue.length === 0;
    return this.send(view, wishes, urgent);
  }

  private async send(view: View, wishes: readonly Wish[], urgent: boolean): Promise<boolean> {
    const id = this.options.clock.token(8);
    const events = wishes.flatMap(wish => wish.events);
    const reply = await this.options.store.propose({ id, base: view.epoch, urgent, events });
    // It may have run all the same: then its fate tells, and if it did not run it is void and goes out again.
    if (!reply.ok && reply.why !== 'unreachable') {
      this.waitsFor = waitsFor(reply.why, reply.detail);
      return reply.why === 'stale-base';
    }
    if (this.current !== null) this.queue = [...this.current.wishes.filter(alive), ...this.queue];
    this.queue = this.queue.filter(wish => !wishes.includes(wish));
    const sinceMs = this.options.clock.now();
    this.current = { id, urgent, wishes, sinceMs, expelled: new Set() };
    this.options.log.info({ id, urgent, events: events.length, by: wishes.map(wish => wish.by) }, 'proposed');
    return reply.ok;
  }

  private async look(): Promise<View | null> {
    const reply = await this.options.store.look(this.seen?.epoch ?? -1);
    this.waitsFor = 'the store';
    if (!reply.ok || reply.head.state !== 'open') return null;
    const { catchUp } = reply;
    if (catchUp.kind === 'full') for (const content of catchUp.maps) this.shelf.learn(content);
    if (catchUp.kind === 'changes')
      for (const each of catchUp.changes) for (const event of each.events) await this.learnMap(event);
    this.seen = followView(this.seen, catchUp, this.shelf.maps);
    return this.seen;
  }

  private async learnMap(event: ViewEvent): Promise<void> {
    if (event.kind !== 'map' || event.digest === '' || this.shelf.maps.has(event.digest)) return;
    const reply = await this.options.store.map(event.digest);
    if (reply.ok) this.shelf.learn({ digest: reply.digest, lines: reply.lines });
  }

  /** Those that can go out together now; what is wrong or already so is answered. */
  private pick(view: View, urgent: boolean): Wish[] {
    const picked: Wish[] = [];
    const unfenced = unfencedNodes(view);
    let scratch = view;
    for (const wish of this.queue.filter(each => each.urgent === urgent && alive(each))) {
      const settled = this.settled(scratch, wish);
      if (settled !== null) {
        wish.answer(settled);
        continue;
      }
      // Nobody may be placed past a node that may still write; only its own return may pass (barrier.md §6).
      const passes = wish.events.every(event => event.kind === 'node-up' && unfenced.includes(event.node));
      if (!urgent && unfenced.length > 0 && !passes) {
        this.waitsFor = `the fence of ${unfenced.join(', ')}`;
        continue;
      }
      scratch = apply(scratch, wish.events, view.epoch + 1, this.mapsWith(view));
      picked.push(wish);
    }
    this.queue = this.queue.filter(alive);
    return picked;
  }

  private settled(scratch: View, wish: Wish): WishResult | null {
    const wrong = checkEvents(scratch, wish.events);
    if (wrong !== null) return { ok: false, why: wrong };
    for (const event of wish.events)
      if (event.kind === 'map' && event.digest !== '' && !this.shelf.maps.has(event.digest))
        return { ok: false, why: `the content of map ${event.digest} is not in the store` };
    const nothing = wish.events.every(event => changesNothing(scratch, event));
    return nothing ? { ok: true, epoch: scratch.epoch } : null;
  }

  private mapsWith(view: View): Map<string, UserMap> {
    return new Map([...this.shelf.maps, [view.map.digest, view.map]]);
  }

  // From a proposal to its end.

  private async follow(current: Current): Promise<boolean> {
    const committed = await this.options.store.commit(current.id, {});
    if (committed.ok) return this.end(current, committed.epoch);
    const fate = await this.options.store.fate(current.id);
    if (!fate.ok) return false;
    switch (fate.fate) {
      case 'committed':
        return this.end(current, fate.epoch);
      case 'void':
        this.queue = [...current.wishes.filter(alive), ...this.queue];
        this.current = null;
        return true;
      case 'open':
        this.waitsFor =
          committed.why === 'not-kept'
            ? `the disk: ${committed.detail ?? ''}`
            : fate.unacked.join(', ') || 'its commit';
        await this.expelSlow(current, fate.unacked);
        return this.replaceByUrgent(current);
    }
  }

  private end(current: Current, epoch: Epoch): true {
    this.current = null;
    this.options.log.info({ id: current.id, epoch }, 'committed');
    for (const wish of current.wishes) wish.answer({ ok: true, epoch });
    return true;
  }

  private async replaceByUrgent(current: Current): Promise<boolean> {
    if (current.urgent || !this.queue.some(wish => wish.urgent)) return false;
    const view = await this.look();
    if (view === null) return false;
    const wishes = this.pick(view, true);
    return wishes.length > 0 && this.send(view, wishes, true);
  }

  /** Every wait inside letting go ends by S: who has not acked after 2 S is stuck. */
  private async expelSlow(current: Current, unacked: readonly string[]): Promise<void> {
    const { clock, timers, store, onExpelled, log } = this.options;
    if (clock.now() - current.sinceMs < 2 * timers.settleMs) return;
    for (const member of unacked) {
      if (current.expelled.has(member)) continue;
      current.expelled.add(member);
      log.warn({ member, id: current.id }, 'a member does not answer a proposal and is expelled');
      await store.expel(member);
      onExpelled?.(member);
    }
  }
}

function alive(wish: Wish): boolean {
  return !wish.answered;
}

function waitsFor(why: string, detail: string | undefined): string {
  switch (why) {
    case 'one-open':
      return 'another change that is under way';
    case 'node-unfenced':
      return `the fence of ${detail ?? 'a node'}`;
    case 'member-absent':
      return `${detail ?? 'a member'}, which has lost the store (or: homing member forget)`;
    default:
      return `the store (${why})`;
  }
}
