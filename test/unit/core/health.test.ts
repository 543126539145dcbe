/** When is a node dead? Not when it is slow, not when one client says so, and not when it is we who are cut off. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  backendHealth,
  defaultHealthRules,
  evidenceOf,
  type HealthRules,
  type HealthState,
  judge,
  nodeHealth,
  type Observation,
  observe,
  probeDelayMs,
  watchNodes,
} from '../../../src/core/health.ts';
import type { Evidence, Protocol } from '../../../src/core/types.ts';

type Answer = (node: string, protocol: Protocol, nowMs: number) => Evidence;

/** A cluster whose nodes answer as told, probed every second in a fixed order, and a view that grants every wish. */
class World {
  state: HealthState;
  readonly rules: HealthRules;
  readonly view = new Map<string, 'up' | 'down'>();
  readonly protocols: readonly Protocol[];
  nowMs = 0;
  /** `1000 mail1 node-down`. */
  readonly log: string[] = [];
  panic: string | null = null;

  constructor(
    nodes: number,
    rules: Partial<HealthRules> = {},
    protocols: readonly Protocol[] = ['imap', 'pop3', 'lmtp'],
  ) {
    this.rules = { ...defaultHealthRules, ...rules };
    this.protocols = protocols;
    for (let i = 1; i <= nodes; i += 1) this.view.set(`mail${i}`, 'up');
    this.state = watchNodes([...this.view].map(([name, health]) => ({ name, protocols, health })));
  }

  see(seen: Omit<Observation, 'nowMs'>): void {
    this.state = observe(this.state, { ...seen, nowMs: this.nowMs }, this.rules);
    const view = [...this.view].map(([name, health]) => ({ name, health }));
    const judged = judge(this.state, view, this.nowMs, this.rules);
    this.state = judged.state;
    this.panic = judged.panic;
    for (const { kind, node } of judged.wishes) {
      this.log.push(`${this.nowMs} ${node} ${kind}`);
      this.view.set(node, kind === 'node-down' ? 'down' : 'up');
    }
  }

  run(seconds: number, answer: Answer): void {
    for (let i = 0; i < seconds; i += 1) {
      this.nowMs += 1000;
      for (const node of this.view.keys()) {
        for (const protocol of this.protocols) {
          this.see({ node, protocol, source: 'probe', evidence: answer(node, protocol, this.nowMs) });
        }
      }
    }
  }
}

/** Apart from `deepEqual`, which would narrow the log to `never[]` for what follows. */
const assertQuiet = (world: World): void => assert.equal(world.log.join(), '');
const fine: Answer = () => 'ok';
const one =
  (evidence: Evidence, ...nodes: string[]): Answer =>
  node =>
    nodes.includes(node) ? evidence : 'ok';

