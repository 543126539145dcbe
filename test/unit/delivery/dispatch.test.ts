import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type Failure, lmtpReply } from '../../../src/core/failure.ts';
import type { Outcome, Recipient } from '../../../src/core/types.ts';
import type { Courier, Errand, Letter } from '../../../src/delivery/courier.ts';
import { createDispatch, type SendOptions } from '../../../src/delivery/dispatch.ts';
import { realClock } from '../../../src/net/clock.ts';
import { type FakeCluster, fakeCluster, quietLog, recipient } from './fake-cluster.ts';

type Say = (errand: Errand, to: Recipient) => Outcome | Promise<Outcome>;

function courier(name: Courier['name'], say: Say, errands: string[] = []): Courier {
  return {
    name,
    carry: errand => {
      errands.push(
        `${name}${errand.node === null ? '' : ` ${errand.node.name}`}: ${errand.recipients.map(each => each.address).join(' ')}`,
      );
      return Promise.all(errand.recipients.map(each => say(errand, each)));
    },
  };
}

const delivered: Say = ({ node }) => ({
  kind: 'delivered',
  courier: node === null ? 'direct' : 'node',
  node: node?.name ?? null,
  reply: { code: 250, enhanced: null, lines: ['ok'] },
});
const queued: Say = () => ({
  kind: 'delivered',
  courier: 'queue',
  node: null,
  reply: { code: 250, enhanced: '2.0.0', lines: ['queued as x'] },
});
const theirs =
  (code: number): Say =>
  ({ node }) => ({
    kind: code < 500 ? 'deferred' : 'rejected',
    courier: 'node',
    node: node?.name ?? null,
    reply: { code, enhanced: null, lines: ['no'] },
  });
const failing =
  (kind: Failure['kind'], name: Courier['name'] = 'node'): Say =>
  ({ node }) => ({
    kind: 'deferred',
    courier: name,
    node: node?.name ?? null,
    reply: lmtpReply({ kind }),
    failure: { kind },
  });
const doubtful: Say = ({ node }) => ({
  kind: 'in-doubt',
  courier: node === null ? 'direct' : 'node',
  node: node?.name ?? null,
  reply: lmtpReply({ kind: 'in-doubt' }),
  failure: { kind: 'in-doubt' },
});

const bytes = Buffer.from('x\r\n');
const letter: Letter = {
  id: 'L1',
  from: 's@x',
  body: { bytes: 3, memory: bytes, open: () => Readable.from([bytes]), dispose: () => Promise.resolve() },
  eightBit: false,
  smtpUtf8: false,
  acceptedAtMs: 0,
};

interface World {
  readonly cluster: FakeCluster;
  readonly errands: string[];
  readonly lines: Record<string, unknown>[];
  send(addresses: readonly string[], options?: Partial<SendOptions>): Promise<string[]>;
}

function world(says: Partial<Record<'node' | 'direct' | 'queue', Say>>, settleMs = 50): World {
  const cluster = fakeCluster({ m1: 1, m2: 2 });
  const errands: string[] = [];
  const lines: Record<string, unknown>[] = [];
  const couriers = (['node', 'direct', 'queue'] as const).flatMap(name => {
    const say = says[name];
    return say === undefined ? [] : [courier(name, say, errands)];
  });
  const dispatch = createDispatch({
    admitting: cluster,
    couriers,
    settleMs,
    clock: realClock,
    log: quietLog(lines),
  });
  return {
    cluster,
    errands,
    lines,
    async send(addresses, options = {}) {
      const recipients = addresses.map((address, index) => recipient(address, index));
      const outcomes = await dispatch.send(letter, recipients, {
        whenHomeDown: ['direct', 'queue'],
        deadlineAtMs: realClock.now() + 5000,
        ...options,
      });
      assert.equal(outcomes.length, addresses.length, 'one outcome each');
      assert.equal(cluster.live.size, 0, 'every entry was released');
      return Array.from(outcomes, outcome => `${outcome.courier} ${outcome.kind}`);
    },
  };
}

describe('a letter to several users', () => {
  test('goes to each home in one errand, in the order of its recipients, and equal addresses once', async () => {
    const w = world({ node: delivered });
    w.cluster.places.set('b@x', { kind: 'home', node: 'm2', why: '' });
    assert.deepEqual(await w.send(['a@x', 'b@x', 'c@x', 'a+1@x', 'a@x']), Array(5).fill('node delivered'));
    assert.deepEqual(w.errands.sort(), ['node m1: a@x a+1@x c@x', 'node m2: b@x']);
    assert.deepEqual(w.lines.map(line => line.to).sort(), ['a+1@x', 'a@x', 'b@x', 'c@x']);
  });

  test('is cut into transactions of a hundred', async () => {
    const w = world({ node: delivered });
    await w.send(Array.from({ length: 250 }, (_, i) => `u${i}@x`));
    assert.deepEqual(
      w.errands.map(errand => errand.split('@').length - 1),
      [100, 100, 50],
    );
  });

  test('one user whose node changes keeps nobody else waiting', async () => {
    const w = world({ node: delivered });
    w.cluster.held.set('slow@x', []);
    const sending = w.send(['fast@x', 'slow@x']);
    for (const until = realClock.now() + 1000; w.errands.length === 0 && realClock.now() < until; )
      await new Promise(setImmediate);
    assert.deepEqual(w.errands, ['node m1: fast@x']);
    for (const go of w.cluster.held.get('slow@x') ?? []) go();
    assert.deepEqual(await sending, ['node delivered', 'node delivered']);
  });

  test('one that is held past the deadline goes down the chain in time', async () => {
    const w = world({ node: delivered, queue: queued });
    w.cluster.held.set('slow@x', []);
    const started = realClock.now();
    assert.deepEqual(await w.send(['slow@x'], { deadlineAtMs: started + 200 }), ['queue delivered']);
    assert.ok(realClock.now() - started < 400);
  });
});

