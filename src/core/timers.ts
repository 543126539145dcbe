/**
 * The barrier's timers as one set (barrier.md §4), and the inequalities that make them safe together.
 * Settings that break one are refused at start: a site that changes the lease changes the rest with it.
 */

/** All in ms but `drift`. */
export interface Timers {
  /** R: a member renews its lease this often, ± 10 %. */
  readonly renewMs: number;
  /** After this a store command counts as lost, though it may still have run. */
  readonly commandTimeoutMs: number;
  /** L: how long a member may act on a renewal, from the renewal's sending, on its own clock. */
  readonly leaseMs: number;
  /** G: closing starts this long before the lease ends. */
  readonly closeMs: number;
  /** W: an observer takes a member for lapsed when its beat stood still so long. */
  readonly lapseMs: number;
  /** X: how long a deposed store may still take writes. 0 for the embedded store. */
  readonly overlapMs: number;
  /** Γ: how long a store that began anew waits for its members. */
  readonly graceMs: number;
  /** S: every wait inside letting go ends by then. */
  readonly settleMs: number;
  /** One login or delivery waits at most so long. */
  readonly holdMs: number;
  /** ρ: how far two machines' clocks may differ in speed. */
  readonly drift: number;
}

export const defaultTimers: Timers = {
  renewMs: 1000,
  commandTimeoutMs: 300,
  leaseMs: 6000,
  closeMs: 2000,
  lapseMs: 7500,
  overlapMs: 3000,
  graceMs: 11_000,
  settleMs: 5000,
  holdMs: 10_000,
  drift: 0.1,
};

/** The process ends itself this long before its lease does (`refuse`, and every child of an embedded store). */
export const endBeforeLeaseMs = 500;

/** What is wrong with the set, one sentence each; empty when it is safe. */
export function checkTimers(t: Timers): string[] {
  const wrong: string[] = [];
  const must = (holds: boolean, rule: string): void => {
    if (!holds) wrong.push(rule);
  };
  const bad = Object.entries(t).filter(([, value]) => !Number.isFinite(value) || value < 0);
  for (const [name] of bad) wrong.push(`${name} must be a number that is not negative`);
  if (bad.length > 0) return wrong;
  must(t.renewMs > 0 && t.commandTimeoutMs > 0, 'renew and command timeout must be more than 0');
  must(t.drift < 1, 'drift must be less than 1');
  const lapseAtLeastMs = (t.leaseMs * (1 + t.drift)) / (1 - t.drift);
  must(
    t.lapseMs >= lapseAtLeastMs,
    `lapse (${ms(t.lapseMs)}) must be at least lease × (1 + drift) / (1 - drift) = ${ms(Math.ceil(lapseAtLeastMs))}`,
  );
  must(t.closeMs > endBeforeLeaseMs, `close (${ms(t.closeMs)}) must be more than ${ms(endBeforeLeaseMs)}`);
  const closeAfterMs = t.leaseMs - t.closeMs;
  const threeRenewalsMs = 3 * t.renewMs + 2 * t.commandTimeoutMs;
  must(
    threeRenewalsMs < closeAfterMs,
    `three renewals and two command timeouts (${ms(threeRenewalsMs)}) must be less than lease - close (${ms(closeAfterMs)})`,
  );
  const lapseSeenMs = t.lapseMs + 2 * t.renewMs + t.commandTimeoutMs;
  must(
    lapseSeenMs <= t.holdMs,
    `lapse + two renewals + a command timeout (${ms(lapseSeenMs)}) must be at most hold (${ms(t.holdMs)})`,
  );
  must(
    t.settleMs + t.renewMs < t.holdMs,
    `settle + renew (${ms(t.settleMs + t.renewMs)}) must be less than hold (${ms(t.holdMs)})`,
  );
  must(
    t.graceMs >= t.lapseMs + t.overlapMs,
    `grace (${ms(t.graceMs)}) must be at least lapse + overlap (${ms(t.lapseMs + t.overlapMs)})`,
  );
  return wrong;
}

function ms(value: number): string {
  return `${value} ms`;
}
