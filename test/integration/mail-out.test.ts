/**
 * The courier to a node and the queue against a real Dovecot that is killed, frozen and restarted under them; then messages are counted.
 * What is held: an acknowledged message is there exactly once; twice only what was called in doubt; and every trouble ends in time.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { lmtpPoolDefaults } from '../../src/backend/lmtp-pool.ts';
import type { ClusterNode, Outcome } from '../../src/core/types.ts';
import type { Letter } from '../../src/delivery/courier.ts';
import { createDispatch } from '../../src/delivery/dispatch.ts';
import { createQueueRunner, queueRunnerDefaults } from '../../src/delivery/queue-runner.ts';
import { createNodeCourier, type NodeCourier } from '../../src/delivery/to-node.ts';
import { createQueueCourier } from '../../src/delivery/to-queue.ts';
import { realClock } from '../../src/net/clock.ts';
import { openQueueFolder } from '../../src/storage/queue-folder.ts';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import { numbersInMaildir } from '../lab/imap-count.ts';
import { numberedMessage } from '../lab/mail.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { fakeCluster, recipient } from '../unit/delivery/fake-cluster.ts';

const users = Array.from({ length: 8 }, (_, i) => `user${i}@example.org`);
const timeouts = {
  connectMs: 2000,
  greetingMs: 3000,
  commandMs: 3000,
  goAheadMs: 3000,
  stallMs: 3000,
  finalMs: 3000,
};
const long = process.env.HOMING_LONG === '1' ? 4 : 1;

let folder: TempFolder;
let node: DovecotNode;
let number = 0;

before(async () => {
  folder = await openTempFolder('mail-out');
  node = await startDovecotNode({
    name: 'm1',
    // An address that nothing else starts nodes on: a port that is free while the node is dead must stay ours.
    address: '127.0.0.61',
    spoolDir: join(folder.path, 'spool'),
    runDir: join(folder.path, 'm1'),
    users,
  });
});
after(async () => {
  await node?.stop();
  await folder?.remove();
});

function clusterNode(): ClusterNode {
  const ports = { lmtp: node.ports.lmtp };
  return {
    name: 'm1',
    address: node.address,
    weight: 1,
    pool: 'p',
    ports,
    admin: 'ready',
    health: 'up',
    incident: 0,
    fenced: false,
  };
}

function courierFor(extra: Partial<typeof timeouts> = {}): NodeCourier {
  const admitting = { report: () => undefined };
  return createNodeCourier({
    self: null,
    ...lmtpPoolDefaults,
    admitting,
    ownName: 'proxy.example',
    timeouts: { ...timeouts, ...extra },
    maxPerNode: 4,
    clock: realClock,
  });
}

function letterOf(bodyBytes: number, streamed = false): { letter: Letter; number: string } {
  number += 1;
  const bytes = Buffer.from(numberedMessage({ number, to: 'x@example.org', bodyBytes }));
  const open = () => Readable.from(slices(bytes), { objectMode: false });
  const body = {
    bytes: bytes.length,
    memory: streamed ? null : bytes,
    open,
    dispose: () => Promise.resolve(),
  };
  const letter = {
    id: `L${number}`,
    from: 's@example.net',
    body,
    eightBit: false,
    smtpUtf8: false,
    acceptedAtMs: Date.now(),
  };
  return { letter, number: String(number) };
}

function* slices(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

function soon(ms = 30_000): number {
  return realClock.now() + ms;
}

/** How often each number is in the mailboxes of these users. */
async function found(): Promise<Map<string, number>> {
  const all = new Map<string, number>();
  for (const user of users) {
    for (const [each, count] of await numbersInMaildir(node.spoolDir, user))
      all.set(each, (all.get(each) ?? 0) + count);
  }
  return all;
}

