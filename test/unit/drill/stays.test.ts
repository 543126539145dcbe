/** Whether a user was on two nodes at once, told from spans of sessions and instants of deliveries. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { lastNodeOf, overlaps, type Stay } from '../../../src/drill/stays.ts';

function session(node: string, fromMs: number, untilMs: number, user = 'alice@example.org'): Stay {
  return { user, node, what: 'session', fromMs, untilMs };
}

function delivery(node: string, atMs: number, user = 'alice@example.org'): Stay {
  return { user, node, what: 'delivery', fromMs: atMs, untilMs: atMs };
}

describe('a user on two nodes at once', () => {
  test('is seen when two sessions overlap, whichever is listed first', () => {
    const stays = [session('mail2', 500, 900), session('mail1', 0, 700)];
    const [found] = overlaps(stays, 50);
    assert.deepEqual([found?.first.node, found?.second.node, found?.lengthMs], ['mail1', 'mail2', 200]);
    assert.equal(overlaps(stays.toReversed(), 50).length, 1);
  });

  test('is not two sessions on one node, two users, or one session after the other', () => {
    assert.deepEqual(overlaps([session('mail1', 0, 700), session('mail1', 500, 900)], 0), []);
    assert.deepEqual(
      overlaps([session('mail1', 0, 700), session('mail2', 500, 900, 'bob@example.org')], 0),
      [],
    );
    assert.deepEqual(overlaps([session('mail1', 0, 500), session('mail2', 500, 900)], 0), []);
  });

  test('is seen when a message reaches another node in the middle of a session', () => {
    assert.equal(overlaps([session('mail1', 0, 1000), delivery('mail2', 500)], 50).length, 1);
    assert.equal(overlaps([session('mail1', 0, 1000), delivery('mail1', 500)], 50).length, 0);
  });

  test('is not the difference between two logs: shorter than the tolerance counts for nothing', () => {
    assert.deepEqual(overlaps([session('mail1', 0, 530), session('mail2', 500, 900)], 50), []);
    assert.deepEqual(overlaps([session('mail1', 0, 530), delivery('mail2', 500)], 50), []);
  });

  test('is seen in a long session behind many short ones', () => {
    const short = Array.from({ length: 50 }, (_, n) => session('mail1', 10 * n, 10 * n + 5));
    assert.equal(overlaps([session('mail2', 0, 1000), ...short], 0).length, 50);
  });

  test('is found exactly where a slow comparison of all pairs finds it', () => {
    const stay = fc
      .record({
        node: fc.constantFrom('mail1', 'mail2'),
        fromMs: fc.nat(100),
        lengthMs: fc.integer({ min: 1, max: 40 }),
      })
      .map(({ node, fromMs, lengthMs }) => session(node, fromMs, fromMs + lengthMs));
    fc.assert(
      fc.property(fc.array(stay, { maxLength: 12 }), stays => {
        let pairs = 0;
        for (const [n, a] of stays.entries())
          for (const b of stays.slice(n + 1))
            if (a.node !== b.node && Math.min(a.untilMs, b.untilMs) - Math.max(a.fromMs, b.fromMs) > 3)
              pairs++;
        assert.equal(overlaps(stays, 3).length, pairs);
      }),
    );
  });
});

test("a user's last node is that of the session which began last; deliveries don't count", () => {
  const stays = [session('mail2', 500, 900), session('mail1', 0, 2000), delivery('mail3', 3000)];
  assert.equal(lastNodeOf(stays, 'alice@example.org'), 'mail2');
  assert.equal(lastNodeOf(stays, 'nobody@example.org'), null);
});
