/** Queued mail is tried soon, then patiently, and not for ever. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { defaultSchedule, nextAttempt } from '../../../src/core/retry.ts';

const waits = (attempts: number, ageMs = 0, chance = 0): number | null => {
  const next = nextAttempt({ attempts, ageMs, chance });
  return next.kind === 'retry' ? next.afterMs : null;
};

describe('retry', () => {
  test('waits 5 s at first, doubles, and stays at 15 minutes', () => {
    assert.deepEqual(
      [0, 1, 2, 3, 4, 8, 9, 50, 1e9].map(attempts => waits(attempts)),
      [5_000, 5_000, 10_000, 20_000, 40_000, 640_000, 900_000, 900_000, 900_000],
    );
  });

  test('gives up after five days, with a last attempt right at their end', () => {
    const { lifeMs } = defaultSchedule;
    assert.equal(waits(500, lifeMs - 60_000), 60_000);
    assert.equal(waits(500, lifeMs - 1), 1);
    assert.equal(waits(501, lifeMs), null);
    assert.equal(waits(501, lifeMs + 1e12), null);
  });

  test('jitter takes off at most a quarter, so a returning node is not met by everything at once', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 100 }),
        fc.double({ min: 0, max: 0.999999, noNaN: true }),
        (attempts, chance) => {
          const plain = waits(attempts) ?? 0;
          const jittered = waits(attempts, 0, chance) ?? 0;
          assert.ok(jittered <= plain && jittered >= plain * 0.75 - 1);
        },
      ),
    );
    assert.notEqual(waits(5, 0, 0.2), waits(5, 0, 0.8));
  });

  test('a wall clock stepped back does not end a message, nor give it a wait without end', () => {
    assert.equal(waits(1, -1e15), 5_000);
  });

  test('every queued message ends: retries and waits run out within its life', () => {
    let ageMs = 0;
    let attempts = 0;
    for (let next = nextAttempt({ attempts, ageMs, chance: 0.5 }); next.kind === 'retry'; attempts += 1) {
      ageMs += next.afterMs;
      next = nextAttempt({ attempts: attempts + 1, ageMs, chance: 0.5 });
    }
    assert.equal(ageMs, defaultSchedule.lifeMs);
    assert.ok(attempts > 400 && attempts < 700, `${attempts}`);
  });
});
