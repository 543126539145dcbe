/**
 * Kept LMTP connections, some per node, and the bounded queue of those that wait for one.
 * The courier to a node asks it to deliver or to check; evidence of live traffic is told as it is seen.
 * Must never repeat a message on a second connection unless the first was found dead before the node said a word, must keep no
 * connection idle longer than Dovecot does (five minutes), and holds nothing of a node that has gone down or moved.
 */
import type { Evidence, NodeName } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import {
  type Handed,
  type LmtpClient,
  type LmtpMessage,
  type LmtpTimeouts,
  openLmtp,
  type Pull,
  type Transaction,
} from './lmtp-client.ts';
import type { LmtpFault } from './lmtp-link.ts';

export interface LmtpPoolOptions {
  readonly ownName: string;
  readonly timeouts: LmtpTimeouts;
  /** Connections to one node, busy ones and kept ones. */
  readonly maxPerNode: number;
  /** Transactions that may wait for one node's connections. */
  readonly maxWaiting: number;
  readonly waitMs: number;
  /** Kept unused so long, then closed. Below Dovecot's five minutes. */
  readonly idleMs: number;
  readonly clock: Clock;
  readonly onEvidence: (node: NodeName, evidence: Evidence) => void;
}

export const lmtpPoolDefaults = {
  maxPerNode: 20,
  maxWaiting: 2_000,
  waitMs: 30_000,
  idleMs: 200_000,
} as const;

/** Where a node takes LMTP now. */
export interface LmtpAddress {
  readonly name: NodeName;
  readonly address: string;
  readonly port: number;
}

export interface LmtpPool {
  /** One result per recipient, in order. Never rejects; ends by `deadlineAtMs` (monotonic). */
  deliver(
    to: LmtpAddress,
    message: LmtpMessage,
    deadlineAtMs: number,
    leash?: Pull,
  ): Promise<readonly Handed[]>;
  /** MAIL, RCPTs, RSET: the node's word on each recipient. */
  check(
    to: LmtpAddress,
    from: string,
    recipients: readonly string[],
    deadlineAtMs: number,
  ): Promise<readonly Handed[]>;
  /** The node went down or was removed: kept connections close now, busy ones after their transaction. */
  closeNode(name: NodeName): void;
  /** Closes all; what runs is let finish, what comes later is refused. */
  close(): void;
  /** Connections by node, for listings and tests. */
  list(): readonly {
    readonly node: NodeName;
    readonly kept: number;
    readonly busy: number;
    readonly waiting: number;
  }[];
}

export function createLmtpPool(options: LmtpPoolOptions): LmtpPool {
  const lanes = new Map<NodeName, Lane>();
  let closed = false;
  const laneOf = (to: LmtpAddress): Lane => {
    const lane: Lane =
      lanes.get(to.name) ??
      new Lane(to, options, () => {
        if (lanes.get(to.name) === lane) lanes.delete(to.name);
      });
    lane.moveTo(to);
    // After the move: closing the last kept connection takes a lane off the map.
    lanes.set(to.name, lane);
    return lane;
  };
  const run = (to: LmtpAddress, count: number, work: Work, deadlineAtMs: number, leash?: Pull) => {
    if (closed) return Promise.resolve(allUnsent(count, fault('withdrawn', 'closing')));
    return laneOf(to).run(count, work, deadlineAtMs, leash);
  };
  return {
    deliver: (to, message, deadlineAtMs, leash) =>
      run(
        to,
        message.recipients.length,
        client => client.deliver(message, deadlineAtMs, leash),
        deadlineAtMs,
        leash,
      ),
    check: (to, from, recipients, deadlineAtMs) =>
      run(to, recipients.length, client => client.check(from, recipients, deadlineAtMs), deadlineAtMs),
    closeNode: name => lanes.get(name)?.closeKept(),
    close: () => {
      closed = true;
      for (const lane of lanes.values()) lane.closeKept();
    },
    list: () => [...lanes.values()].map(lane => lane.row()),
  };
}

type Work = (client: LmtpClient) => Promise<Transaction>;

interface Kept {
  readonly client: LmtpClient;
  readonly sinceMs: number;
}

/** Calls back with true at one's turn, false when the wait is over without one. */
type Waiter = (turn: boolean) => void;

const okEvidenceEveryMs = 1_000;

/** One node's connections. A place is the right to one connection; kept connections belong to no place. */
class Lane {
  private to: LmtpAddress;
  private readonly options: LmtpPoolOptions;
  private readonly onEmpty: () => void;
  private readonly waiting = new Set<Waiter>();
  private kept: Kept[] = [];
  private busy = 0;
  /** Grows whenever kept connections must not be used again; what was opened under an older one is closed after use. */
  private generation = 0;
  private saidOkAtMs = Number.NEGATIVE_INFINITY;
  private cancelSweep: (() => void) | null = null;

  constructor(to: LmtpAddress, options: LmtpPoolOptions, onEmpty: () => void) {
    this.to = to;
    this.options = options;
    this.onEmpty = onEmpty;
  }

  row() {
    return { node: this.to.name, kept: this.kept.length, busy: this.busy, waiting: this.waiting.size };
  }

  moveTo(to: LmtpAddress): void {
    if (to.address !== this.to.address || to.port !== this.to.port) this.closeKept();
    this.to = to;
  }

  closeKept(): void {
    this.generation += 1;
    for (const { client } of this.kept.splice(0)) client.quit();
    this.sweep();
  }

