import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { packKeys, pinKey, sortKeys } from '../../../src/core/pins.ts';
import { buildMap } from '../../../src/core/user-map.ts';
import {
  apply,
  changesNothing,
  checkEvents,
  fromImage,
  missingMap,
  toImage,
  unfencedNodes,
  type View,
  type ViewEvent,
} from '../../../src/core/view.ts';
import { after, nodeSpec, viewOf } from './cluster-fixture.ts';

const three = viewOf(['n3', 'n1', 'n2']);
const nodeIn = (view: View, name: string) => view.nodes.find(node => node.name === name);
const pins = (node: string, ...users: string[]): ViewEvent => ({
  kind: 'pins-added',
  set: { id: `p/${node}`, node, epoch: 2, keys: packKeys(sortKeys(users.map(pinKey))), dropped: [] },
});
const specs = (...names: string[]): ViewEvent => ({
  kind: 'nodes',
  specs: names.map(name => nodeSpec(name)),
});

describe('the view', () => {
  test('nodes stand by name, ready and up', () => {
    assert.deepEqual(
      three.nodes.map(({ name, admin, health }) => `${name} ${admin} ${health}`),
      ['n1 ready up', 'n2 ready up', 'n3 ready up'],
    );
  });

  test('a death has an incident: the epoch of the view that says so', () => {
    const fenced = viewOf(['n1'], { fence: 'required' });
    const down = after(fenced, { kind: 'node-down', node: 'n1' });
    assert.equal(nodeIn(down, 'n1')?.incident, 2);
    assert.deepEqual(unfencedNodes(down), ['n1']);
    const again = after(down, { kind: 'node-down', node: 'n1' });
    assert.equal(nodeIn(again, 'n1')?.incident, 2, 'the same incident, said twice');
    const up = after(again, { kind: 'node-up', node: 'n1' });
    assert.equal(nodeIn(up, 'n1')?.incident, 0);
    assert.equal(nodeIn(after(up, { kind: 'node-down', node: 'n1' }), 'n1')?.incident, 5);
  });

  test('without a fence a dead node is fenced at once and its pins are gone', () => {
    const down = after(three, pins('n1', 'a'), { kind: 'node-down', node: 'n1' });
    assert.equal(nodeIn(down, 'n1')?.fenced, true);
    assert.equal(down.pins.length, 0);
  });

  test('with a fence, pins to a dying node stay until it is confirmed', () => {
    const down = after(viewOf(['n1', 'n2'], { fence: 'required' }), pins('n1', 'a'), {
      kind: 'node-down',
      node: 'n1',
    });
    assert.equal(down.pins.length, 1);
    assert.equal(after(down, { kind: 'fenced', node: 'n1', incident: down.epoch }).pins.length, 0);
  });

  test('a weight set by command lasts until the settings change that weight', () => {
    const set = after(three, { kind: 'weight', node: 'n1', weight: 7 }, specs('n1', 'n2', 'n3', 'n4'));
    assert.equal(nodeIn(set, 'n1')?.weight, 7);
    const changed = after(set, { kind: 'nodes', specs: [nodeSpec('n1', { weight: 50 })] });
    assert.equal(nodeIn(changed, 'n1')?.weight, 50);
  });

  test('a removed node stays in maintenance until its pins have ended, then it goes', () => {
    const leaving = after(apply(three, [specs('n1', 'n2'), pins('n3', 'delivery')], 2));
    assert.equal(nodeIn(leaving, 'n3')?.admin, 'maint');
    const later = after(leaving, { kind: 'weight', node: 'n1', weight: 1 });
    assert.ok(nodeIn(later, 'n3'), 'still pinned');
    const dropped = after(later, { kind: 'pins-dropped', set: 'p/n3', ranges: [0, 1] }, specs('n1', 'n2'));
    assert.equal(nodeIn(dropped, 'n3'), undefined);
    assert.deepEqual(dropped.leaving, []);
  });

  test('a node that comes back while it leaves is ready again', () => {
    const back = after(three, specs('n1', 'n2'), specs('n1', 'n2', 'n3'));
    assert.equal(nodeIn(back, 'n3')?.admin, 'ready');
    assert.deepEqual(back.leaving, []);
  });

  test('it survives being kept: image to JSON and back is the same view', () => {
    const map = buildMap(
      [{ file: 'm', line: 1, pattern: { kind: 'user', user: 'a' }, target: { node: 'n1' } }],
      'd',
    );
    const maps = new Map([['d', map]]);
    const view = after(
      apply(three, [{ kind: 'map', digest: 'd' }], 2, maps),
      { kind: 'override-set', key: '@x', target: { pool: 'default' }, until: 'removed' },
      pins('n1', 'a', 'b', 'c'),
      { kind: 'pins-dropped', set: 'p/n1', ranges: [1, 2] },
    );
    const image = JSON.parse(JSON.stringify(toImage(view)));
    assert.deepEqual(fromImage(image, maps), view);
    assert.equal(fromImage(image, new Map()), null, 'without the map content there is no view');
  });

  test('the content of a new map must be there before it can be applied', () => {
    const event: ViewEvent = { kind: 'map', digest: 'd' };
    assert.equal(missingMap([event], new Map()), 'd');
    assert.throws(() => apply(three, [event], 2));
  });

  test('apply changes no view that somebody else holds', () => {
    const frozen = JSON.stringify(toImage(three));
    const events: ViewEvent[] = [
      { kind: 'node-down', node: 'n1' },
      { kind: 'admin', node: 'n2', state: 'maint' },
      specs('n9'),
      pins('n2', 'a'),
      { kind: 'override-set', key: 'a', target: { node: 'n2' }, until: 'idle' },
    ];
    apply(three, events, 2);
    assert.equal(JSON.stringify(toImage(three)), frozen);
  });
});

