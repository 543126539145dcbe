/**
 * Durations as operators write them (`800ms`, `1s`, `24h`) to milliseconds and back.
 * A bare number is refused: nobody can tell whether `timeout: 5` is seconds or milliseconds.
 */
import { accept, plainText, type Read, shown, wrong } from './read.ts';

const units = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
] as const;

/** Far beyond any sensible setting. A single timer in Node waits 24.8 days at most: who waits longer must wait again. */
const longestMs = 100 * 86_400_000;

const right = 'write a number with a unit: 800ms, 1s, 5m, 24h or 5d';

/** The value is in milliseconds. */
export function parseDuration(input: unknown): Read<number> {
  const match = /^(-?\d{1,12}(?:\.\d{1,6})?) ?([a-zA-Z]*)$/.exec(plainText(input).trim());
  const [, digits, unit] = match ?? [];
  if (match === null || digits === undefined || digits.startsWith('-')) {
    return wrong(`${shown(input)} is not a duration`, right);
  }
  if (unit === '') return wrong(`${digits} has no unit`, `write ${digits}s or ${digits}ms`);
  const factor = units.find(([name]) => name === unit)?.[1];
  if (factor === undefined)
    return wrong(`${shown(unit)} is not a unit of time`, 'the units are ms, s, m, h and d');
  const ms = Number(digits) * factor;
  if (ms > longestMs) return wrong(`${shown(input)} is too long`, 'the longest is 100d');
  return accept(Math.round(ms * 1000) / 1000);
}

/** The largest unit that says it without a fraction: 90000 → `90s`. */
export function formatDuration(ms: number): string {
  for (const [name, factor] of units) {
    if (ms >= factor && ms % factor === 0) return `${ms / factor}${name}`;
  }
  return `${ms}ms`;
}
