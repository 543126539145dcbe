/** The drill must be able to fail: each promise, broken alone, is named, and a drill that saw nothing is no success. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { countCanaries } from '../../../src/drill/canaries.ts';
import { brokenPromises, type DrillRecord, reportLines } from '../../../src/drill/report.ts';

const bounds = { backWithinMs: 3000 };
const alice = 'alice@example.org';
const canaries = countCanaries(
  [{ number: 1, user: alice, way: 'smtp', end: 'acknowledged', tries: 1, doubtful: false }],
  [{ number: 1, user: alice }],
  new Set(),
);

const good: DrillRecord = {
  victim: 'mail2',
  detectedMs: 310,
  returnedMs: 220,
  heldSessions: 3,
  cuts: [{ user: alice, node: 'mail2', atMs: 4, backMs: 700 }],
  refusedLogins: [{ user: alice, kind: 'unavailable', text: 'NO [UNAVAILABLE]' }],
  homeUsers: [alice],
  homeAgain: [alice],
  homeAgainMs: 6000,
  canaries,
  deliveries: { byNode: { mail1: 3, mail3: 4 }, direct: 2, queued: 1 },
  overlaps: [],
  witnessedSessions: 5,
};

const stay = { user: alice, what: 'session', fromMs: 0, untilMs: 500 } as const;

describe('a drill', () => {
  test('in which all went well breaks no promise and says so', () => {
    assert.deepEqual(brokenPromises(good, bounds), []);
    assert.equal(reportLines(good, bounds).at(-1), 'All promises were kept.');
  });

  const broken: readonly [string, Partial<DrillRecord>, RegExp][] = [
    [
      'a lost message',
      { canaries: { ...canaries, lost: ['7 → bob@example.org'] } },
      /lost.*7 → bob@example.org/,
    ],
    ['a message delivered twice', { canaries: { ...canaries, twice: ['7 → a@b'] } }, /twice/],
    ['a message in a strange mailbox', { canaries: { ...canaries, strange: ['7 → a@b'] } }, /never sent/],
    ['a 5xx for an existing user', { canaries: { ...canaries, rejected: ['7 → a@b'] } }, /refused for good/],
    ['mail that is never taken', { canaries: { ...canaries, pending: 3 } }, /3 messages/],
    ['nothing acknowledged at all', { canaries: { ...canaries, acknowledged: 0 } }, /no message/],
    ['a death nobody noticed', { detectedMs: null }, /nobody noticed/],
    ['a return nobody noticed', { returnedMs: null }, /nobody noticed/],
    [
      'an outage that looks like a wrong password',
      { refusedLogins: [{ user: alice, kind: 'wrong-password', text: '' }] },
      /wrong password to alice/,
    ],
    [
      'a session cut though its node lived',
      { cuts: [{ user: alice, node: 'mail1', atMs: 4, backMs: 10 }] },
      /node lived: alice/,
    ],
    [
      'a session that never came back',
      { cuts: [{ user: alice, node: 'mail2', atMs: 4, backMs: null }] },
      /never came back: alice/,
    ],
    [
      'a session that came back late',
      { cuts: [{ user: alice, node: 'mail2', atMs: 4, backMs: 3311 }] },
      /back later/,
    ],
    ['a user that never went home', { homeAgain: [] }, /not home again: alice/],
    [
      'a user on two nodes',
      {
        overlaps: [
          {
            user: alice,
            first: { ...stay, node: 'mail1' },
            second: { ...stay, node: 'mail2' },
            lengthMs: 500,
          },
        ],
      },
      /two nodes at once: alice.*mail1.*mail2/,
    ],
    ['nodes that tell of no session', { witnessedSessions: 0 }, /nobody knows/],
  ];
  for (const [name, change, says] of broken) {
    test(`fails for ${name}, and names it`, () => {
      const sentences = brokenPromises({ ...good, ...change }, bounds);
      assert.equal(sentences.length, 1);
      assert.match(sentences[0] ?? '', says);
      assert.match(reportLines({ ...good, ...change }, bounds).join('\n'), /BROKEN: /);
    });
  }

  test('forgives copies that somebody had named in doubt, but counts them', () => {
    const record = { ...good, canaries: { ...canaries, twiceInDoubt: ['1 → a@b'], inDoubt: 1 } };
    assert.deepEqual(brokenPromises(record, bounds), []);
    assert.match(reportLines(record, bounds).join('\n'), /1 twice, 1 in doubt/);
  });

  test('shows the first names of a long list and how many more there are', () => {
    const lost = Array.from({ length: 30 }, (_, n) => `${n} → a@b`);
    assert.match(
      brokenPromises({ ...good, canaries: { ...canaries, lost } }, bounds)[0] ?? '',
      /and 22 more$/,
    );
  });
});
