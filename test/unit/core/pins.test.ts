import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  dropPins,
  firstOfRanges,
  inRanges,
  joinRanges,
  outsideRanges,
  type PinSet,
  packKeys,
  pinCount,
  pinIndex,
  pinKey,
  rangesOf,
  rangesSize,
  sortKeys,
  tallyPins,
  unpackKeys,
} from '../../../src/core/pins.ts';

const indexes = fc.uniqueArray(fc.nat(60)).map(list => list.sort((a, b) => a - b));

describe('pins', () => {
  test('the hash of a user never changes, since pins outlive processes', () => {
    assert.equal(pinKey('alice@example.org'), 4538599112427915);
    assert.equal(pinKey('bob'), 3659201507943151);
    assert.equal(pinKey('jürgen@example.org'), 74554671611952);
  });

  test('a key is a safe integer for any name', () => {
    fc.assert(fc.property(fc.string({ unit: 'grapheme' }), user => Number.isSafeInteger(pinKey(user))));
  });

  test('100,000 users have 100,000 keys', () => {
    const keys = sortKeys(Array.from({ length: 100_000 }, (_, i) => pinKey(`user${i}@example.org`)));
    assert.equal(keys.length, 100_000);
  });

  test('keys survive packing, any of them', () => {
    fc.assert(
      fc.property(fc.array(fc.maxSafeNat()), keys => {
        const sorted = sortKeys(keys);
        assert.deepEqual(unpackKeys(packKeys(sorted)), sorted);
      }),
    );
    assert.equal(packKeys([Number.MAX_SAFE_INTEGER]).length, 9);
  });

  test('text that is no packed keys is refused, not guessed', () => {
    for (const text of ['A', 'AAAAAAAA!', '_________', 'AAAAAAAAAA'])
      assert.equal(unpackKeys(text), null, text);
  });

  test('ranges say exactly what their indexes say', () => {
    fc.assert(
      fc.property(indexes, indexes, (a, b) => {
        const joined = joinRanges(rangesOf(a), rangesOf(b));
        const outside = outsideRanges(joined, 64);
        for (let i = 0; i < 64; i += 1) {
          assert.equal(inRanges(joined, i), a.includes(i) || b.includes(i));
          assert.equal(inRanges(outside, i), !inRanges(joined, i));
        }
        assert.equal(rangesSize(joined), new Set([...a, ...b]).size);
        assert.equal(rangesSize(firstOfRanges(joined, 5)), Math.min(5, rangesSize(joined)));
      }),
    );
  });

  test('dropping pins drops those and no others, also where the set is written anew', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.maxSafeNat(), { minLength: 1, maxLength: 60 }), indexes, (keys, gone) => {
        const set: PinSet = { id: 'p/n', node: 'n', epoch: 7, keys: sortKeys(keys), dropped: [] };
        const left = dropPins([set], 'p/n', rangesOf(gone), 9);
        for (const [index, key] of set.keys.entries())
          assert.equal(
            left.some(each => pinIndex(each, key) >= 0),
            !gone.includes(index),
          );
        assert.ok(left.every(each => pinCount(each) > 0 && each.epoch === 7));
        // A late drop by index must not hit a set that was written anew.
        if (left.some(each => each.id !== 'p/n')) assert.deepEqual(dropPins(left, 'p/n', [0, 60], 10), left);
      }),
    );
  });

  test('the tally notices a missing, a foreign and a misplaced pin', () => {
    const tally = (pins: Record<string, number[]>) => tallyPins(new Map(Object.entries(pins))).digest;
    const whole = tally({ a: [1, 2], b: [3] });
    assert.equal(tally({ b: [3], a: [2, 1, 1] }), whole);
    for (const other of [{ a: [1], b: [3] }, { a: [1, 4], b: [3] }, { a: [1, 2, 3] }, { a: [1, 3], b: [2] }])
      assert.notEqual(tally(other), whole);
  });
});
