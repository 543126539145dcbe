/**
 * Pins: passing exceptions in the view, "this active user stays on that node until idle" (barrier.md §9).
 * A pin is a 53-bit hash of the user in a sorted typed array, so that 100,000 pins are less than a megabyte; a collision pins two
 * users, on every member alike. Sets are immutable: dropping gives a new value. The hash must never change while views are kept.
 */
import { hash64 } from './hash.ts';
import type { Epoch, NodeName, User } from './types.ts';

/** A safe integer: 53 bits, exact in a double. */
export type PinKey = number;

/** Index ranges, flattened: [from, to, from, to, …], `to` exclusive, ascending, never touching. */
export type Ranges = readonly number[];

export interface PinSet {
  /** Of the proposal that made it, with the node: unique in a view. */
  readonly id: string;
  readonly node: NodeName;
  /** The view it came with: an override that is newer wins over it. */
  readonly epoch: Epoch;
  /** Ascending, without duplicates. */
  readonly keys: Float64Array;
  readonly dropped: Ranges;
}

/** A set as it travels and is kept: `keys` packed by `packKeys`. */
export interface PackedPinSet {
  readonly id: string;
  readonly node: NodeName;
  readonly epoch: Epoch;
  readonly keys: string;
  readonly dropped: Ranges;
}

/** Apart from the ranking's seeds. Frozen by test vectors, since pins outlive processes. */
const pinSeed = 0x70696e73;

export function pinKey(user: User): PinKey {
  const { a, b } = hash64(user, pinSeed);
  return (b & 0x1fffff) * 0x1_0000_0000 + (a >>> 0);
}

/** Sorts and drops duplicates. */
export function sortKeys(keys: Iterable<PinKey>): Float64Array {
  const sorted = Float64Array.from(keys).sort();
  let kept = 0;
  for (let i = 0; i < sorted.length; i += 1) {
    const key = sorted[i] ?? 0;
    if (kept === 0 || sorted[kept - 1] !== key) {
      sorted[kept] = key;
      kept += 1;
    }
  }
  return kept === sorted.length ? sorted : sorted.slice(0, kept);
}

/** The key's index in the set, or -1 where it is not there or was dropped. */
export function pinIndex(set: PinSet, key: PinKey): number {
  let low = 0;
  let high = set.keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((set.keys[middle] ?? 0) < key) low = middle + 1;
    else high = middle;
  }
  return low < set.keys.length && set.keys[low] === key && !inRanges(set.dropped, low) ? low : -1;
}

export function inRanges(ranges: Ranges, index: number): boolean {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle] ?? 0) <= index) low = middle + 1;
    else high = middle;
  }
  // An odd number of boundaries at or before the index: we are inside a range.
  return low % 2 === 1;
}

/** How many pins of the set still hold. */
export function pinCount(set: PinSet): number {
  return set.keys.length - rangesSize(set.dropped);
}

export function rangesSize(ranges: Ranges): number {
  let size = 0;
  for (let i = 0; i + 1 < ranges.length; i += 2) size += (ranges[i + 1] ?? 0) - (ranges[i] ?? 0);
  return size;
}

/** Ascending indexes, duplicates allowed → ranges. */
export function rangesOf(indexes: Iterable<number>): number[] {
  const ranges: number[] = [];
  for (const index of indexes) {
    const end = ranges.at(-1);
    if (end !== undefined && index < end) continue;
    if (end === index) ranges[ranges.length - 1] = index + 1;
    else ranges.push(index, index + 1);
  }
  return ranges;
}

/** What is in `a` or in `b`. */
export function joinRanges(a: Ranges, b: Ranges): number[] {
  const pairs: [number, number][] = [];
  for (const ranges of [a, b])
    for (let i = 0; i + 1 < ranges.length; i += 2) pairs.push([ranges[i] ?? 0, ranges[i + 1] ?? 0]);
  pairs.sort((x, y) => x[0] - y[0]);
  const joined: number[] = [];
  for (const [from, to] of pairs) {
    const end = joined.at(-1);
    if (end !== undefined && from <= end) joined[joined.length - 1] = Math.max(end, to);
    else joined.push(from, to);
  }
  return joined;
}

