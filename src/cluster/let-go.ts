/**
 * Letting go of the users whom one proposal moves (barrier.md §3): what is `close` is told to close, spread over time, and awaited;
 * what is `pin` is noted; deliveries get until `settle`. It ends by `settle` whatever its sessions do.
 *
 *     walk the concerned users ─→ pins noted, closes begun ─→ nobody of kind close is active, or settle is over ─→ pins sealed
 *
 * Must never report that all is let go while an entry of kind `close` is active; and after sealing, no pin is added.
 */
import type { Proposal } from '../core/barrier.ts';
import { change, concernedNodes } from '../core/change.ts';
import { type PinKey, pinKey } from '../core/pins.ts';
import type { NodeName, User } from '../core/types.ts';
import type { View } from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { ActiveEntry, Actives, ActiveUser } from './actives.ts';
import type { CloseReason } from './admission.ts';
import { spread } from './spread.ts';

export interface LetGoOptions {
  readonly proposal: Proposal;
  readonly view: View;
  readonly next: View;
  readonly actives: Actives;
  readonly clock: Clock;
  readonly settleMs: number;
  readonly spreadMs: number;
  /** Tells a holder to close. */
  readonly close: (entry: ActiveEntry, reason: CloseReason) => void;
  /** Takes an entry out although its holder did not let go in time. */
  readonly cut: (entry: ActiveEntry) => void;
}

/** Closes leave this share of `settle` for the sessions' own ends. */
const spreadShare = 0.4;

export class LetGo {
  readonly proposal: Proposal;
  readonly view: View;
  readonly next: View;
  private readonly options: LetGoOptions;
  private readonly pinned = new Map<User, NodeName>();
  private readonly closing = new Map<User, CloseReason>();
  private sealed = false;
  private stopped = false;
  private wake: () => void = () => undefined;

  constructor(options: LetGoOptions) {
    this.options = options;
    this.proposal = options.proposal;
    this.view = options.view;
    this.next = options.next;
  }

  /** May the user be admitted by the old view although its place changes? Only where we have it active and pinned. */
  mayStay(user: User): boolean {
    if (this.pinned.has(user)) return true;
    const active = this.options.actives.of(user);
    if (this.sealed || active === null || change(this.view, this.next, user) !== 'pin') return false;
    this.pinned.set(user, active.node);
    return true;
  }

  /** An entry went: perhaps it was the last one we wait for. */
  notice(user: User): void {
    if (this.closing.has(user) && this.options.actives.of(user) === null) {
      this.closing.delete(user);
      if (this.closing.size === 0) this.wake();
    }
  }

  stop(): void {
    this.stopped = true;
    this.wake();
  }

  /** The pins by node once all is let go; null where it was stopped. */
  async run(): Promise<ReadonlyMap<NodeName, readonly PinKey[]> | null> {
    const { clock, actives, settleMs, proposal } = this.options;
    const endAtMs = clock.now() + settleMs;
    const concerned = concernedNodes(proposal.events);
    const halted = (): boolean => this.stopped;
    await actives.walk(concerned, active => this.sort(active), clock, halted);
    if (this.stopped) return null;
    await this.closeAll(endAtMs);
    if (!this.stopped) await this.allClosed(endAtMs);
    if (this.stopped) return null;
    this.settle();
    this.sealed = true;
    return this.pinsByNode();
  }

  private sort(active: ActiveUser): void {
    const kind = change(this.view, this.next, active.user);
    if (kind === 'pin') this.pinned.set(active.user, active.node);
    if (kind === 'close') this.closing.set(active.user, this.reason(active.node));
  }

  private reason(name: NodeName): CloseReason {
    const node = this.next.nodes.find(each => each.name === name);
    if (node === undefined || node.admin === 'maint')
      return node?.health === 'down' ? 'node-down' : 'node-maint';
    return node.health === 'down' ? 'node-down' : 'moved';
  }

  /** Told one after the other, so that not all clients come back in the same instant. */
  private async closeAll(endAtMs: number): Promise<void> {
    const { clock, spreadMs, settleMs, actives } = this.options;
    // Deliveries have no client that would come back at once, and need all of the time that is left to settle.
    for (const [user, reason] of this.closing)
      for (const entry of [...(actives.of(user)?.entries ?? [])])
        if (entry.wish.activity === 'delivery') this.tell(entry, reason);
    const users = [...this.closing];
    const windowMs = Math.min(spreadMs, settleMs * spreadShare, Math.max(0, endAtMs - clock.now()));
    const tellUser = ([user, reason]: [User, CloseReason]): void => {
      for (const entry of [...(actives.of(user)?.entries ?? [])]) this.tell(entry, reason);
      this.notice(user);
    };
    await spread(users, windowMs, tellUser, clock, () => this.stopped);
  }

  private tell(entry: ActiveEntry, reason: CloseReason): void {
    // A planned change never breaks a delivery: it is awaited, then pinned.
    if (entry.wish.activity === 'delivery' && !this.proposal.urgent) return;
    this.options.close(entry, reason);
  }

  private async allClosed(endAtMs: number): Promise<void> {
    if (this.closing.size === 0) return;
    await new Promise<void>(resolve => {
      const stopTimer = this.options.clock.after(Math.max(0, endAtMs - this.options.clock.now()), resolve);
      this.wake = () => {
        stopTimer();
        resolve();
      };
    });
  }

  /** Whoever is left: deliveries of a planned change are pinned, everything else is cut. */
  private settle(): void {
    for (const user of this.closing.keys()) {
      const active = this.options.actives.of(user);
      for (const entry of [...(active?.entries ?? [])]) {
        const waits = entry.wish.activity === 'delivery' && entry.phase === 'live' && !this.proposal.urgent;
        if (!waits) this.options.cut(entry);
      }
      const left = this.options.actives.of(user);
      if (left !== null) this.pinned.set(user, left.node);
    }
    this.closing.clear();
  }

  private pinsByNode(): Map<NodeName, PinKey[]> {
    const byNode = new Map<NodeName, PinKey[]>();
    for (const [user, node] of this.pinned) {
      const key = this.options.actives.of(user)?.key;
      // Gone in the meantime: nothing to pin, but it may be admitted there until the commit, so the pin must stand.
      const keys = byNode.get(node) ?? [];
      keys.push(key ?? pinKey(user));
      byNode.set(node, keys);
    }
    return byNode;
  }
}
