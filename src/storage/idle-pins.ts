/**
 * What no member has in use, from their reports (barrier.md §9): pins by index range, and users of `until idle` overrides.
 * Nothing is idle before every member has spoken about this very view.
 */
import { joinRanges, outsideRanges, pinCount, rangesSize } from '../core/pins.ts';
import type { View } from '../core/view.ts';
import type { BusyReport, IdleReply } from './store.ts';

export function idleIn(view: View, reports: readonly (BusyReport | null)[]): IdleReply['idle'] {
  const current: BusyReport[] = [];
  for (const report of reports) {
    if (report === null || report.epoch !== view.epoch) return null;
    current.push(report);
  }
  const live = view.pins.filter(set => pinCount(set) > 0);
  const sets = live.map(set => {
    const busy = current.reduce<readonly number[]>(
      (sum, report) => joinRanges(sum, report.sets.find(each => each.set === set.id)?.ranges ?? []),
      set.dropped,
    );
    return { set: set.id, ranges: outsideRanges(busy, set.keys.length) };
  });
  const used = new Set(current.flatMap(report => report.users));
  const until = view.overrides.filter(override => override.until === 'idle').map(each => each.key);
  return {
    epoch: view.epoch,
    sets: sets.filter(each => rangesSize(each.ranges) > 0),
    users: until.filter(user => !used.has(user)),
  };
}
