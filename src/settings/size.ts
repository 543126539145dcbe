/**
 * Sizes as operators write them (`64KiB`, `50MiB`, `1GB`) to bytes and back. KiB is 1024, KB is 1000: both mean what they say.
 */
import { accept, plainText, type Read, shown, wrong } from './read.ts';

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

const right = 'write a number with a unit: 512B, 64KiB, 10MiB or 2GiB';
const known = 'the units are B, KiB, MiB, GiB, TiB (and KB, MB, GB, TB)';

/** The value is in bytes, a whole number. */
export function parseSize(input: unknown): Read<number> {
  const match = /^(\d{1,16}(?:\.\d{1,6})?) ?([a-zA-Z]*)$/.exec(plainText(input).trim());
  const [, digits, unit] = match ?? [];
  if (match === null || digits === undefined || unit === undefined) {
    return wrong(`${shown(input)} is not a size`, right);
  }
  if (unit === '') return wrong(`${digits} has no unit`, `write ${digits}B or ${digits}MiB`);
  const factor = units.find(([name]) => name.toLowerCase() === unit.toLowerCase())?.[1];
  if (factor === undefined) return wrong(`${shown(unit)} is not a unit of size`, known);
  const bytes = Math.round(Number(digits) * factor);
  if (bytes > Number.MAX_SAFE_INTEGER) return wrong(`${shown(input)} is too big`, right);
  return accept(bytes);
}

/** 52428800 → `50MiB`. */
export function formatSize(bytes: number): string {
  for (const [name, factor] of units) {
    if (name.length !== 2 && bytes >= factor && bytes % factor === 0) return `${bytes / factor}${name}`;
  }
  return `${bytes}B`;
}
