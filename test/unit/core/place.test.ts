import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { packKeys, pinKey, sortKeys } from '../../../src/core/pins.ts';
import { place, rankingOf } from '../../../src/core/place.ts';
import type { Place } from '../../../src/core/types.ts';
import { buildMap } from '../../../src/core/user-map.ts';
import { apply, type View, type ViewEvent } from '../../../src/core/view.ts';
import { after, nodeSpec, users, viewOf } from './cluster-fixture.ts';

const nodeOf = (where: Place): string => (where.kind === 'none' ? 'none' : where.node);
const pin = (view: View, user: string, node: string): View =>
  apply(
    view,
    [
      {
        kind: 'pins-added',
        set: {
          id: `p${view.epoch}/${node}`,
          node,
          epoch: view.epoch + 1,
          keys: packKeys(sortKeys([pinKey(user)])),
          dropped: [],
        },
      },
    ],
    view.epoch + 1,
  );
const homeOf = (view: View, user: string): string => nodeOf(place(view, user));
const other = (view: View, node: string): string => view.nodes.find(each => each.name !== node)?.name ?? '';
const move = (key: string, node: string): ViewEvent => ({
  kind: 'override-set',
  key,
  target: { node },
  until: 'removed',
});

const three = viewOf(['n1', 'n2', 'n3']);
const user = 'alice@example.org';
const home = homeOf(three, user);
const second = rankingOf(three, user)[1]?.node ?? '';

describe('where a user is placed', () => {
  test('at home while nothing is wrong, with the reason in words', () => {
    assert.deepEqual(place(three, user), {
      kind: 'home',
      node: home,
      why: 'first in the ranking of pool default',
    });
  });

  test('at the next node of the ranking when home is down, and why says which was passed over', () => {
    const where = place(after(three, { kind: 'node-down', node: home }), user);
    assert.equal(where.kind, 'failover');
    assert.equal(nodeOf(where), second);
    assert.match(where.why, new RegExp(`${home} \\(down\\)`));
  });

  test('a stand-in says whether the home is dead or was taken out of service in order', () => {
    const dead = place(after(three, { kind: 'node-down', node: home }), user);
    const drained = place(after(three, { kind: 'admin', node: home, state: 'drain' }), user);
    const ordered = after(three, move(user, second));
    const orderDead = place(after(ordered, { kind: 'node-down', node: second }), user);
    assert.deepEqual(
      [dead, drained, orderDead].map(where => where.kind === 'failover' && where.homeDown),
      [true, false, true],
    );
  });

  test('nowhere yet, while a fence is required and has not confirmed', () => {
    const fenced = viewOf(['n1', 'n2', 'n3'], { fence: 'required' });
    const down = after(fenced, { kind: 'node-down', node: home });
    assert.equal(place(down, user).kind, 'held');
    const late = after(down, { kind: 'fenced', node: home, incident: down.epoch - 1 });
    assert.equal(place(late, user).kind, 'held', 'a confirmation of an earlier incident');
    const confirmed = after(down, { kind: 'fenced', node: home, incident: down.epoch });
    assert.equal(nodeOf(place(confirmed, user)), second);
  });

  test('not at a node in drain, in maintenance or of weight 0, unless pinned there', () => {
    for (const event of [
      { kind: 'admin', node: home, state: 'drain' },
      { kind: 'weight', node: home, weight: 0 },
    ] as const) {
      const view = after(three, event);
      assert.equal(homeOf(view, user), second, JSON.stringify(event));
      assert.equal(place(pin(view, user, home), user).kind, 'pin');
    }
    assert.equal(homeOf(after(three, { kind: 'admin', node: home, state: 'maint' }), user), second);
  });

  test('a node that drained before it died holds nobody but those pinned to it', () => {
    const fenced = viewOf(['n1', 'n2', 'n3'], { fence: 'required' });
    const drained = pin(after(fenced, { kind: 'admin', node: home, state: 'drain' }), 'pinned@x', home);
    const down = after(drained, { kind: 'node-down', node: home });
    assert.equal(place(down, 'pinned@x').kind, 'held');
    for (const each of users) assert.deepEqual(place(down, each).kind, place(drained, each).kind, each);
  });

  test('the store wins over the map file, an exact user over its domain, and both over the ranking', () => {
    const lines = [
      {
        file: 'users.map',
        line: 12,
        pattern: { kind: 'user', user },
        target: { node: 'n1' },
      } as const,
    ];
    const maps = new Map([['d', buildMap(lines, 'd')]]);
    const mapped = apply(three, [{ kind: 'map', digest: 'd' }], 2, maps);
    assert.deepEqual(place(mapped, user), { kind: 'override', node: 'n1', why: 'users.map:12' });
    const domain = after(mapped, move('@example.org', 'n2'));
    assert.equal(homeOf(domain, user), 'n2');
    assert.equal(homeOf(after(domain, move(user, 'n3')), user), 'n3');
    assert.equal(homeOf(after(mapped, move('/^ali.*/', 'n3')), user), 'n3');
    assert.match(place(domain, user).why, /override @example.org to n2 since view 3/);
  });

  test('an override to a pool ranks within it; an override to a node that is down falls back to its pool', () => {
    const specs = [nodeSpec('n1'), nodeSpec('e1', { pool: 'east' }), nodeSpec('e2', { pool: 'east' })];
    const pools = after(three, { kind: 'nodes', specs });
    const east = after(pools, {
      kind: 'override-set',
      key: user,
      target: { pool: 'east' },
      until: 'removed',
    });
    const first = homeOf(east, user);
    assert.match(first, /^e/);
    const down = after(east, { kind: 'node-down', node: first });
    assert.equal(homeOf(down, user), first === 'e1' ? 'e2' : 'e1');
    const toNode = after(pools, move(user, 'e1'), { kind: 'node-down', node: 'e1' });
    assert.equal(homeOf(toNode, user), 'e2');
    assert.match(place(toNode, user).why, /but e1 is down/);
  });

  test('a pin keeps a user where it is, until an order names it', () => {
    const away = other(three, home);
    const pinned = pin(three, user, away);
    assert.equal(place(pinned, user).kind, 'pin');
    assert.equal(nodeOf(place(pinned, user)), away);
    const ordered = after(pinned, move(user, home));
    assert.equal(place(ordered, user).kind, 'override');
    // Answered during that very move: a delivery that would not settle stays.
    assert.equal(place(pin(ordered, user, away), user).kind, 'pin');
  });

  test('nobody can take the user: it says which nodes it tried', () => {
    const down = after(three, ...['n1', 'n2', 'n3'].map(node => ({ kind: 'node-down', node }) as const));
    const where = place(down, user);
    assert.equal(where.kind, 'none');
    assert.match(where.why, /n1 \(down\)/);
    assert.equal(place(viewOf([]), user).kind, 'none');
  });

  test('an override to a node that is gone says so and goes by the ranking', () => {
    const gone = after(three, move(user, 'n1'), { kind: 'nodes', specs: [nodeSpec('n2'), nodeSpec('n3')] });
    assert.match(place(gone, user).why, /there is no node n1/);
    assert.match(homeOf(gone, user), /n2|n3/);
  });

  test('50,000 placements do not take seconds', () => {
    const down = after(three, { kind: 'node-down', node: 'n1' });
    const start = performance.now();
    for (let i = 0; i < 50_000; i += 1) place(down, `user${i}@example.org`);
    assert.ok(performance.now() - start < 2500, `${performance.now() - start} ms for 50,000`);
  });
});