describe('a node', () => {
  test('that refuses connections is down after `fall` probes, and up again after `rise` good ones', () => {
    const world = new World(3);
    world.run(2, fine);
    world.run(5, one('connect-failed', 'mail2'));
    assert.deepEqual(world.log, ['5000 mail2 node-down']);
    world.run(3, fine);
    assert.deepEqual(world.log, ['5000 mail2 node-down', '9000 mail2 node-up']);
  });

  test('that fails less than `fall` times in a row stays up', () => {
    const world = new World(3);
    world.run(60, (node, _, nowMs) => (node === 'mail1' && nowMs % 3000 !== 0 ? 'connect-failed' : 'ok'));
    assertQuiet(world);
    assert.equal(nodeHealth(world.state, 'mail1'), 'up');
  });

  test('whose TLS fails is as dead as one that refuses', () => {
    const world = new World(3);
    world.run(3, one('tls-failed', 'mail1'));
    assert.deepEqual(world.log, ['3000 mail1 node-down']);
  });

  test('that is slow is suspect, for an hour if need be, and never down', () => {
    const world = new World(3);
    world.run(3600, one('reply-timeout', 'mail1'));
    assertQuiet(world);
    assert.equal(nodeHealth(world.state, 'mail1'), 'suspect');
    world.run(1, fine);
    assert.equal(nodeHealth(world.state, 'mail1'), 'up');
  });

  test('that greets nobody is down only after `greetingFallMs` of silence and `fall` probes more', () => {
    const world = new World(3);
    world.run(30, one('greeting-timeout', 'mail1'));
    assertQuiet(world);
    assert.equal(nodeHealth(world.state, 'mail1'), 'suspect');
    world.run(5, one('greeting-timeout', 'mail1'));
    assert.deepEqual(world.log, ['33000 mail1 node-down']);
  });

  test('a cluster file system that fails over stalls all nodes for 29 s, and nobody is declared dead', () => {
    const world = new World(3);
    world.run(5, fine);
    world.run(29, () => 'greeting-timeout');
    world.run(5, fine);
    assertQuiet(world);
  });

  test('that loses only LMTP is not down, but its LMTP backend is', () => {
    const world = new World(3);
    world.run(5, (node, protocol) => (node === 'mail1' && protocol === 'lmtp' ? 'connect-failed' : 'ok'));
    assertQuiet(world);
    assert.equal(backendHealth(world.state, 'mail1', 'lmtp'), 'down');
    assert.equal(backendHealth(world.state, 'mail1', 'imap'), 'up');
    assert.equal(nodeHealth(world.state, 'mail1'), 'suspect');
  });

  test('that loses one of two session backends is not down; with both it is', () => {
    const world = new World(3);
    world.run(5, (node, protocol) => (node === 'mail1' && protocol === 'pop3' ? 'connect-failed' : 'ok'));
    assertQuiet(world);
    world.run(3, (node, protocol) => (node === 'mail1' && protocol !== 'lmtp' ? 'connect-failed' : 'ok'));
    assert.deepEqual(world.log, ['8000 mail1 node-down']);
  });

  test('that has nothing but LMTP is judged by LMTP', () => {
    const world = new World(3, {}, ['lmtp']);
    world.run(3, one('connect-failed', 'mail1'));
    assert.deepEqual(world.log, ['3000 mail1 node-down']);
  });

  test('that flaps must be good for longer each time before it is trusted again', () => {
    const world = new World(3);
    const risesAfter: number[] = [];
    for (let round = 0; round < 8; round += 1) {
      world.run(3, one('connect-failed', 'mail1'));
      const before = world.nowMs;
      while (world.view.get('mail1') === 'down') world.run(1, fine);
      risesAfter.push((world.nowMs - before) / 1000);
    }
    assert.deepEqual(risesAfter, [2, 4, 8, 16, 32, 64, 64, 64]);
    world.run(700, fine);
    world.run(3, one('connect-failed', 'mail1'));
    world.run(2, fine);
    assert.equal(world.view.get('mail1'), 'up');
  });

  test('that the view had down at our start stays so until probes are good, and up until they are bad', () => {
    const state = watchNodes([{ name: 'a', protocols: ['imap'], health: 'down' }]);
    const judged = judge(state, [{ name: 'a', health: 'down' }], 0, defaultHealthRules);
    assert.deepEqual(judged.wishes, []);
    let next = state;
    for (const nowMs of [1000, 2000]) {
      next = observe(
        next,
        { node: 'a', protocol: 'imap', evidence: 'ok', source: 'probe', nowMs },
        defaultHealthRules,
      );
    }
    assert.deepEqual(
      judge(next, [{ name: 'a', health: 'down' }], 2000, defaultHealthRules).wishes.map(wish => wish.kind),
      ['node-up'],
    );
  });
});

