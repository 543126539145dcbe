/**
 * Ends pins whose users are idle everywhere: that is how failback `idle` brings users home (barrier.md §9).
 * Runs beside the proposer. What two looks, at least five seconds apart, both found idle is dropped, at most 10,000 at a time, by a
 * planned proposal; a member that has the user again in the meantime answers "pinned", so a drop never moves anybody active.
 */
import { firstOfRanges, inRanges, rangesOf, rangesSize } from '../core/pins.ts';
import type { ViewEvent } from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { Store } from '../storage/store.ts';
import type { Proposer } from './proposer.ts';

export interface PinKeeperOptions {
  readonly store: Store;
  readonly proposer: Proposer;
  readonly clock: Clock;
  /** Between two looks; at least 5 s in operation. */
  readonly everyMs?: number;
}

export const dropsAtOnce = 10_000;

interface Idle {
  readonly sets: ReadonlyMap<string, readonly number[]>;
  readonly users: ReadonlySet<string>;
}

/** Starts looking; answers how to stop. */
export function keepPins({ store, proposer, clock, everyMs = 5000 }: PinKeeperOptions): () => void {
  let before: Idle | null = null;
  let stopped = false;
  let cancel: () => void = () => undefined;

  const look = async (): Promise<void> => {
    const reply = await store.idle();
    const now: Idle | null =
      reply.ok && reply.idle !== null
        ? {
            sets: new Map(reply.idle.sets.map(each => [each.set, each.ranges])),
            users: new Set(reply.idle.users),
          }
        : null;
    const events = before === null || now === null ? [] : dropEvents(before, now);
    before = now;
    if (events.length > 0 && !stopped) await proposer.wish(events, 'idle pins');
  };
  const loop = (): void => {
    cancel = clock.after(everyMs, () => {
      void look().then(() => {
        if (!stopped) loop();
      });
    });
  };
  loop();
  return () => {
    stopped = true;
    cancel();
  };
}

function dropEvents(before: Idle, now: Idle): ViewEvent[] {
  const events: ViewEvent[] = [];
  let left = dropsAtOnce;
  for (const [set, ranges] of now.sets) {
    const both = bothRanges(before.sets.get(set) ?? [], ranges);
    const drop = firstOfRanges(both, left);
    if (drop.length === 0) continue;
    left -= rangesSize(drop);
    events.push({ kind: 'pins-dropped', set, ranges: drop });
  }
  for (const user of now.users)
    if (before.users.has(user) && left > 0) {
      left -= 1;
      events.push({ kind: 'override-removed', key: user });
    }
  return events;
}

function bothRanges(a: readonly number[], b: readonly number[]): number[] {
  const indexes: number[] = [];
  for (let i = 0; i + 1 < a.length; i += 2)
    for (let index = a[i] ?? 0; index < (a[i + 1] ?? 0); index += 1)
      if (inRanges(b, index)) indexes.push(index);
  return rangesOf(indexes);
}
