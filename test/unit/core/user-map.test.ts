/** What the operator wrote by hand counts, in the order the documentation says. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildMap, emptyMap, lookUp, type MapLine } from '../../../src/core/user-map.ts';

const lines: MapLine[] = [
  { file: 'users.map', line: 2, pattern: { kind: 'regex', source: '^a' }, target: { node: 'mail1' } },
  {
    file: 'users.map',
    line: 3,
    pattern: { kind: 'domain', domain: 'example.org' },
    target: { node: 'mail2' },
  },
  {
    file: 'users.map',
    line: 12,
    pattern: { kind: 'user', user: 'ann@example.org' },
    target: { pool: 'big' },
  },
  { file: 'more.map', line: 1, pattern: { kind: 'regex', source: '^an' }, target: { node: 'mail3' } },
  {
    file: 'more.map',
    line: 2,
    pattern: { kind: 'user', user: 'ann@example.org' },
    target: { node: 'mail9' },
  },
  {
    file: 'more.map',
    line: 3,
    pattern: { kind: 'domain', domain: 'example.org' },
    target: { node: 'mail9' },
  },
  { file: 'more.map', line: 4, pattern: { kind: 'user', user: 'root' }, target: { node: 'mail4' } },
];

describe('user map', () => {
  const map = buildMap(lines, 'd1');
  const cases: readonly (readonly [string, string | null])[] = [
    ['ann@example.org', 'users.map:12'],
    ['bob@example.org', 'users.map:3'],
    ['amy@example.org', 'users.map:3'],
    ['ann@example.net', 'users.map:2'],
    ['bob@example.net', null],
    ['bob@sub.example.org', null],
    ['root', 'more.map:4'],
    ['example.org', null],
    ['', null],
    ['__proto__', null],
  ];
  for (const [user, why] of cases) {
    test(`${user || 'the empty name'} is placed by ${why ?? 'no line'}`, () =>
      assert.equal(lookUp(map, user)?.why ?? null, why));
  }

  test('answers the line’s target, node or pool', () => {
    assert.deepEqual(lookUp(map, 'ann@example.org')?.target, { pool: 'big' });
    assert.deepEqual(lookUp(map, 'bob@example.org')?.target, { node: 'mail2' });
  });

  test('the empty map says nothing of anybody', () => {
    assert.equal(lookUp(emptyMap, 'ann@example.org'), null);
    assert.equal(emptyMap.digest, '');
    assert.equal(map.digest, 'd1');
  });

  test('lines survive JSON, as they must to stand in a store', () => {
    const again = buildMap(JSON.parse(JSON.stringify(lines)), 'd1');
    for (const [user, why] of cases) assert.equal(lookUp(again, user)?.why ?? null, why);
  });
});