describe('when the home cannot be reached', () => {
  test('the chain is followed, and what comes to the queue is queued once for all', async () => {
    const w = world({
      node: failing('node-unreachable'),
      direct: (errand, to) =>
        to.address === 'plain@x'
          ? delivered(errand, to)
          : failing('not-direct-capable', 'direct')(errand, to),
      queue: queued,
    });
    w.cluster.places.set('b@x', { kind: 'home', node: 'm2', why: '' });
    assert.deepEqual(await w.send(['a@x', 'plain@x', 'b@x']), [
      'queue delivered',
      'direct delivered',
      'queue delivered',
    ]);
    assert.equal(w.errands.filter(errand => errand.startsWith('queue')).length, 1);
    assert.deepEqual(w.lines.map(line => line.outcome).sort(), ['delivered', 'queued', 'queued']);
  });

  test('a user in failover is written directly without a word to any node', async () => {
    const w = world({ node: delivered, direct: delivered });
    w.cluster.places.set('a@x', { kind: 'failover', homeDown: true, node: 'm2', why: 'm1 is down' });
    w.cluster.places.set('b@x', { kind: 'held', node: 'm1', why: 'fence' });
    w.cluster.places.set('c@x', { kind: 'none', why: 'nobody' });
    assert.deepEqual(await w.send(['a@x', 'b@x', 'c@x']), Array(3).fill('direct delivered'));
    assert.deepEqual(w.errands, ['direct: a@x b@x c@x']);
  });

  test('the stand-in of a drained node takes mail as the home did, and its refusal counts', async () => {
    const w = world({ node: delivered, direct: delivered });
    w.cluster.places.set('a@x', { kind: 'failover', homeDown: false, node: 'm2', why: 'm1 is draining' });
    assert.deepEqual(await w.send(['a@x']), ['node delivered']);
    assert.deepEqual(w.errands, ['node m2: a@x']);
  });

  test('`next` hands it to the node that stands in, whose 5xx is not believed', async () => {
    const places = { kind: 'failover', homeDown: true, node: 'm2', why: 'm1 is down' } as const;
    const good = world({ node: delivered });
    good.cluster.places.set('a@x', places);
    assert.deepEqual(await good.send(['a@x'], { whenHomeDown: ['next'] }), ['node delivered']);
    const bad = world({ node: theirs(550) });
    bad.cluster.places.set('a@x', places);
    assert.deepEqual(await bad.send(['a@x'], { whenHomeDown: ['next'] }), ['node deferred']);
    assert.equal(bad.lines[0]?.reply?.toString().startsWith('4'), true);
  });

  test('without a chain it is deferred, with the reason', async () => {
    const w = world({ node: failing('node-silent') });
    assert.deepEqual(await w.send(['a@x'], { whenHomeDown: [] }), ['node deferred']);
    assert.match(String(w.lines[0]?.reply), /does not answer/);
    w.cluster.places.set('a@x', { kind: 'none', why: '' });
    assert.deepEqual(await w.send(['a@x'], { whenHomeDown: [] }), ['node deferred']);
  });
});

describe('nothing goes a second way', () => {
  for (const [name, say, expected] of [
    ['the node refused it', theirs(550), 'node rejected'],
    ['the node deferred it in its own words', theirs(452), 'node deferred'],
    ['it may have arrived', doubtful, 'node in-doubt'],
  ] as const) {
    test(`once ${name}`, async () => {
      const w = world({ node: say, direct: delivered, queue: queued });
      assert.deepEqual(await w.send(['a@x']), [expected]);
      assert.equal(w.errands.length, 1);
    });
  }

  test('once a direct write may be under way', async () => {
    const w = world({ node: failing('node-unreachable'), direct: doubtful, queue: queued });
    assert.deepEqual(await w.send(['a@x']), ['direct in-doubt']);
  });

  test('but that node, or direct, where it was left in doubt', async () => {
    const w = world({ node: delivered, direct: delivered, queue: queued });
    assert.deepEqual(await w.send(['a@x'], { onlyNode: 'm2' }), ['node deferred']);
    assert.deepEqual(await w.send(['a@x'], { onlyDirect: true }), ['direct delivered']);
    w.cluster.places.set('a@x', { kind: 'home', node: 'm2', why: '' });
    assert.deepEqual(await w.send(['a@x'], { onlyNode: 'm2' }), ['node delivered']);
    assert.deepEqual(w.errands, ['direct: a@x', 'node m2: a@x']);
  });

  test('when we are shutting down nothing is begun', async () => {
    const w = world({ node: delivered, direct: delivered, queue: queued });
    w.cluster.refuse = 'shutdown';
    assert.deepEqual(await w.send(['a@x']), ['node deferred']);
    assert.deepEqual(w.errands, []);
  });
});