describe('an explicit error', () => {
  test('of one node while others answer the same probe well is death', () => {
    const world = new World(3);
    world.run(2, fine);
    world.run(3, one('explicit-error', 'mail3'));
    assert.deepEqual(world.log, ['5000 mail3 node-down']);
  });

  test('of all nodes alike is a common fault, and nobody dies of it', () => {
    const world = new World(3, { panicShare: 1 });
    world.run(2, fine);
    world.run(600, () => 'explicit-error');
    assertQuiet(world);
  });

  test('of the only node proves nothing', () => {
    const world = new World(1, { panicShare: 1 });
    world.run(60, () => 'explicit-error');
    assertQuiet(world);
  });

  test('of a canary takes the node down though it greets politely, and only good canaries bring it back', () => {
    const world = new World(3, { canaryIntervalMs: 30_000 });
    const canaries = (bad: string | null): void => {
      for (const node of world.view.keys()) {
        world.see({
          node,
          protocol: 'imap',
          depth: 'canary',
          source: 'probe',
          evidence: node === bad ? 'explicit-error' : 'ok',
        });
      }
      world.run(30, fine);
    };
    canaries(null);
    canaries('mail2');
    canaries('mail2');
    assertQuiet(world);
    canaries('mail2');
    assert.deepEqual(
      world.log.map(line => line.replace(/^\d+ /, '')),
      ['mail2 node-down'],
    );
    world.run(100, fine);
    assert.equal(world.log.length, 1);
    canaries(null);
    canaries(null);
    assert.deepEqual(
      world.log.map(line => line.replace(/^\d+ /, '')),
      ['mail2 node-down', 'mail2 node-up'],
    );
  });
});

describe('live traffic', () => {
  const live = (world: World, evidence: Evidence, who: string): void =>
    world.see({ node: 'mail1', protocol: 'imap', source: 'live', evidence, who });

  test('alone never takes a node down, whatever it says and however many say it', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.constantFrom<Evidence>(
            'connect-failed',
            'tls-failed',
            'greeting-timeout',
            'reply-timeout',
            'explicit-error',
          ),
          { maxLength: 50 },
        ),
        fc.integer({ min: 1, max: 5 }),
        (seen, fall) => {
          const world = new World(2, { fall }, ['imap']);
          for (const [i, evidence] of seen.entries()) live(world, evidence, `u${i}`);
          assertQuiet(world);
          assert.notEqual(nodeHealth(world.state, 'mail1'), 'down');
        },
      ),
    );
  });

  test('of one broken user saves at most one probe; at least two an interval apart must fail', () => {
    const world = new World(3, {}, ['imap']);
    for (let i = 0; i < 100; i += 1) live(world, 'connect-failed', 'joe');
    world.run(1, one('connect-failed', 'mail1'));
    for (let i = 0; i < 100; i += 1) live(world, 'connect-failed', `u${i}`);
    assertQuiet(world);
    world.run(1, one('connect-failed', 'mail1'));
    assert.deepEqual(world.log, ['2000 mail1 node-down']);
  });

  test('of a hundred users who meet a restarting node does not make one failed probe enough', () => {
    const world = new World(3, {}, ['imap']);
    for (let i = 0; i < 100; i += 1) live(world, 'connect-failed', `u${i}`);
    world.run(1, one('connect-failed', 'mail1'));
    for (let i = 0; i < 100; i += 1) live(world, 'connect-failed', `u${i}`);
    assertQuiet(world);
    world.run(2, fine);
    assertQuiet(world);
    assert.equal(nodeHealth(world.state, 'mail1'), 'up');
  });

  test('of a banned client, told no by a node whose probes are good, leaves it up', () => {
    const world = new World(3);
    for (let i = 0; i < 60; i += 1) {
      live(world, i % 2 === 0 ? 'explicit-error' : 'connect-failed', '192.0.2.1');
      world.run(1, fine);
    }
    assertQuiet(world);
    assert.equal(nodeHealth(world.state, 'mail1'), 'up');
  });

  test('that passes clears what probes had against a node, but does not raise one that is down', () => {
    const world = new World(3, {}, ['imap']);
    world.run(2, one('connect-failed', 'mail1'));
    live(world, 'ok', 'joe');
    world.run(2, one('connect-failed', 'mail1'));
    assertQuiet(world);
    world.run(1, one('connect-failed', 'mail1'));
    assert.equal(world.log.length, 1);
    for (let i = 0; i < 9; i += 1) live(world, 'ok', `u${i}`);
    assert.equal(nodeHealth(world.state, 'mail1'), 'down');
  });

  test('that is fine costs nothing: the state stays the same object', () => {
    const world = new World(3);
    world.run(1, fine);
    const before = world.state;
    live(world, 'ok', 'joe');
    assert.equal(world.state, before);
  });

  test('that fails brings the next probe forward, once', () => {
    const world = new World(3);
    const delay = (): number =>
      probeDelayMs(world.state, { node: 'mail1', protocol: 'imap' }, 0.5, world.rules);
    assert.equal(delay(), 1000);
    live(world, 'connect-failed', 'joe');
    assert.equal(delay(), 100);
    world.run(1, one('connect-failed', 'mail1'));
    live(world, 'connect-failed', 'ann');
    assert.equal(delay(), 1000);
  });
});

