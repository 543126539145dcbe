/**
 * Telling many holders to close, one after the other over a window, so that not all clients come back in the same instant (design §5).
 */
import type { Clock } from '../net/clock.ts';

const tickMs = 20;

/** Visits the items evenly over `windowMs`, the first at once; ends early when `stop` says so. */
export async function spread<Item>(
  items: readonly Item[],
  windowMs: number,
  visit: (item: Item) => void,
  clock: Clock,
  stop: () => boolean,
): Promise<void> {
  const ticks = Math.max(1, Math.floor(windowMs / tickMs));
  const perTick = Math.max(1, Math.ceil(items.length / ticks));
  for (let from = 0; from < items.length; from += perTick) {
    if (from > 0) await new Promise<void>(resolve => clock.after(tickMs, resolve));
    if (stop()) return;
    for (const item of items.slice(from, from + perTick)) visit(item);
  }
}