describe('a real Dovecot', () => {
  test('takes many messages on few connections, and says of each recipient what it thinks', async t => {
    const courier = courierFor();
    t.after(() => courier.close());
    const errands = Array.from({ length: 60 * long }, async (_, i) => {
      const { letter, number: mine } = letterOf(i % 5 === 0 ? 300_000 : 500, i % 2 === 0);
      const to = [users[i % 8] ?? '', 'stranger@example.org', users[(i + 1) % 8] ?? ''];
      const outcomes = await courier.carry({
        letter,
        recipients: to.map(recipient),
        node: clusterNode(),
        deadlineAtMs: soon(),
      });
      assert.deepEqual(
        outcomes.map(each => each.kind),
        ['delivered', 'rejected', 'delivered'],
        JSON.stringify(outcomes),
      );
      assert.equal(outcomes[1]?.reply.code, 550);
      return mine;
    });
    const numbers = await Promise.all(errands);
    assert.ok((courier.pool.list()[0]?.kept ?? 0) <= 4);
    const there = await found();
    for (const each of numbers) assert.equal(there.get(each), 2);
  });

  test('answers for recipients, many in one round trip, on the connection that mail goes over', async t => {
    const courier = courierFor();
    t.after(() => courier.close());
    const asked = [...users, 'stranger@example.org'].map(rcpt =>
      courier.verifyRecipient(clusterNode(), 's@example.net', rcpt, { deadlineAtMs: soon() }),
    );
    assert.deepEqual(
      (await Promise.all(asked)).map(each => each.code),
      [...users.map(() => 250), 550],
    );
    const { letter } = letterOf(500);
    const [outcome] = await courier.carry({
      letter,
      recipients: [recipient(users[0] ?? '')],
      node: clusterNode(),
      deadlineAtMs: soon(),
    });
    assert.equal(outcome?.kind, 'delivered');
    assert.equal(courier.pool.list()[0]?.kept, 1);
  });

  test('never sees the end of a message in its middle, whatever stands in it', async t => {
    const courier = courierFor();
    t.after(() => courier.close());
    const nasty = ['.', '..', '.\r\n.', 'a\r\n.\r\nMAIL FROM:<x@x>', '\r\n.\r\n.\r\n', '.'.repeat(5000)];
    for (const text of nasty) {
      const { number: mine, letter } = letterOf(100);
      const bytes = Buffer.concat([
        letter.body.memory ?? Buffer.alloc(0),
        Buffer.from(`${text}\r\nthe very end\r\n`),
      ]);
      for (const memory of [bytes, null]) {
        const open = () =>
          Readable.from(
            [...bytes].map(byte => Buffer.of(byte)),
            { objectMode: false },
          );
        const body = { ...letter.body, bytes: bytes.length, memory, open };
        const [outcome] = await courier.carry({
          letter: { ...letter, body },
          recipients: [recipient(users[0] ?? '')],
          node: clusterNode(),
          deadlineAtMs: soon(),
        });
        assert.equal(outcome?.kind, 'delivered');
      }
      assert.equal((await found()).get(mine), 2, JSON.stringify(text));
    }
    assert.equal(courier.pool.list()[0]?.kept, 1, 'it never lost step');
  });
});