describe('wishes are checked before they are proposed', () => {
  const down = after(viewOf(['n1', 'n2'], { fence: 'required' }), { kind: 'node-down', node: 'n1' });
  const cases: readonly [string, View, ViewEvent, RegExp | null][] = [
    ['unknown node', three, { kind: 'node-down', node: 'n9' }, /no node n9 \(known: n1, n2, n3\)/],
    ['old incident', down, { kind: 'fenced', node: 'n1', incident: 1 }, /of incident 1, n1 is down since 2/],
    ['no incident', down, { kind: 'fenced', node: 'n2', incident: 1 }, /no incident/],
    ['weight', three, { kind: 'weight', node: 'n1', weight: 1001 }, /0 to 1000/],
    ['NaN', three, { kind: 'weight', node: 'n1', weight: Number.NaN }, /0 to 1000/],
    ['twice', three, specs('n1', 'n1'), /named twice/],
    [
      'bad regex',
      three,
      { kind: 'override-set', key: '/(/', target: { node: 'n1' }, until: 'removed' },
      /regular/,
    ],
    [
      'no pool',
      three,
      { kind: 'override-set', key: 'a', target: { pool: 'x' }, until: 'removed' },
      /no pool x/,
    ],
    [
      'idle domain',
      three,
      { kind: 'override-set', key: '@x', target: { node: 'n1' }, until: 'idle' },
      /single user/,
    ],
    ['no override', three, { kind: 'override-removed', key: 'a' }, /no override for a/],
    ['pins by hand', three, pins('n1', 'a'), /members alone/],
    ['fine', three, { kind: 'admin', node: 'n1', state: 'drain' }, null],
  ];
  for (const [name, view, event, expected] of cases)
    test(name, () => {
      const wrong = checkEvents(view, [event]);
      if (expected === null) assert.equal(wrong, null);
      else assert.match(wrong ?? '', expected);
    });

  test('what is already so need not be proposed', () => {
    assert.ok(changesNothing(three, { kind: 'node-up', node: 'n1' }));
    assert.ok(changesNothing(three, specs('n3', 'n2', 'n1')));
    assert.ok(!changesNothing(three, specs('n3', 'n2')));
    assert.ok(!changesNothing(three, { kind: 'nodes', specs: [nodeSpec('n1', { ports: { imap: 1 } })] }));
    assert.ok(!changesNothing(three, { kind: 'node-down', node: 'n1' }));
  });
});
