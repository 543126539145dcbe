/**
 * The stable hash under every placement: MurmurHash3_x86_128 (Austin Appleby, public domain) of a text's UTF-8 bytes, and its first
 * 64 bits as two 32-bit lanes. Chosen because it is published, needs only 32-bit integers (exact in every engine), and its SMHasher
 * verification value proves this copy (test). Not for secrets: a stranger can compute it, and could at worst choose a name's node.
 * Must never change after 1.0: one changed bit moves every user of every site to another node.
 */

/** 64 bits as two signed 32-bit lanes. */
export interface Hash64 {
  readonly a: number;
  readonly b: number;
}

const c1 = 0x239b961b;
const c2 = 0xab0e9789;
const c3 = 0x38b34ae5;
const c4 = 0xa1e38b93;

/** Scratch of the one thread: filled and read within one synchronous call, never across calls. */
const scratchBytes = new Uint8Array(1024);
const scratchLanes = new Int32Array(4);
const encoder = new TextEncoder();

/** The first 64 bits of MurmurHash3_x86_128. Texts with lone surrogates are hashed as if those were U+FFFD. */
export function hash64(text: string, seed = 0): Hash64 {
  const length = asciiInto(scratchBytes, text);
  if (length >= 0) murmur128(scratchBytes, length, seed, scratchLanes);
  else {
    const bytes = encoder.encode(text);
    murmur128(bytes, bytes.length, seed, scratchLanes);
  }
  return { a: scratchLanes[0] ?? 0, b: scratchLanes[1] ?? 0 };
}

/** Copies a short ASCII text; -1 where it is not one. */
function asciiInto(bytes: Uint8Array, text: string): number {
  if (text.length > bytes.length) return -1;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit > 0x7f) return -1;
    bytes[i] = unit;
  }
  return text.length;
}

/** MurmurHash3_x86_128 of the first `length` bytes; writes its four lanes in order. */
export function murmur128(bytes: Uint8Array, length: number, seed: number, lanes: Int32Array): void {
  let h1 = seed | 0;
  let h2 = h1;
  let h3 = h1;
  let h4 = h1;
  const blocksEnd = length & ~15;
  for (let i = 0; i < blocksEnd; i += 16) {
    h1 ^= Math.imul(rotate(Math.imul(word(bytes, i), c1), 15), c2);
    h1 = (Math.imul((rotate(h1, 19) + h2) | 0, 5) + 0x561ccd1b) | 0;
    h2 ^= Math.imul(rotate(Math.imul(word(bytes, i + 4), c2), 16), c3);
    h2 = (Math.imul((rotate(h2, 17) + h3) | 0, 5) + 0x0bcaa747) | 0;
    h3 ^= Math.imul(rotate(Math.imul(word(bytes, i + 8), c3), 17), c4);
    h3 = (Math.imul((rotate(h3, 15) + h4) | 0, 5) + 0x96cd1c35) | 0;
    h4 ^= Math.imul(rotate(Math.imul(word(bytes, i + 12), c4), 18), c1);
    h4 = (Math.imul((rotate(h4, 13) + h1) | 0, 5) + 0x32ac3b17) | 0;
  }
  const rest = length - blocksEnd;
  if (rest > 12) h4 ^= Math.imul(rotate(Math.imul(tail(bytes, blocksEnd + 12, rest - 12), c4), 18), c1);
  if (rest > 8) h3 ^= Math.imul(rotate(Math.imul(tail(bytes, blocksEnd + 8, rest - 8), c3), 17), c4);
  if (rest > 4) h2 ^= Math.imul(rotate(Math.imul(tail(bytes, blocksEnd + 4, rest - 4), c2), 16), c3);
  if (rest > 0) h1 ^= Math.imul(rotate(Math.imul(tail(bytes, blocksEnd, rest), c1), 15), c2);
  finish(h1 ^ length, h2 ^ length, h3 ^ length, h4 ^ length, lanes);
}

function finish(l1: number, l2: number, l3: number, l4: number, lanes: Int32Array): void {
  const s1 = (l1 + l2 + l3 + l4) | 0;
  const h1 = mix32(s1);
  const h2 = mix32((l2 + s1) | 0);
  const h3 = mix32((l3 + s1) | 0);
  const h4 = mix32((l4 + s1) | 0);
  const sum = (h1 + h2 + h3 + h4) | 0;
  lanes[0] = sum;
  lanes[1] = h2 + sum;
  lanes[2] = h3 + sum;
  lanes[3] = h4 + sum;
}

/** MurmurHash3's finalizer: a bijection of 32 bits in which each input bit flips each output bit half of the time. */
export function mix32(value: number): number {
  let h = value ^ (value >>> 16);
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function rotate(value: number, by: number): number {
  return (value << by) | (value >>> (32 - by));
}

function word(bytes: Uint8Array, at: number): number {
  const low = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
  return low | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
}

/** Up to four last bytes, little end first. */
function tail(bytes: Uint8Array, at: number, count: number): number {
  let value = 0;
  for (let i = Math.min(count, 4) - 1; i >= 0; i -= 1) value = (value << 8) | (bytes[at + i] ?? 0);
  return value;
}