describe('a Dovecot that is killed', () => {
  test('in the middle of DATA: nothing arrived, and we say so', async t => {
    const courier = courierFor();
    t.after(() => courier.close());
    const { letter, number: mine } = letterOf(3_000_000, true);
    const bytes = Buffer.concat(await letter.body.open().toArray());
    const open = () =>
      Readable.from(
        (async function* () {
          yield bytes.subarray(0, 1_000_000);
          await node.kill();
          yield bytes.subarray(1_000_000);
        })(),
        { objectMode: false },
      );
    const body = { ...letter.body, open };
    const outcomes = await courier.carry({
      letter: { ...letter, body },
      recipients: users.slice(0, 3).map(recipient),
      node: clusterNode(),
      deadlineAtMs: soon(),
    });
    assert.deepEqual(
      outcomes.map(each => [each.kind, each.failure?.kind]),
      Array(3).fill(['deferred', 'node-broke-off']),
    );
    await node.restart();
    assert.equal((await found()).get(mine), undefined);
  });

  test('at random instants under a stream of mail: acknowledged is there once, twice only in doubt, lost nothing', async t => {
    const courier = courierFor();
    t.after(() => courier.close());
    const told = new Map<string, Outcome[]>();
    let running = true;
    const stream = async (lane: number) => {
      for (let i = 0; running; i += 1) {
        const { letter, number: mine } = letterOf(i % 7 === 0 ? 500_000 : 800, i % 3 === 0);
        const to = [recipient(users[lane] ?? ''), recipient(users[(lane + 4) % 8] ?? '')];
        const outcomes = await courier.carry({
          letter,
          recipients: to,
          node: clusterNode(),
          deadlineAtMs: soon(),
        });
        told.set(mine, [...outcomes]);
        if (outcomes.some(each => each.kind !== 'delivered'))
          await new Promise(resolve => setTimeout(resolve, 20));
      }
    };
    const lanes = [0, 1, 2, 3].map(stream);
    for (let round = 0; round < 4 * long; round += 1) {
      await new Promise(resolve => setTimeout(resolve, 150 + Math.random() * 400));
      await node.kill();
      await node.restart();
    }
    await new Promise(resolve => setTimeout(resolve, 300));
    running = false;
    await Promise.all(lanes);
    const there = await found();
    const totals: Record<string, number> = { delivered: 0, deferred: 0, 'in-doubt': 0, rejected: 0 };
    for (const [mine, outcomes] of told) {
      const sure = outcomes.filter(each => each.kind === 'delivered').length;
      const doubt = outcomes.filter(each => each.kind === 'in-doubt').length;
      const count = there.get(mine) ?? 0;
      for (const { kind } of outcomes) totals[kind] = (totals[kind] ?? 0) + 1;
      assert.ok(
        count >= sure && count <= sure + doubt,
        `number ${mine}: ${count} found, ${sure} acknowledged, ${doubt} in doubt`,
      );
    }
    t.diagnostic(JSON.stringify(totals));
    assert.equal(totals.rejected, 0, 'a dying node refuses nobody for good');
    assert.ok((totals.delivered ?? 0) > 50 && (totals.deferred ?? 0) > 0);
  });

  test('with mail in the queue: it comes back and has all of it, once, but for what was in doubt', async t => {
    const opened = await openQueueFolder(join(folder.path, 'queue'));
    assert.ok(opened.ok);
    const { queue } = opened;
    const cluster = fakeCluster({ m1: node.ports.lmtp });
    cluster.nodes.set('m1', clusterNode());
    const courier = courierFor();
    const log = pino({ level: 'silent' });
    const schedule = { firstMs: 100, factor: 1.5, longestMs: 1000, lifeMs: 3_600_000, jitter: 0.2 };
    const added: { onAdded: Parameters<typeof createQueueCourier>[0]['onAdded'] } = {
      onAdded: () => undefined,
    };
    const toQueue = createQueueCourier({
      queue,
      onAdded: (...entry) => added.onAdded(...entry),
      schedule,
      clock: realClock,
      log,
    });
    const dispatch = createDispatch({
      admitting: cluster,
      couriers: [courier, toQueue],
      settleMs: 500,
      clock: realClock,
      log,
    });
    let doubts = 0;
    const counting = {
      send: async (...args: Parameters<typeof dispatch.send>) => {
        const outcomes = await dispatch.send(...args);
        doubts += outcomes.filter(each => each.kind === 'in-doubt').length;
        return outcomes;
      },
    };
    const runner = createQueueRunner({
      ...queueRunnerDefaults,
      queue,
      dispatch: counting,
      admitting: cluster,
      bounce: async () => ({ kind: 'kept' }),
      whenHomeDown: ['queue'],
      schedule,
      clock: realClock,
      log,
    });
    added.onAdded = (key, envelope) => runner.onAdded(key, envelope);
    t.after(async () => {
      await runner.stop(5000);
      courier.close();
      await queue.close();
    });
    await runner.start();
    await node.kill();
    const numbers: string[] = [];
    for (let i = 0; i < 40 * long; i += 1) {
      const { letter, number: mine } = letterOf(400);
      numbers.push(mine);
      const to = [recipient(users[i % 8] ?? ''), recipient(users[(i + 3) % 8] ?? '', 1)];
      const outcomes = await counting.send(letter, to, { whenHomeDown: ['queue'], deadlineAtMs: soon() });
      assert.deepEqual(
        outcomes.map(each => `${each.courier} ${each.kind}`),
        ['queue delivered', 'queue delivered'],
      );
    }
    await node.restart();
    runner.nodeUp('m1');
    await new Promise(resolve => setTimeout(resolve, 100));
    await node.kill();
    await node.restart();
    runner.nodeUp('m1');
    for (const end = soon(20_000); runner.counts().entries > 0; ) {
      assert.ok(realClock.now() < end, `${runner.counts().entries} entries never left`);
      await new Promise(resolve => setTimeout(resolve, 20));
    }
    const there = await found();
    const lost = numbers.filter(each => (there.get(each) ?? 0) < 2);
    const doubles = numbers.reduce((sum, each) => sum + Math.max(0, (there.get(each) ?? 0) - 2), 0);
    assert.deepEqual(lost, []);
    assert.ok(doubles <= doubts, `${doubles} doubles, ${doubts} in doubt`);
    t.diagnostic(`${doubts} in doubt, ${doubles} doubles`);
  });
});

