/**
 * Waiting in a drill: for a while, or for a condition with a limit. On the clock it is lent, so that tests can lend theirs.
 */
import type { Clock } from '../net/clock.ts';

export function pause(clock: Clock, ms: number): Promise<void> {
  return new Promise(resolve => {
    clock.after(ms, resolve);
  });
}

export interface Until {
  readonly limitMs: number;
  /** On the clock; left out: now. The time that the condition took is counted from here. */
  readonly fromMs?: number;
  readonly everyMs?: number;
}

/** Asks until the answer is yes, and gives the time it took; null when the limit passed first. A throw is a no. */
export async function until(
  clock: Clock,
  ask: () => boolean | Promise<boolean>,
  { limitMs, fromMs = clock.now(), everyMs = 20 }: Until,
): Promise<number | null> {
  const deadlineAtMs = clock.now() + limitMs;
  for (;;) {
    if (await isSo(ask)) return clock.now() - fromMs;
    if (clock.now() > deadlineAtMs) return null;
    await pause(clock, everyMs);
  }
}

async function isSo(ask: () => boolean | Promise<boolean>): Promise<boolean> {
  try {
    return await ask();
  } catch {
    return false;
  }
}
