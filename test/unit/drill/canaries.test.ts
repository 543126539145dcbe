/** The count that every drill ends with. What matters most: a lost message can never be reported as found. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type Canary, canaryName, countCanaries, type Sighting } from '../../../src/drill/canaries.ts';

const alice = 'alice@example.org';
const bob = 'bob@example.org';

function canary(number: number, over: Partial<Canary> = {}): Canary {
  return { number, user: alice, way: 'smtp', end: 'acknowledged', tries: 1, doubtful: false, ...over };
}

const seen = (number: number, user = alice): Sighting => ({ number, user });
const nobodyInDoubt: ReadonlySet<string> = new Set();

describe('counting canaries', () => {
  test('an acknowledged message that is in no mailbox is lost, by name', () => {
    const count = countCanaries([canary(1), canary(2)], [seen(1)], nobodyInDoubt);
    assert.deepEqual(count.lost, ['2 → alice@example.org']);
    assert.equal(count.found, 1);
  });

  test('a message in the wrong mailbox is lost in the one and strange in the other', () => {
    const count = countCanaries([canary(1)], [seen(1, bob)], nobodyInDoubt);
    assert.deepEqual([count.lost, count.strange], [['1 → alice@example.org'], ['1 → bob@example.org']]);
  });

  test('one message for two users is two canaries', () => {
    const count = countCanaries([canary(1), canary(1, { user: bob })], [seen(1)], nobodyInDoubt);
    assert.deepEqual(count.lost, ['1 → bob@example.org']);
  });

  test('a message that was never acknowledged is not lost', () => {
    const count = countCanaries(
      [canary(1, { end: 'pending' }), canary(2, { end: 'rejected' })],
      [],
      nobodyInDoubt,
    );
    assert.deepEqual([count.lost, count.pending, count.rejected], [[], 1, ['2 → alice@example.org']]);
  });

  test('a second copy counts as twice, unless somebody had named it in doubt', () => {
    const sightings = [seen(1), seen(1), seen(2), seen(2), seen(3), seen(3)];
    const canaries = [canary(1), canary(2, { doubtful: true }), canary(3)];
    const count = countCanaries(canaries, sightings, new Set([canaryName(seen(3))]));
    assert.deepEqual(count.twice, ['1 → alice@example.org']);
    assert.deepEqual(count.twiceInDoubt, ['2 → alice@example.org', '3 → alice@example.org']);
  });

  test('whatever is dropped on the way, exactly that is reported lost', () => {
    const numbers = fc.uniqueArray(fc.integer({ min: 1, max: 500 }), { minLength: 1 });
    fc.assert(
      fc.property(numbers, fc.func(fc.boolean()), (sent, isDropped) => {
        const arrived = sent.filter(number => !isDropped(number));
        const count = countCanaries(
          sent.map(number => canary(number)),
          arrived.map(number => seen(number)),
          nobodyInDoubt,
        );
        const dropped = sent
          .filter(number => !arrived.includes(number))
          .map(number => canaryName(seen(number)));
        assert.deepEqual(count.lost, dropped);
        assert.equal(count.found + count.lost.length, count.acknowledged);
      }),
    );
  });
});
