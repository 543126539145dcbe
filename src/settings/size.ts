/**
 * Sizes as operators write them (`64KiB`, `50MiB`, `1GB`) to bytes and back. KiB is 1024, KB is 1000: both mean what they say.
 */
import type { Parsed } from './duration.ts';

const units = [
  ['TiB', 1024 ** 4],
  ['TB', 1000 ** 4],
  ['GiB', 1024 ** 3],
  ['GB', 1000 ** 3],
  ['MiB', 1024 ** 2],
  ['MB', 1000 ** 2],
  ['KiB', 1024],
  ['KB', 1000],
  ['B', 1],
] as const;

const examples = 'a number with a unit: 512B, 64KiB, 10MiB or 2GiB';

/** The value is in bytes, a whole number. */
export function parseSize(input: unknown): Parsed {
  if (typeof input === 'number')
    return { ok: false, why: `${input} has no unit`, right: `write ${input}B or ${input}MiB` };
  if (typeof input !== 'string') return { ok: false, why: 'is not a size', right: `write ${examples}` };
  const match = /^(\d{1,12}(?:\.\d{1,6})?) ?([a-zA-Z]*)$/.exec(input.trim());
  if (match === null)
    return { ok: false, why: `${JSON.stringify(input)} is not a size`, right: `write ${examples}` };
  const unit = match[2] ?? '';
  if (unit === '')
    return { ok: false, why: `${input} has no unit`, right: `write ${match[1]}B or ${match[1]}MiB` };
  const factor = units.find(([name]) => name.toLowerCase() === unit.toLowerCase())?.[1];
  if (factor === undefined) {
    return {
      ok: false,
      why: `${JSON.stringify(unit)} is not a unit of size`,
      right: 'the units are B, KiB, MiB, GiB, TiB (and KB, MB, GB, TB)',
    };
  }
  const bytes = Math.round(Number(match[1]) * factor);
  if (bytes > Number.MAX_SAFE_INTEGER)
    return { ok: false, why: `${input} is too big`, right: `write ${examples}` };
  return { ok: true, value: bytes };
}

/** 52428800 → `50MiB`. */
export function formatSize(bytes: number): string {
  for (const [name, factor] of units) {
    if (name.length !== 2 && bytes >= factor && bytes % factor === 0) return `${bytes / factor}${name}`;
  }
  return `${bytes}B`;
}