describe('panic', () => {
  test('when we lose our network all nodes fail at once, and none is declared down, ever', () => {
    const world = new World(4);
    world.run(5, fine);
    world.run(3600, () => 'connect-failed');
    assertQuiet(world);
    assert.match(world.panic ?? '', /^4 of 4 nodes fail at once/);
    world.run(5, fine);
    assertQuiet(world);
    assert.equal(world.panic, null);
  });

  test('when our network returns, nodes that answer a little later than the first are not declared down', () => {
    const world = new World(4);
    world.run(5, fine);
    for (let outage = 0; outage < 6; outage += 1) {
      world.run(120, () => 'connect-failed');
      world.run(3, one('connect-failed', 'mail2', 'mail3', 'mail4'));
      world.run(3, one('connect-failed', 'mail3', 'mail4'));
      world.run(3, one('connect-failed', 'mail4'));
      world.run(20, fine);
    }
    assertQuiet(world);
  });

  test('a node that stays dead when our network returns is declared down after the patience', () => {
    const world = new World(3);
    world.run(5, fine);
    world.run(100, () => 'connect-failed');
    world.run(5, one('connect-failed', 'mail2'));
    assertQuiet(world);
    world.run(10, one('connect-failed', 'mail2'));
    assert.deepEqual(
      world.log.map(line => line.split(' ')[1]),
      ['mail2'],
    );
  });

  test('most nodes dead at once are declared so after the patience, since another one answers', () => {
    const world = new World(3);
    world.run(5, fine);
    world.run(9, one('connect-failed', 'mail1', 'mail2'));
    assertQuiet(world);
    assert.notEqual(world.panic, null);
    world.run(3, one('connect-failed', 'mail1', 'mail2'));
    assert.deepEqual(
      world.log.map(line => line.split(' ')[1]),
      ['mail1', 'mail2'],
    );
  });

  test('our own node, which answers over loopback, is no witness of our network', () => {
    const world = new World(3, { self: 'mail3' });
    world.run(5, fine);
    world.run(600, one('connect-failed', 'mail1', 'mail2'));
    assertQuiet(world);
  });

  test('half of the nodes is not most of them', () => {
    const world = new World(2);
    world.run(3, one('connect-failed', 'mail2'));
    assert.deepEqual(world.log, ['3000 mail2 node-down']);
  });

  test('nodes that are down for long, in maintenance or broken, do not delay the next failover', () => {
    const world = new World(4);
    world.run(3, one('connect-failed', 'mail1'));
    world.run(100, one('connect-failed', 'mail1'));
    world.run(3, one('connect-failed', 'mail1', 'mail2'));
    world.run(100, one('connect-failed', 'mail1', 'mail2'));
    const before = world.nowMs;
    world.run(3, one('connect-failed', 'mail1', 'mail2', 'mail3'));
    assert.equal(world.log.at(-1), `${before + 3000} mail3 node-down`);
  });

  test('probes that do not march in step do not slip single nodes past it', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 999 }), { minLength: 6, maxLength: 6 }), offsets => {
        const world = new World(6, {}, ['imap']);
        const probes = offsets.flatMap((offsetMs, i) =>
          Array.from({ length: 30 }, (_, second) => ({
            atMs: second * 1000 + offsetMs,
            node: `mail${i + 1}`,
          })),
        );
        for (const { atMs, node } of probes.sort((x, y) => x.atMs - y.atMs)) {
          world.nowMs = atMs;
          const evidence = atMs >= 10_500 ? 'connect-failed' : 'ok';
          world.see({ node, protocol: 'imap', source: 'probe', evidence });
        }
        assertQuiet(world);
      }),
    );
  });
});

