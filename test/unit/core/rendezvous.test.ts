/** Who goes where: spread, least movement, and the same answer everywhere. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createRanker, first, minusLn, rank, type Weighted } from '../../../src/core/rendezvous.ts';

const users = Array.from({ length: 100_000 }, (_, i) => `user${i}@example.org`);

function nodesOf(count: number, weight = 100): Weighted[] {
  return Array.from({ length: count }, (_, i) => ({ name: `mail${i + 1}`, weight }));
}

function homes(keys: readonly string[], nodes: readonly Weighted[]): (string | null)[] {
  const ranker = createRanker(nodes);
  return keys.map(key => ranker.first(key));
}

function counts(keys: readonly string[], nodes: readonly Weighted[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const home of homes(keys, nodes)) found.set(home ?? '', (found.get(home ?? '') ?? 0) + 1);
  return found;
}

/** Every node's count within `sigmas` standard deviations of a fair draw. */
function assertFair(
  found: Map<string, number>,
  total: number,
  nodes: readonly Weighted[],
  sigmas: number,
): void {
  const sum = nodes.reduce((all, node) => all + node.weight, 0);
  for (const { name, weight } of nodes) {
    const share = weight / sum;
    const off = Math.abs((found.get(name) ?? 0) - total * share);
    const sigma = Math.sqrt(total * share * (1 - share));
    assert.ok(off <= sigmas * sigma, `${name}: ${off} off, ${(off / sigma).toFixed(2)} sigma`);
  }
}

const nodeName = fc.stringMatching(/^[a-z][a-z0-9-]{0,12}$/);
const someNodes = fc.uniqueArray(fc.record({ name: nodeName, weight: fc.integer({ min: 1, max: 1000 }) }), {
  minLength: 2,
  maxLength: 12,
  selector: node => node.name,
});

