/** Every recipient goes to exactly one node, or is named as waiting. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { isOtherHome, split } from '../../../src/core/split.ts';
import type { Place, Recipient } from '../../../src/core/types.ts';

function recipients(users: readonly string[]): Recipient[] {
  return users.map((user, index) => ({ index, address: user, user, detail: '', maildirName: `m${index}` }));
}

const home = (node: string): Place => ({ kind: 'home', node, why: 'ranking' });

describe('split', () => {
  test('groups by node in the order of the first recipients, duplicates included', () => {
    const places: Record<string, Place> = {
      ann: home('mail2'),
      bob: home('mail1'),
      cat: home('mail2'),
      dan: { kind: 'none', why: 'no node is up' },
      eve: { kind: 'held', node: 'mail1', why: 'not fenced' },
    };
    const { groups, unplaced } = split(
      recipients(['ann', 'bob', 'cat', 'ann', 'dan', 'eve']),
      user => places[user] ?? assert.fail(),
    );
    assert.deepEqual(
      groups.map(group => [group.node, group.recipients.map(each => each.index)]),
      [
        ['mail2', [0, 2, 3]],
        ['mail1', [1]],
      ],
    );
    assert.deepEqual(
      unplaced.map(each => [each.recipient.user, each.place.kind]),
      [
        ['dan', 'none'],
        ['eve', 'held'],
      ],
    );
  });

  test('asks for each user once, so one user never goes to two nodes even if the view changes in between', () => {
    let calls = 0;
    const { groups } = split(recipients(['ann', 'ann', 'ann']), () => home(`mail${++calls}`));
    assert.equal(calls, 1);
    assert.equal(groups.length, 1);
  });

  test('loses no recipient and keeps every group within the limit', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[a-e]$/), { maxLength: 60 }),
        fc.integer({ min: 1, max: 5 }),
        (users, limit) => {
          const { groups, unplaced } = split(
            recipients(users),
            user => (user === 'e' ? { kind: 'none', why: '' } : home(`mail${user.charCodeAt(0) % 3}`)),
            limit,
          );
          const all = [...groups.flatMap(group => group.recipients), ...unplaced.map(each => each.recipient)];
          assert.deepEqual(
            all.map(each => each.index).sort((x, y) => x - y),
            users.map((_, index) => index),
          );
          assert.ok(groups.every(group => group.recipients.length >= 1 && group.recipients.length <= limit));
        },
      ),
    );
  });

  test('pin-first tells another home from the same one', () => {
    assert.equal(isOtherHome(home('mail1'), { kind: 'override', node: 'mail1', why: '' }), false);
    assert.equal(isOtherHome(home('mail1'), home('mail2')), true);
    assert.equal(isOtherHome(home('mail1'), { kind: 'none', why: '' }), true);
  });
});
