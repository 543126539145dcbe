/**
 * Was any user on two nodes at once? Answered from what the nodes themselves saw: sessions as spans, deliveries as instants.
 * Pure. Times are the nodes' own; an overlap shorter than the tolerance is the difference between two logs, not two nodes.
 */
import type { NodeName, User } from '../core/types.ts';

/** A user was at a node from `fromMs` to `untilMs`, Unix ms. A delivery is an instant: both are equal. */
export interface Stay {
  readonly user: User;
  readonly node: NodeName;
  readonly what: 'session' | 'delivery';
  readonly fromMs: number;
  readonly untilMs: number;
}

export interface Overlap {
  readonly user: User;
  readonly first: Stay;
  readonly second: Stay;
  readonly lengthMs: number;
}

/**
 * Pairs of stays of one user at different nodes that overlap by more than `toleranceMs`; for a delivery: that lies more
 * than `toleranceMs` inside a session elsewhere.
 */
export function overlaps(stays: readonly Stay[], toleranceMs: number): Overlap[] {
  const found: Overlap[] = [];
  for (const own of Map.groupBy(stays, stay => stay.user).values()) {
    const sorted = own.toSorted((a, b) => a.fromMs - b.fromMs);
    let open: Stay[] = [];
    for (const stay of sorted) {
      open = open.filter(other => other.untilMs > stay.fromMs);
      for (const other of open) {
        if (other.node === stay.node) continue;
        const lengthMs = overlapMs(other, stay);
        if (lengthMs > toleranceMs) found.push({ user: stay.user, first: other, second: stay, lengthMs });
      }
      open.push(stay);
    }
  }
  return found;
}

/** An instant inside a span overlaps by its distance to the nearer end. */
function overlapMs(a: Stay, b: Stay): number {
  const fromMs = Math.max(a.fromMs, b.fromMs);
  const untilMs = Math.min(a.untilMs, b.untilMs);
  if (b.fromMs === b.untilMs) return Math.min(b.fromMs - a.fromMs, a.untilMs - b.fromMs);
  if (a.fromMs === a.untilMs) return Math.min(a.fromMs - b.fromMs, b.untilMs - a.fromMs);
  return untilMs - fromMs;
}

/** The user's last session by the nodes' word, or null: where is the user now? */
export function lastNodeOf(stays: readonly Stay[], user: User): NodeName | null {
  let last: Stay | null = null;
  for (const stay of stays) {
    if (stay.user !== user || stay.what !== 'session') continue;
    if (last === null || stay.fromMs >= last.fromMs) last = stay;
  }
  return last?.node ?? null;
}