describe('rendezvous', () => {
  test('gives the golden rankings for ever', () => {
    const equal = nodesOf(5);
    const weighted = equal.map((node, i) => ({ ...node, weight: 50 * (i + 1) }));
    const keys = ['joe@example.org', 'ann@example.org', 'jörg@example.org', 'example.org', 'root', 'mail1'];
    assert.deepEqual(
      keys.map(key => rank(key, equal).join(' ')),
      [
        'mail4 mail5 mail3 mail2 mail1',
        'mail3 mail5 mail1 mail4 mail2',
        'mail3 mail1 mail4 mail2 mail5',
        'mail1 mail3 mail4 mail2 mail5',
        'mail2 mail4 mail3 mail1 mail5',
        'mail2 mail5 mail1 mail3 mail4',
      ],
    );
    assert.deepEqual(
      keys.map(key => rank(key, weighted).join(' ')),
      [
        'mail5 mail4 mail3 mail2 mail1',
        'mail5 mail3 mail4 mail1 mail2',
        'mail3 mail4 mail5 mail2 mail1',
        'mail4 mail3 mail5 mail1 mail2',
        'mail4 mail2 mail3 mail5 mail1',
        'mail5 mail2 mail4 mail3 mail1',
      ],
    );
  });

  test('spreads 100,000 users over equal nodes within 3 % of the even share', () => {
    for (const count of [2, 3, 4, 5, 8]) {
      const even = users.length / count;
      for (const found of counts(users, nodesOf(count)).values()) {
        assert.ok(Math.abs(found / even - 1) < 0.03, `${count} nodes: ${found} of ${even}`);
      }
    }
  });

  test('spreads 100,000 users over weighted nodes within 3 % of each share', () => {
    const nodes = [100, 200, 300, 400].map((weight, i) => ({ name: `mail${i + 1}`, weight }));
    const found = counts(users, nodes);
    for (const { name, weight } of nodes) {
      assert.ok(Math.abs((found.get(name) ?? 0) / (users.length * (weight / 1000)) - 1) < 0.03, name);
    }
  });

  test('spreads any names over any nodes within 5 sigma of a fair draw', () => {
    // Seeded: among many runs a fair draw leaves 5 sigma now and then, and a red test must mean something.
    fc.assert(
      fc.property(someNodes, fc.stringMatching(/^[a-z.]{0,8}$/), (nodes, prefix) => {
        const keys = Array.from({ length: 4000 }, (_, i) => `${prefix}${i}@example.org`);
        assertFair(counts(keys, nodes), keys.length, nodes, 5);
      }),
      { seed: 20261121, numRuns: 60 },
    );
  });

  test('spreads 64 nodes with long like names, and 1:1000 weights, within 5 sigma', () => {
    const alike = Array.from({ length: 64 }, (_, i) => ({
      name: `mail-${'0'.repeat(20)}${i}.dc1.example.org`,
      weight: 10,
    }));
    assertFair(counts(users, alike), users.length, alike, 5);
    const steep = [1, 10, 100, 1000].map((weight, i) => ({ name: `n${i}`, weight }));
    assertFair(counts(users, steep), users.length, steep, 5);
  });

  test('spreads the users of a lost node over all survivors by their weights, not onto one', () => {
    const nodes = [100, 100, 200, 300].map((weight, i) => ({ name: `mail${i + 1}`, weight }));
    const ranker = createRanker(nodes);
    const lost = users.map(user => ranker.rank(user)).filter(ranking => ranking[0] === 'mail1');
    const seconds = new Map<string, number>();
    for (const [, second] of lost) seconds.set(second ?? '', (seconds.get(second ?? '') ?? 0) + 1);
    assertFair(seconds, lost.length, nodes.slice(1), 5);
  });

  test('draws independently of the order and of neighbours: users of one node have unrelated homes under other names', () => {
    const before = homes(users, nodesOf(4));
    const other = Array.from({ length: 4 }, (_, i) => ({ name: `box${i + 1}`, weight: 100 }));
    const after = homes(users, other);
    const mine = after.filter((_, i) => before[i] === 'mail1');
    const found = new Map<string, number>();
    for (const home of mine) found.set(home ?? '', (found.get(home ?? '') ?? 0) + 1);
    assertFair(found, mine.length, other, 5);
  });

  test('a node that leaves moves exactly its own users, each to its second choice', () => {
    fc.assert(
      fc.property(someNodes, fc.nat(), (nodes, pick) => {
        const gone = nodes[pick % nodes.length]?.name ?? '';
        const left = nodes.filter(node => node.name !== gone);
        for (let i = 0; i < 300; i += 1) {
          const ranking = rank(`user${i}@example.org`, nodes);
          assert.deepEqual(
            rank(`user${i}@example.org`, left),
            ranking.filter(name => name !== gone),
          );
        }
      }),
      { numRuns: 40 },
    );
  });

  test('a node that joins takes only what it gets: nobody moves between the others', () => {
    const old = nodesOf(7);
    const before = homes(users, old);
    const after = homes(users, [...old, { name: 'new', weight: 50 }]);
    const moved = after.filter((home, i) => home !== before[i]);
    assert.ok(moved.every(home => home === 'new'));
    assert.ok(moved.length > 0);
    assert.equal(moved.length, after.filter(home => home === 'new').length);
  });

  test('a weight that grows only draws users, one that shrinks only gives them', () => {
    const nodes = nodesOf(5);
    const before = homes(users.slice(0, 20_000), nodes);
    const heavier = homes(
      users.slice(0, 20_000),
      nodes.map(n => (n.name === 'mail3' ? { ...n, weight: 150 } : n)),
    );
    assert.ok(heavier.every((home, i) => home === before[i] || home === 'mail3'));
    const lighter = homes(
      users.slice(0, 20_000),
      nodes.map(n => (n.name === 'mail3' ? { ...n, weight: 60 } : n)),
    );
    assert.ok(lighter.every((home, i) => home === before[i] || before[i] === 'mail3'));
  });

  test('the order in which nodes are written does not count, and first is the head of rank', () => {
    fc.assert(
      fc.property(someNodes, fc.string(), fc.nat(), (nodes, key, turn) => {
        const turned = [
          ...nodes.slice(turn % nodes.length),
          ...nodes.slice(0, turn % nodes.length),
        ].reverse();
        assert.deepEqual(rank(key, nodes), rank(key, turned));
        assert.equal(first(key, nodes), rank(key, nodes)[0]);
      }),
    );
  });

  test('the quick way to the home node never skips it, even where two nodes nearly tie', () => {
    const nodes = Array.from({ length: 24 }, (_, i) => ({ name: `mail${i}`, weight: 1 + (i % 7) * 50 }));
    const ranker = createRanker(nodes);
    for (const user of users.slice(0, 20_000)) assert.equal(ranker.first(user), ranker.rank(user)[0]);
  });

  test('weight 0 takes nobody, and without nodes there is no home', () => {
    assert.deepEqual(
      rank('joe', [
        { name: 'a', weight: 0 },
        { name: 'b', weight: 1 },
      ]),
      ['b'],
    );
    assert.equal(first('joe', [{ name: 'a', weight: 0 }]), null);
    assert.deepEqual(rank('joe', []), []);
  });

  test('two nodes of one name and weight are no reason to fall over', () => {
    assert.deepEqual(
      rank('joe', [
        { name: 'a', weight: 1 },
        { name: 'a', weight: 1 },
      ]),
      ['a', 'a'],
    );
  });

  test('our logarithm is right to 1e-14 and ends at both ends of (0, 1)', () => {
    fc.assert(
      fc.property(fc.double({ min: 2 ** -53, max: 1 - 2 ** -53, noNaN: true }), x => {
        assert.ok(Math.abs(minusLn(x) / -Math.log(x) - 1) < 1e-14);
      }),
    );
    assert.equal(minusLn(1 - 2 ** -53), 2 ** -53);
    assert.ok(minusLn(2 ** -53) > 36.7);
  });

  test('100,000 users find their home quickly, on 3 nodes and on 64', () => {
    for (const count of [3, 64]) {
      const ranker = createRanker(nodesOf(count));
      const start = performance.now();
      for (const user of users) ranker.first(user);
      const ms = performance.now() - start;
      // 20 and 170 ms where nothing else runs.
      assert.ok(ms < 1500, `${count} nodes: ${ms} ms`);
    }
  });
});
