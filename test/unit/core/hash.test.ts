/** The hash is the published one, bit for bit, and stays it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hash64, mix32, murmur128 } from '../../../src/core/hash.ts';

const hex = (text: string, seed?: number): string => {
  const { a, b } = hash64(text, seed);
  return [a, b].map(lane => (lane >>> 0).toString(16).padStart(8, '0')).join('');
};

describe('hash', () => {
  test('is MurmurHash3_x86_128: SMHasher gets its verification value 0xB3ECE62A', () => {
    // SMHasher's VerificationTest: hash {}, {0}, {0,1} … with seed 256 - n, then hash the hashes, and take the first four bytes.
    const key = Uint8Array.from({ length: 256 }, (_, i) => i);
    const hashes = new Uint8Array(256 * 16);
    const lanes = new Int32Array(4);
    for (let length = 0; length < 256; length += 1) {
      murmur128(key, length, 256 - length, lanes);
      hashes.set(new Uint8Array(lanes.buffer), length * 16);
    }
    murmur128(hashes, hashes.length, 0, lanes);
    assert.equal(((lanes[0] ?? 0) >>> 0).toString(16), 'b3ece62a');
  });

  test('gives the golden vectors for ever', () => {
    assert.deepEqual(
      ['', 'a', 'mail1', 'joe@example.org', 'jörg@example.org', 'x'.repeat(300), 'ü'.repeat(700)].map(text =>
        hex(text),
      ),
      [
        '0000000000000000',
        'a794933c5556b01b',
        '5d7f745ea2464133',
        '3fa8ca0cfc5aad4e',
        'b06d53765e7f88f0',
        '18c1ea71eae59a3c',
        '8d2ad88f5234e817',
      ],
    );
    assert.equal(hex('mail1', 0x686f6d65), 'c195bab2aa70d906');
  });

  test('reads text as UTF-8, whether short, long, ASCII or not', () => {
    for (const text of [
      '',
      'abc',
      'é',
      '漢字😀',
      'a'.repeat(1024),
      'a'.repeat(1025),
      `${'a'.repeat(1023)}é`,
    ]) {
      const bytes = Buffer.from(text, 'utf8');
      const lanes = new Int32Array(4);
      murmur128(bytes, bytes.length, 7, lanes);
      assert.deepEqual(hash64(text, 7), { a: lanes[0], b: lanes[1] });
    }
  });

  test('flips about half of the 64 bits when one bit of the name changes', () => {
    let flipped = 0;
    let pairs = 0;
    for (let i = 0; i < 2000; i += 1) {
      const name = `user${i}@example.org`;
      const near = `user${i}@example.orf`;
      const x = hash64(name);
      const y = hash64(near);
      flipped += ones(x.a ^ y.a) + ones(x.b ^ y.b);
      pairs += 1;
    }
    const mean = flipped / pairs;
    assert.ok(Math.abs(mean - 32) < 0.5, `mean ${mean}`);
  });

  test('has no two equal 64-bit hashes among 200,000 like names', () => {
    const seen = new Set<string>();
    for (let i = 0; i < 200_000; i += 1) seen.add(`${hash64(`u${i}`).a},${hash64(`u${i}`).b}`);
    assert.equal(seen.size, 200_000);
  });

  test('takes well under the time a login may spend on it', () => {
    const names = Array.from({ length: 20_000 }, (_, i) => `user${i}@example.org`);
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 10; round += 1) {
      const start = performance.now();
      let sum = 0;
      for (const name of names) sum ^= hash64(name).a;
      assert.equal(typeof sum, 'number');
      best = Math.min(best, ((performance.now() - start) * 1000) / names.length);
    }
    // 0.08 µs where nothing else runs (goal 0.2); the test's limit leaves room for a loaded machine.
    assert.ok(best < 1, `${best} µs a hash`);
  });

  test('mixes small integers without a fixed point but zero', () => {
    assert.equal(mix32(0), 0);
    for (let i = 1; i < 10_000; i += 1) assert.notEqual(mix32(i), i);
  });
});

function ones(value: number): number {
  let count = 0;
  for (let rest = value >>> 0; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
