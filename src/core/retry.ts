/**
 * When a queued message is tried again, or given up: pure arithmetic on its age and attempts.
 * Waits grow from `firstMs` by `factor` to `longestMs`, with jitter so that a node's return is not met by all its mail at once. The last
 * attempt falls on the end of `lifeMs`, never after it; a message is never given up without an attempt after its last wait.
 */

export interface RetrySchedule {
  readonly firstMs: number;
  readonly factor: number;
  readonly longestMs: number;
  /** RFC 5321 §4.5.4.1: at least four or five days. */
  readonly lifeMs: number;
  /** Part of a wait that chance may take off, 0…1. */
  readonly jitter: number;
}

/** Quick at first (a node restarts in seconds), then every 15 minutes: the next hop is our own cluster, not a stranger. */
export const defaultSchedule: RetrySchedule = {
  firstMs: 5_000,
  factor: 2,
  longestMs: 15 * 60_000,
  lifeMs: 5 * 24 * 3_600_000,
  jitter: 0.25,
};

export interface AttemptPast {
  /** Attempts made so far, 0 where the message was queued without one. */
  readonly attempts: number;
  /** Since acceptance; negative where the wall clock was stepped back, which counts as 0. */
  readonly ageMs: number;
  /** In [0, 1), from the clock's chance. */
  readonly chance: number;
}

export type NextAttempt = { readonly kind: 'retry'; readonly afterMs: number } | { readonly kind: 'give-up' };

export function nextAttempt(past: AttemptPast, schedule: RetrySchedule = defaultSchedule): NextAttempt {
  const leftMs = schedule.lifeMs - Math.max(0, past.ageMs);
  if (leftMs <= 0) return { kind: 'give-up' };
  const steps = Math.max(0, past.attempts - 1);
  // Capped before it is multiplied: factor ** 10000 is Infinity, and that is fine, but never NaN.
  const plainMs = Math.min(schedule.longestMs, schedule.firstMs * schedule.factor ** steps);
  const afterMs = Math.round(plainMs * (1 - schedule.jitter * past.chance));
  return { kind: 'retry', afterMs: Math.min(afterMs, leftMs) };
}