/** [0, size) without `ranges`. */
export function outsideRanges(ranges: Ranges, size: number): number[] {
  const outside: number[] = [];
  let from = 0;
  for (let i = 0; i + 1 < ranges.length; i += 2) {
    if ((ranges[i] ?? 0) > from) outside.push(from, ranges[i] ?? 0);
    from = ranges[i + 1] ?? 0;
  }
  if (from < size) outside.push(from, size);
  return outside;
}

/** At most `limit` indexes of the ranges, from the front. */
export function firstOfRanges(ranges: Ranges, limit: number): number[] {
  const taken: number[] = [];
  let left = limit;
  for (let i = 0; i + 1 < ranges.length && left > 0; i += 2) {
    const from = ranges[i] ?? 0;
    const to = Math.min(ranges[i + 1] ?? 0, from + left);
    taken.push(from, to);
    left -= to - from;
  }
  return taken;
}

/** Drops ranges of one set: the set itself goes when nothing is left, and is written anew when more than half is gone. */
export function dropPins(sets: readonly PinSet[], id: string, ranges: Ranges, epoch: Epoch): PinSet[] {
  return sets.flatMap(set => {
    if (set.id !== id) return [set];
    const dropped = clipRanges(joinRanges(set.dropped, ranges), set.keys.length);
    const left = set.keys.length - rangesSize(dropped);
    if (left === 0) return [];
    if (left * 2 >= set.keys.length) return [{ ...set, dropped }];
    const keys = set.keys.filter((_, index) => !inRanges(dropped, index));
    // A new name: a late drop by index must not hit other pins.
    return [{ ...set, id: `${set.id.replace(/~\d+$/, '')}~${epoch}`, keys, dropped: [] }];
  });
}

function clipRanges(ranges: Ranges, size: number): number[] {
  const clipped: number[] = [];
  for (let i = 0; i + 1 < ranges.length; i += 2) {
    const from = Math.max(0, ranges[i] ?? 0);
    const to = Math.min(size, ranges[i + 1] ?? 0);
    if (from < to) clipped.push(from, to);
  }
  return clipped;
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const digitsPerKey = 9;
const values: ReadonlyMap<string, number> = new Map([...alphabet].map((digit, value) => [digit, value]));

/** Nine digits of base 64 a key. */
export function packKeys(keys: Float64Array | readonly PinKey[]): string {
  const parts: string[] = [];
  for (const key of keys) {
    const high = Math.floor(key / 2 ** 30);
    const low = key % 2 ** 30;
    let text = '';
    for (let shift = 18; shift >= 0; shift -= 6) text += alphabet[(high >>> shift) & 63];
    for (let shift = 24; shift >= 0; shift -= 6) text += alphabet[(low >>> shift) & 63];
    parts.push(text);
  }
  return parts.join('');
}

/** null where the text is not what `packKeys` wrote. */
export function unpackKeys(text: string): Float64Array | null {
  if (text.length % digitsPerKey !== 0) return null;
  const keys = new Float64Array(text.length / digitsPerKey);
  for (let i = 0; i < keys.length; i += 1) {
    let key = 0;
    for (let digit = 0; digit < digitsPerKey; digit += 1) {
      const value = values.get(text.charAt(i * digitsPerKey + digit));
      if (value === undefined) return null;
      key = key * 64 + value;
    }
    if (key > Number.MAX_SAFE_INTEGER) return null;
    keys[i] = key;
  }
  return keys;
}

export function packPinSet(set: PinSet): PackedPinSet {
  return { ...set, keys: packKeys(set.keys) };
}

/** A set that cannot be read has no pins: that would move users, so it is an assert of whoever kept it. */
export function unpackPinSet(packed: PackedPinSet): PinSet {
  const keys = unpackKeys(packed.keys);
  if (keys === null) throw new Error(`pins ${packed.id} cannot be read`);
  return { ...packed, keys: sortKeys(keys) };
}

/** What a member says of the pins it wrote, so that the store can tell whether it has them all. */
export function tallyPins(pins: ReadonlyMap<NodeName, Iterable<PinKey>>): {
  readonly count: number;
  readonly digest: string;
} {
  let count = 0;
  const texts: string[] = [];
  for (const node of [...pins.keys()].sort()) {
    const keys = sortKeys(pins.get(node) ?? []);
    if (keys.length === 0) continue;
    count += keys.length;
    const { a, b } = hash64(packKeys(keys), pinSeed);
    texts.push(`${node}:${keys.length}:${(a >>> 0).toString(16)}${(b >>> 0).toString(16)}`);
  }
  return { count, digest: texts.join(' ') };
}
