/**
 * Tells the store which pins this member has in use, so that idle ones can be dropped (barrier.md §9): at most every five
 * seconds. Only while there are pins, or overrides that last until idle.
 */
import type { BarrierState } from '../core/barrier.ts';
import { pinIndex, rangesOf } from '../core/pins.ts';
import type { User } from '../core/types.ts';
import type { View } from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { BusyReport } from '../storage/store.ts';
import type { Actives } from './actives.ts';

const everyMs = 5000;

export class BusyReporter {
  private readonly actives: Actives;
  private readonly clock: Clock;
  private readonly send: (report: BusyReport) => Promise<unknown>;
  private sentAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: {
    readonly actives: Actives;
    readonly clock: Clock;
    readonly send: (report: BusyReport) => Promise<unknown>;
  }) {
    this.actives = options.actives;
    this.clock = options.clock;
    this.send = options.send;
  }

  /** Called at each tick; mostly there is nothing to do. */
  report({ view, name }: BarrierState): void {
    const nowMs = this.clock.now();
    if (view === null || name !== 'serving' || nowMs - this.sentAtMs < everyMs) return;
    const until = view.overrides.filter(override => override.until === 'idle');
    if (view.pins.length === 0 && until.length === 0) return;
    this.sentAtMs = nowMs;
    void this.compute(
      view,
      until.map(override => override.key),
    );
  }

  private async compute(view: View, until: readonly User[]): Promise<void> {
    const indexes = new Map(view.pins.map(set => [set.id, [] as number[]]));
    const nodes = new Set(view.pins.map(set => set.node));
    await this.actives.walk(
      nodes,
      active => {
        for (const set of view.pins) {
          const index = set.node === active.node ? pinIndex(set, active.key) : -1;
          if (index >= 0) indexes.get(set.id)?.push(index);
        }
      },
      this.clock,
    );
    const sets = [...indexes].map(([set, used]) => ({ set, ranges: rangesOf(used.sort((a, b) => a - b)) }));
    const users = until.filter(user => this.actives.of(user) !== null);
    await this.send({ epoch: view.epoch, sets, users });
  }
}