describe('health', () => {
  test('says in words what it has seen', () => {
    const world = new World(2, {}, ['imap']);
    assert.deepEqual(evidenceOf(world.state, 'mail1'), [
      { protocol: 'imap', health: 'up', why: 'not probed yet' },
    ]);
    world.nowMs = 1;
    world.see({
      node: 'mail1',
      protocol: 'imap',
      source: 'probe',
      evidence: 'connect-failed',
      text: 'ECONNREFUSED',
    });
    assert.equal(evidenceOf(world.state, 'mail1')[0]?.why, 'connect-failed: ECONNREFUSED (1 of 3)');
  });

  test('ignores nodes and backends it does not know', () => {
    const world = new World(2, {}, ['imap']);
    const before = world.state;
    world.see({ node: 'other', protocol: 'imap', source: 'probe', evidence: 'ok' });
    world.see({ node: 'mail1', protocol: 'pop3', source: 'probe', evidence: 'connect-failed' });
    assert.equal(world.state, before);
  });

  test('keeps what it knows of nodes that stay when the settings change, and forgets those that go', () => {
    const world = new World(3, {}, ['imap']);
    world.run(3, one('connect-failed', 'mail1'));
    const nodes = [
      { name: 'mail1', protocols: ['imap', 'pop3'] as const, health: 'down' as const },
      { name: 'mail4', protocols: ['imap'] as const, health: 'up' as const },
    ];
    const next = watchNodes(nodes, world.state);
    assert.deepEqual([...next.nodes.keys()], ['mail1', 'mail4']);
    assert.equal(backendHealth(next, 'mail1', 'imap'), 'down');
    assert.equal(nodeHealth(next, 'mail1'), 'down');
    assert.equal(nodeHealth(next, 'mail4'), 'up');
  });

  test('a node without backends is neither raised nor buried', () => {
    const state = watchNodes([{ name: 'a', protocols: [], health: 'down' }]);
    assert.deepEqual(judge(state, [{ name: 'a', health: 'down' }], 0, defaultHealthRules).wishes, []);
  });

  test('jitter moves a probe by at most its share, both ways', () => {
    const world = new World(1);
    const delay = (chance: number): number =>
      probeDelayMs(world.state, { node: 'mail1', protocol: 'imap' }, chance, world.rules);
    assert.equal(delay(0), 900);
    assert.equal(delay(0.5), 1000);
    assert.ok(delay(0.999999) < 1100.01);
  });

  test('whatever is seen, a node goes down only by a failing probe and up only by a good one', () => {
    const evidences: readonly Evidence[] = [
      'ok',
      'connect-failed',
      'tls-failed',
      'greeting-timeout',
      'reply-timeout',
      'explicit-error',
    ];
    const sight = fc.record({
      node: fc.constantFrom('mail1', 'mail2', 'mail3'),
      protocol: fc.constantFrom<Protocol>('imap', 'lmtp'),
      evidence: fc.constantFrom(...evidences),
      source: fc.constantFrom<'probe' | 'live'>('probe', 'live'),
      waitMs: fc.nat({ max: 20_000 }),
      who: fc.constantFrom('a', 'b', 'c'),
    });
    fc.assert(
      fc.property(fc.array(sight, { maxLength: 80 }), fc.integer({ min: 1, max: 4 }), (sights, fall) => {
        const world = new World(3, { fall, panicShare: 1 }, ['imap', 'lmtp']);
        for (const { waitMs, ...seen } of sights) {
          world.nowMs += waitMs;
          const before = world.log.length;
          world.see(seen);
          for (const line of world.log.slice(before)) {
            assert.equal(seen.source, 'probe');
            if (line.endsWith('down'))
              assert.ok(seen.evidence !== 'ok' && seen.evidence !== 'reply-timeout', line);
            else assert.equal(seen.evidence, 'ok');
          }
        }
      }),
    );
  });
});