describe('a Dovecot that is stopped and says nothing', () => {
  test('each phase ends by its limit; a message it had whole is in doubt, one it had not is not', async t => {
    const courier = courierFor({
      greetingMs: 400,
      commandMs: 400,
      goAheadMs: 400,
      finalMs: 800,
      stallMs: 800,
    });
    t.after(async () => {
      node.thaw();
      courier.close();
    });
    const carry = async (bodyBytes: number, freezeAt: number | null) => {
      const { letter, number: mine } = letterOf(bodyBytes, true);
      const bytes = Buffer.concat(await letter.body.open().toArray());
      const open = () =>
        Readable.from(
          (async function* () {
            for (let at = 0; at < bytes.length; at += 65_536) {
              if (freezeAt !== null && at >= freezeAt && at - 65_536 < freezeAt) node.freeze();
              yield bytes.subarray(at, at + 65_536);
            }
          })(),
          { objectMode: false },
        );
      const started = realClock.now();
      const [outcome] = await courier.carry({
        letter: { ...letter, body: { ...letter.body, open } },
        recipients: [recipient(users[0] ?? '')],
        node: clusterNode(),
        deadlineAtMs: soon(),
      });
      return { mine, outcome, tookMs: realClock.now() - started };
    };
    // Warm, then frozen as the whole small message is on its way: the kernel takes it, so nobody knows.
    assert.equal((await carry(500, null)).outcome?.kind, 'delivered');
    const small = await carry(500, 0);
    assert.equal(small.outcome?.kind, 'in-doubt');
    assert.ok(small.tookMs < 2500, `${small.tookMs}`);
    // Frozen from the start: no greeting.
    const mute = await carry(500, null);
    assert.deepEqual([mute.outcome?.kind, mute.outcome?.failure?.kind], ['deferred', 'node-silent']);
    assert.ok(mute.tookMs < 2500, `${mute.tookMs}`);
    node.thaw();
    // Frozen in the middle of more than the kernel's buffers hold: it can't have seen the end.
    const large = await carry(40_000_000, 1_000_000);
    assert.deepEqual([large.outcome?.kind, large.outcome?.failure?.kind], ['deferred', 'node-silent']);
    assert.ok(large.tookMs < 6000, `${large.tookMs}`);
    node.thaw();
    assert.equal((await carry(500, null)).outcome?.kind, 'delivered');
    const there = await found();
    assert.equal(there.get(large.mine), undefined);
    assert.equal(there.get(mute.mine), undefined);
    assert.ok((there.get(small.mine) ?? 0) <= 1);
  });
});
