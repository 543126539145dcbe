/**
 * A name tried lately is never forgotten early: forgetting would skip the look into the mailbox, and deliver twice.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createRecentNames } from '../../../src/delivery/recent-names.ts';

test('a name is known for its whole span, whatever the pace, and forgotten after two', () => {
  const steps = fc.array(fc.tuple(fc.nat(9), fc.nat(80)), { maxLength: 40 });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 8 }), (all, limit) => {
      let nowMs = 0;
      const names = createRecentNames({ now: () => nowMs, spanMs: 100, limit });
      const addedAtMs = new Map<string, number>();
      for (const [name, ms] of all) {
        nowMs += ms;
        for (const [known, atMs] of addedAtMs)
          assert.ok(nowMs - atMs > 100 || names.has(known), `${known} forgotten after ${nowMs - atMs} ms`);
        names.add(String(name));
        addedAtMs.set(String(name), nowMs);
      }
      nowMs += 200;
      for (const known of addedAtMs.keys()) assert.equal(names.has(known), false);
    }),
    { numRuns: 500 },
  );
});