  async run(count: number, work: Work, deadlineAtMs: number, leash?: Pull): Promise<readonly Handed[]> {
    const turn = await this.place(deadlineAtMs, leash);
    if (turn !== null) return allUnsent(count, turn);
    let fresh = false;
    for (;;) {
      const { generation } = this;
      const opened = await this.connection(fresh, deadlineAtMs, leash);
      if (!opened.ok) {
        if (!opened.placeKept) this.leave();
        return allUnsent(count, opened.fault);
      }
      const { client } = opened;
      const { handed, stale } = await work(client);
      this.hear(handed);
      if (stale && !fresh && generation === this.generation) {
        // The node closed this one; those kept beside it are as old.
        this.closeKept();
        fresh = true;
        continue;
      }
      this.keep(client, generation);
      this.leave();
      return handed;
    }
  }

  /** Null once we have a place, else why not. */
  private async place(deadlineAtMs: number, leash: Pull | undefined): Promise<LmtpFault | null> {
    if (leash !== undefined && leash.pull !== 'none') return fault('withdrawn', 'the view changed');
    if (this.busy < this.options.maxPerNode) {
      this.busy += 1;
      return null;
    }
    if (this.waiting.size >= this.options.maxWaiting) return fault('busy', 'too many wait for this node');
    const { clock, waitMs } = this.options;
    const limitMs = Math.max(0, Math.min(waitMs, deadlineAtMs - clock.now()));
    const turn = await new Promise<boolean>(resolve => {
      const end: Waiter = mine => {
        this.waiting.delete(end);
        cancel();
        if (leash !== undefined) leash.onPull = null;
        resolve(mine);
      };
      const cancel = clock.after(limitMs, () => end(false));
      this.waiting.add(end);
      if (leash !== undefined) leash.onPull = () => end(false);
    });
    if (turn) return null;
    const pulled = leash !== undefined && leash.pull !== 'none';
    return pulled ? fault('withdrawn', 'the view changed') : fault('busy', 'no free connection in time');
  }

  /** Gives the place to who waits longest. */
  private leave(): void {
    const next = this.waiting.values().next().value;
    if (next !== undefined) {
      next(true);
      return;
    }
    this.busy -= 1;
    this.dropIfEmpty();
  }

  /** `placeKept`: still connecting; the place is left when that ends. */
  private async connection(fresh: boolean, deadlineAtMs: number, leash: Pull | undefined) {
    while (!fresh) {
      const kept = this.kept.pop();
      if (kept === undefined) break;
      if (kept.client.usable) return { ok: true as const, client: kept.client };
    }
    const { options, generation, to } = this;
    const opening = openLmtp({ ...options, address: to.address, port: to.port }, deadlineAtMs);
    const pulled = leash === undefined ? opening : Promise.race([opening, pull(leash)]);
    const opened = await pulled;
    if (leash !== undefined) leash.onPull = null;
    if (opened === null || (opened.ok && leash !== undefined && leash.pull !== 'none')) {
      void opening.then(late => {
        if (late.ok) this.keep(late.client, generation);
        this.leave();
      });
      return { ok: false as const, fault: fault('withdrawn', 'the view changed'), placeKept: true };
    }
    if (opened.ok) {
      this.tell('ok');
      return opened;
    }
    if (opened.fault.evidence !== null) this.tell(opened.fault.evidence);
    return { ...opened, placeKept: false };
  }

  private keep(client: LmtpClient, generation: number): void {
    if (!client.usable) return;
    if (generation !== this.generation) {
      client.quit();
      return;
    }
    const kept: Kept = { client, sinceMs: this.options.clock.now() };
    this.kept.push(kept);
    client.onBreak = () => {
      this.kept = this.kept.filter(each => each !== kept);
      if (this.kept.length === 0) this.sweep();
    };
    this.sweep();
  }

  /** Kept connections are used newest first, so the oldest are at the front. One timer a node. */
  private sweep(): void {
    const { clock, idleMs } = this.options;
    const stillKept = clock.now() - idleMs;
    while (this.kept[0] !== undefined && this.kept[0].sinceMs <= stillKept) this.kept.shift()?.client.quit();
    const oldest = this.kept[0];
    if (oldest === undefined) {
      this.cancelSweep?.();
      this.cancelSweep = null;
      this.dropIfEmpty();
    } else if (this.cancelSweep === null) {
      this.cancelSweep = clock.after(oldest.sinceMs + idleMs - clock.now() + 1, () => {
        this.cancelSweep = null;
        this.sweep();
      });
    }
  }

  private dropIfEmpty(): void {
    if (this.busy === 0 && this.kept.length === 0 && this.waiting.size === 0) this.onEmpty();
  }

  private hear(handed: readonly Handed[]): void {
    for (const each of handed) {
      if (each.kind !== 'unsent' && each.kind !== 'in-doubt') continue;
      if (each.fault.evidence !== null) this.tell(each.fault.evidence);
      return;
    }
    const nowMs = this.options.clock.now();
    if (nowMs - this.saidOkAtMs >= okEvidenceEveryMs) this.tell('ok');
  }

  private tell(evidence: Evidence): void {
    if (evidence === 'ok') this.saidOkAtMs = this.options.clock.now();
    this.options.onEvidence(this.to.name, evidence);
  }
}

function pull(leash: Pull): Promise<null> {
  return new Promise(resolve => {
    leash.onPull = () => resolve(null);
  });
}

function fault(kind: LmtpFault['kind'], text: string): LmtpFault {
  return { kind, evidence: null, text };
}

function allUnsent(count: number, why: LmtpFault): readonly Handed[] {
  return Array.from({ length: count }, () => ({ kind: 'unsent', fault: why }) as const);
}
