/**
 * Writes a member's pins to the store, chunk by chunk, before its ack: until the store has them all, or they are wanted no more.
 */
import type { PinKey } from '../core/pins.ts';
import type { NodeName } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { type PinChunk, pinsPerChunk } from '../storage/store.ts';

const retryMs = 100;

/** Answers whether all is written. `wanted`: false once the proposal is no longer ours to answer. */
export async function writePins(
  pins: ReadonlyMap<NodeName, readonly PinKey[]>,
  write: (index: number, chunk: PinChunk) => Promise<{ readonly ok: boolean }>,
  wanted: () => boolean,
  clock: Clock,
): Promise<boolean> {
  for (const [index, chunk] of chunksOf(pins).entries()) {
    while (wanted() && !(await write(index, chunk)).ok)
      await new Promise<void>(resolve => clock.after(retryMs, resolve));
    if (!wanted()) return false;
  }
  return wanted();
}

function chunksOf(pins: ReadonlyMap<NodeName, readonly PinKey[]>): PinChunk[] {
  const chunks: PinChunk[] = [];
  for (const [node, keys] of pins)
    for (let from = 0; from < keys.length; from += pinsPerChunk)
      chunks.push({ node, keys: keys.slice(from, from + pinsPerChunk) });
  return chunks;
}