describe('the barrier and a delivery', () => {
  test('before anything was sent: planned anew, to where the new view places the user', async () => {
    const aborted: Say = async (errand, to) => {
      if (errand.node?.name === 'm2') return delivered(errand, to);
      w.cluster.places.set('a@x', { kind: 'home', node: 'm2', why: 'moved' });
      for (const entry of w.cluster.live) if (entry.user === 'a@x') entry.close('moved');
      assert.equal(errand.leash?.pull, 'unless-sent');
      return failing('aborted')(errand, to);
    };
    const w = world({ node: aborted, queue: queued });
    assert.deepEqual(await w.send(['a@x']), ['node delivered']);
    assert.deepEqual(w.errands, ['node m1: a@x', 'node m2: a@x']);
  });

  test('past DATA a move waits for it, a dead node has it broken off after `settle`', async () => {
    for (const reason of ['moved', 'node-down'] as const) {
      const say: Say = async (errand, to) => {
        for (const entry of w.cluster.live) entry.close(reason);
        const leash = errand.leash;
        assert.ok(leash);
        const broken = await new Promise<boolean>(resolve => {
          leash.onPull = () => leash.pull === 'now' && resolve(true);
          setTimeout(() => resolve(false), 150);
        });
        assert.equal(broken, reason === 'node-down');
        return broken ? doubtful(errand, to) : delivered(errand, to);
      };
      const w = world({ node: say, direct: delivered });
      assert.deepEqual(await w.send(['a@x']), [reason === 'moved' ? 'node delivered' : 'node in-doubt']);
    }
  });

  test('when the time to let go is over it is broken off in that instant, whatever is left of `settle`', async () => {
    let isBroken = false;
    const say: Say = async (errand, to) => {
      const leash = errand.leash;
      assert.ok(leash);
      leash.onPull = () => {
        isBroken = leash.pull === 'now';
      };
      for (const entry of w.cluster.live) {
        entry.close('node-down');
        assert.equal(isBroken, false);
        entry.cut();
      }
      assert.equal(isBroken, true);
      return doubtful(errand, to);
    };
    const w = world({ node: say, direct: delivered }, 60_000);
    assert.deepEqual(await w.send(['a@x']), ['node in-doubt']);
  });

  test('a view that never comes to rest ends in a deferral, not in a loop', async () => {
    const say: Say = (errand, to) => {
      for (const entry of w.cluster.live) entry.close('moved');
      return failing('aborted')(errand, to);
    };
    const w = world({ node: say });
    assert.deepEqual(await w.send(['a@x'], { whenHomeDown: [] }), ['node deferred']);
    assert.equal(w.errands.length, 4);
  });
});

test('property: whatever the couriers answer, each recipient has one outcome, at most one courier may have delivered it, and no entry stays', async () => {
  const answers = [
    delivered,
    doubtful,
    theirs(550),
    theirs(451),
    failing('node-unreachable'),
    failing('disk-full', 'direct'),
  ] as const;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom('a@x', 'b@x', 'c@x', 'a+1@x', 'd@x'), fc.nat(5), fc.nat(5)), {
        minLength: 1,
        maxLength: 8,
      }),
      fc.subarray(['direct', 'queue', 'next'] as const),
      fc.array(fc.constantFrom('home', 'failover', 'held', 'none'), { minLength: 4, maxLength: 4 }),
      async (to, chain, kinds) => {
        const maybe = new Map<string, number>();
        const say =
          (which: 1 | 2): Say =>
          async (errand, each) => {
            const row = to.find(([address]) => address === each.address);
            const outcome = await (answers[row?.[which] ?? 0] ?? delivered)(errand, each);
            if (outcome.kind === 'delivered' || outcome.kind === 'in-doubt')
              maybe.set(each.address, (maybe.get(each.address) ?? 0) + 1);
            return outcome;
          };
        const w = world({ node: say(1), direct: say(2), queue: queued });
        ['a@x', 'b@x', 'c@x', 'd@x'].forEach((user, i) => {
          const kind = kinds[i];
          if (kind === 'failover') w.cluster.places.set(user, { kind, node: 'm2', why: '', homeDown: true });
          else if (kind === 'held') w.cluster.places.set(user, { kind, node: 'm2', why: '' });
          else if (kind === 'none') w.cluster.places.set(user, { kind, why: '' });
        });
        const results = await w.send(
          to.map(([address]) => address),
          { whenHomeDown: chain },
        );
        for (const [i, result] of results.entries()) {
          const times = maybe.get(to[i]?.[0] ?? '') ?? 0;
          assert.ok(times <= 1);
          if (times === 1) assert.match(result, /delivered|in-doubt/);
        }
      },
    ),
    { numRuns: 200 },
  );
});
