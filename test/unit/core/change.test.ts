import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { change, concernedNodes, countChanges, isMixed, isUrgent } from '../../../src/core/change.ts';
import { packKeys, pinKey, sortKeys } from '../../../src/core/pins.ts';
import { place } from '../../../src/core/place.ts';
import { apply, type View, type ViewEvent } from '../../../src/core/view.ts';
import { after, nodeSpec, users, viewOf } from './cluster-fixture.ts';

const three = viewOf(['n1', 'n2', 'n3']);
const nodeIn = (view: View, user: string): string => {
  const where = place(view, user);
  return where.kind === 'none' ? '' : where.node;
};
const someone = users[0] ?? '';
const home = nodeIn(three, someone);
const away = three.nodes.find(node => node.name !== home)?.name ?? '';

describe('what a change means to a user', () => {
  test('a death closes its own users and touches no bystander', () => {
    const next = after(three, { kind: 'node-down', node: 'n2' });
    for (const user of users)
      assert.equal(change(three, next, user), nodeIn(three, user) === 'n2' ? 'close' : 'same', user);
  });

  test('maintenance closes, drain pins', () => {
    const maint = after(three, { kind: 'admin', node: home, state: 'maint' });
    const drain = after(three, { kind: 'admin', node: home, state: 'drain' });
    assert.equal(change(three, maint, someone), 'close');
    assert.equal(change(three, drain, someone), 'pin');
  });

  test('maintenance of a node that drained closes those who were pinned there', () => {
    const drain = after(three, { kind: 'admin', node: home, state: 'drain' });
    const keys = packKeys(sortKeys([pinKey(someone)]));
    const set = { id: 'p/n', node: home, epoch: drain.epoch + 1, keys, dropped: [] };
    const pinned = after(drain, { kind: 'pins-added', set });
    const maint = after(pinned, { kind: 'admin', node: home, state: 'maint' });
    assert.equal(change(pinned, maint, someone), 'close');
  });

  test('a node that returns or joins pins those who would go there', () => {
    const down = after(three, { kind: 'node-down', node: home });
    const up = after(down, { kind: 'node-up', node: home });
    assert.equal(change(down, up, someone), 'pin');
    const specs = ['n1', 'n2', 'n3', 'n4'].map(name => nodeSpec(name));
    const counts = countChanges(three, after(three, { kind: 'nodes', specs }), users);
    assert.equal(counts.close, 0);
    assert.ok(counts.pin > 0 && counts.pin < users.length / 2, JSON.stringify(counts));
  });

  test('a node that leaves closes its users and no others', () => {
    const next = after(three, { kind: 'nodes', specs: ['n1', 'n3'].map(name => nodeSpec(name)) });
    for (const user of users)
      assert.equal(change(three, next, user), nodeIn(three, user) === 'n2' ? 'close' : 'same', user);
  });

  test('a move closes the user it names; taking the override away does not', () => {
    const move: ViewEvent = { kind: 'override-set', key: someone, target: { node: away }, until: 'removed' };
    const moved = after(three, move);
    assert.equal(change(three, moved, someone), 'close');
    assert.equal(change(three, moved, users[1] ?? ''), 'same');
    assert.equal(change(moved, after(moved, { kind: 'override-removed', key: someone }), someone), 'pin');
  });

  test('a confirmed fence closes nobody who is elsewhere', () => {
    const fenced = viewOf(['n1', 'n2', 'n3'], { fence: 'required' });
    const down = after(fenced, { kind: 'node-down', node: 'n1' });
    const confirmed = after(down, { kind: 'fenced', node: 'n1', incident: down.epoch });
    for (const user of users)
      if (nodeIn(fenced, user) !== 'n1') assert.equal(change(down, confirmed, user), 'same');
  });
});

describe('urgent and planned', () => {
  test('a death and its fence are urgent, all else is planned, and the two never mix', () => {
    const death: ViewEvent = { kind: 'node-down', node: 'n1' };
    const back: ViewEvent = { kind: 'node-up', node: 'n1' };
    assert.ok(isUrgent([death, { kind: 'fenced', node: 'n1', incident: 1 }]));
    assert.ok(!isUrgent([back]) && !isUrgent([]));
    assert.ok(isMixed([death, back]) && !isMixed([death]) && !isMixed([back]));
  });
});

const nodeName = fc.constantFrom('n1', 'n2', 'n3', 'n4');
const anyEvent: fc.Arbitrary<ViewEvent> = fc.oneof(
  fc.record({ kind: fc.constant('node-down' as const), node: nodeName }),
  fc.record({ kind: fc.constant('node-up' as const), node: nodeName }),
  fc.record({ kind: fc.constant('fenced' as const), node: nodeName, incident: fc.nat(12) }),
  fc.record({
    kind: fc.constant('admin' as const),
    node: nodeName,
    state: fc.constantFrom('ready' as const, 'drain' as const, 'maint' as const),
  }),
  fc.record({ kind: fc.constant('weight' as const), node: nodeName, weight: fc.constantFrom(0, 50, 100) }),
  fc.record({
    kind: fc.constant('override-set' as const),
    key: fc.constantFrom(...users.slice(0, 9), '@example.org', '/1@/'),
    target: fc.record({ node: nodeName }),
    until: fc.constant('removed' as const),
  }),
  fc.subarray(['n1', 'n2', 'n3', 'n4']).map(names => ({
    kind: 'nodes' as const,
    specs: names.map(name => nodeSpec(name)),
  })),
  fc
    .record({ kind: fc.constant('pins-added' as const), node: nodeName, user: fc.nat(8) })
    .map(({ kind, node, user }) => ({
      kind,
      set: {
        id: `p${user}/${node}`,
        node,
        epoch: 0,
        keys: packKeys([pinKey(users[user] ?? '')]),
        dropped: [],
      },
    })),
);

test('whom an event can concern is never underestimated, in any view', () => {
  for (const fence of ['none', 'required'] as const)
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 12 }), anyEvent, (history, event) => {
        const view = after(viewOf(['n1', 'n2', 'n3'], { fence }), ...history);
        const next = apply(view, [event], view.epoch + 1);
        const concerned = concernedNodes([event]);
        if (event.kind === 'pins-added' || concerned === 'all') return;
        for (const user of users.slice(0, 40))
          if (change(view, next, user) !== 'same') {
            const before = place(view, user);
            // Nobody can be active where there was no node, or only one that holds.
            if (before.kind !== 'none' && before.kind !== 'held') assert.ok(concerned.has(before.node), user);
          }
      }),
      { numRuns: 300 },
    );
});
