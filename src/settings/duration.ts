/**
 * Durations as operators write them (`800ms`, `1s`, `24h`) to milliseconds and back.
 * A bare number is refused: nobody can tell whether `timeout: 5` is seconds or milliseconds.
 */

const units = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
] as const;

/** 100 days: far beyond any sensible setting, and within what a timer in Node can wait (2^31 ms is 24.8 days) only after a check. */
const longestMs = 100 * 86_400_000;

export type Parsed =
  | { readonly ok: true; readonly value: number }
  | { readonly ok: false; readonly why: string; readonly right: string };

const examples = 'a number with a unit: 800ms, 1s, 5m, 24h or 5d';

/** The value is in milliseconds. */
export function parseDuration(input: unknown): Parsed {
  if (typeof input === 'number') {
    return { ok: false, why: `${input} has no unit`, right: `write ${input}s or ${input}ms` };
  }
  if (typeof input !== 'string') return { ok: false, why: 'is not a duration', right: `write ${examples}` };
  const match = /^(\d{1,12}(?:\.\d{1,6})?) ?([a-zA-Z]*)$/.exec(input.trim());
  const number = Number(match?.[1]);
  if (match === null || Number.isNaN(number)) {
    return { ok: false, why: `${JSON.stringify(input)} is not a duration`, right: `write ${examples}` };
  }
  const unit = match[2] ?? '';
  if (unit === '')
    return { ok: false, why: `${input} has no unit`, right: `write ${match[1]}s or ${match[1]}ms` };
  const factor = units.find(([name]) => name === unit)?.[1];
  if (factor === undefined) {
    return {
      ok: false,
      why: `${JSON.stringify(unit)} is not a unit of time`,
      right: 'the units are ms, s, m, h and d',
    };
  }
  const ms = number * factor;
  if (ms > longestMs) return { ok: false, why: `${input} is too long`, right: 'the longest is 100d' };
  return { ok: true, value: Math.round(ms * 1000) / 1000 };
}

/** The largest unit that says it without a fraction: 90000 → `90s`. */
export function formatDuration(ms: number): string {
  for (const [name, factor] of units) {
    if (ms >= factor && ms % factor === 0) return `${ms / factor}${name}`;
  }
  return `${ms}ms`;
}
