import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import { lmtpReply } from '../../../src/core/failure.ts';
import type { Outcome } from '../../../src/core/types.ts';
import type { Courier, Errand, Letter } from '../../../src/delivery/courier.ts';
import { createDispatch } from '../../../src/delivery/dispatch.ts';
import type { KeepWish } from '../../../src/delivery/keep.ts';
import {
  createQueueRunner,
  type QueueRunnerOptions,
  queueRunnerDefaults,
} from '../../../src/delivery/queue-runner.ts';
import { createQueueCourier } from '../../../src/delivery/to-queue.ts';
import { realClock } from '../../../src/net/clock.ts';
import { type FileCalls, realFileCalls } from '../../../src/storage/file-calls.ts';
import { openQueueFolder } from '../../../src/storage/queue-folder.ts';
import { fakeCluster, quietLog, recipient } from './fake-cluster.ts';

const N = process.execPath;
const schedule = { firstMs: 20, factor: 2, longestMs: 100, lifeMs: 3_600_000, jitter: 0 };
type Answer = 'ok' | 'down' | 'doubt' | number;

function outcomeOf(answer: Answer, node: string): Outcome {
  if (answer === 'ok')
    return { kind: 'delivered', courier: 'node', node, reply: { code: 250, enhanced: null, lines: ['ok'] } };
  if (typeof answer === 'number')
    return {
      kind: answer < 500 ? 'deferred' : 'rejected',
      courier: 'node',
      node,
      reply: { code: answer, enhanced: null, lines: ['no'] },
    };
  const kind = answer === 'down' ? 'node-unreachable' : 'in-doubt';
  return {
    kind: answer === 'down' ? 'deferred' : 'in-doubt',
    courier: 'node',
    node,
    reply: lmtpReply({ kind }),
    failure: { kind },
  };
}

function letterOf(id: string, from = 's@x', text = 'hi\r\n', ageMs = 0): Letter {
  const memory = Buffer.from(text);
  return {
    id,
    from,
    body: {
      bytes: memory.length,
      memory,
      open: () => Readable.from([memory]),
      dispose: () => Promise.resolve(),
    },
    eightBit: false,
    smtpUtf8: false,
    acceptedAtMs: Date.now() - ageMs,
  };
}

async function world(
  t: TestContext,
  options: Partial<QueueRunnerOptions> & { path?: string; calls?: FileCalls } = {},
) {
  const path = options.path ?? mkdtempSync(join(tmpdir(), 'runner-'));
  if (options.path === undefined) t.after(() => rmSync(path, { recursive: true, force: true }));
  const opened = await openQueueFolder(path, options.calls);
  assert.ok(opened.ok);
  const { queue } = opened;
  const cluster = fakeCluster({ m1: 1, m2: 2 });
  const answers = new Map<string, Answer[]>();
  const carried: { to: string; node: string; body: string; atMs: number }[] = [];
  const bounced: KeepWish[] = [];
  const lines: Record<string, unknown>[] = [];
  let onCarry: ((errand: Errand) => void) | null = null;
  const node: Courier = {
    name: 'node',
    carry: async errand => {
      onCarry?.(errand);
      const text = Buffer.concat(await errand.letter.body.open().toArray()).toString();
      return errand.recipients.map(each => {
        carried.push({ to: each.address, node: errand.node?.name ?? '', body: text, atMs: realClock.now() });
        return outcomeOf(answers.get(each.address)?.shift() ?? 'ok', errand.node?.name ?? '');
      });
    },
  };
  const dispatch = createDispatch({
    admitting: cluster,
    couriers: [node],
    settleMs: 100,
    clock: realClock,
    log: quietLog(),
  });
  const bounceResult: { kind: 'kept' | 'failed' | 'tell-client' } = { kind: 'kept' };
  const runner = createQueueRunner({
    ...queueRunnerDefaults,
    queue,
    dispatch,
    admitting: cluster,
    bounce: async wish => {
      bounced.push(wish);
      if (bounceResult.kind === 'failed') return { kind: 'failed', failure: { kind: 'disk-full' } };
      return bounceResult.kind === 'kept'
        ? { kind: 'kept' }
        : { kind: 'tell-client', reply: lmtpReply({ kind: 'internal' }) };
    },
    whenHomeDown: ['direct', 'queue'],
    startsPerSecond: 2000,
    schedule,
    clock: realClock,
    log: quietLog(lines),
    ...options,
  });
  const courier = createQueueCourier({
    queue,
    onAdded: (key, envelope) => runner.onAdded(key, envelope),
    schedule: options.schedule ?? schedule,
    clock: realClock,
    log: quietLog(),
  });
  t.after(async () => {
    await runner.stop(1000);
    await queue.close();
  });
  return {
    path,
    queue,
    cluster,
    answers,
    carried,
    bounced,
    bounceResult,
    lines,
    runner,
    courier,
    set onCarry(then: (errand: Errand) => void) {
      onCarry = then;
    },
    async put(id: string, to: string[], from?: string, ageMs = 0) {
      const recipients = to.map((address, i) => recipient(address, i));
      const outcomes = await courier.carry({
        letter: letterOf(id, from, 'hi\r\n', ageMs),
        recipients,
        node: null,
        deadlineAtMs: realClock.now() + 5000,
      });
      assert.deepEqual(
        outcomes.map(each => each.reply.lines[0]),
        to.map(() => `queued as ${id}`),
      );
    },
  };
}

async function until(what: () => boolean, limitMs = 4000): Promise<void> {
  for (const end = realClock.now() + limitMs; !what(); ) {
    assert.ok(realClock.now() < end, 'it did not come about in time');
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

describe('the queue', () => {
  test('tries until the node takes it, then holds nothing any more', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('a@x', ['down', 451, 'ok']);
    await w.put('one', ['a@x', 'b@x']);
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(
      w.carried.map(each => each.to),
      ['a@x', 'b@x', 'a@x', 'a@x'],
      'who has it is not sent it again',
    );
    assert.deepEqual(readdirSync(w.path), []);
    assert.equal(w.carried[0]?.body, 'hi\r\n');
  });

  test('a node that comes back gets its mail at once, at a bounded rate and number', async t => {
    const w = await world(t, {
      startsPerSecond: 100,
      maxTrying: 3,
      schedule: { ...schedule, firstMs: 60_000, longestMs: 60_000 },
    });
    await w.runner.start();
    for (let i = 0; i < 30; i += 1) await w.put(`n${i}`, [`u${i}@x`]);
    let most = 0;
    w.onCarry = () => {
      most = Math.max(most, w.runner.counts().trying);
    };
    assert.equal(w.carried.length, 0);
    const started = realClock.now();
    w.runner.nodeUp('m1');
    await until(() => w.runner.counts().entries === 0);
    assert.equal(w.carried.length, 30);
    assert.ok(most <= 3);
    assert.ok(realClock.now() - started > 150, 'ten may start at once, the rest a hundred a second');
  });

  test('a refusal is on disk before the sender is told, and is told once', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('no@x', [550]);
    w.answers.set('b@x', ['down', 'ok']);
    await w.put('one', ['no@x', 'b@x']);
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(
      w.bounced.map(wish => wish.bounce.map(each => `${each.recipient.address} ${each.outcome.reply.code}`)),
      [['no@x 550']],
    );
    assert.deepEqual(readdirSync(w.path), []);
  });

  test('a sender that cannot be told yet is told later; one that never can has the message kept for the operator', async t => {
    const w = await world(t);
    await w.runner.start();
    w.bounceResult.kind = 'failed';
    w.answers.set('no@x', [550]);
    await w.put('one', ['no@x']);
    await until(() => w.bounced.length === 1);
    await until(() => w.runner.counts().trying === 0);
    assert.equal(w.runner.counts().entries, 1);
    w.bounceResult.kind = 'tell-client';
    w.runner.flush();
    await until(() => w.runner.counts().entries === 0);
    assert.equal(w.carried.length, 1, 'the node is not asked again');
    assert.deepEqual(readdirSync(join(w.path, 'undelivered')).sort(), ['one.body', 'one.json']);
  });

  test('the null sender is never told', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('no@x', [550]);
    await w.put('one', ['no@x'], '');
    await until(() => w.runner.counts().entries === 0);
    assert.equal(w.bounced.length, 0);
    assert.ok(w.lines.some(line => String(line.text).includes('never told')));
  });

  test('is given up at the end of its life, with the last reply, after a last attempt', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('a@x', ['down']);
    await w.put('old', ['a@x'], 's@x', schedule.lifeMs + 1);
    await until(() => w.runner.counts().entries === 0);
    assert.equal(w.carried.length, 1);
    const reply = w.bounced[0]?.bounce[0]?.outcome.reply;
    assert.deepEqual([reply?.code, reply?.enhanced], [554, '5.4.7']);
    assert.match(reply?.lines.join(' ') ?? '', /last reply: 451/);
  });

  test('what is in doubt is tried at the same node only, until it is settled', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('a@x', ['doubt', 'ok']);
    w.onCarry = () => {
      if (w.carried.length === 0)
        w.cluster.places.set('a@x', { kind: 'failover', homeDown: true, node: 'm2', why: 'm1 is down' });
    };
    await w.put('one', ['a@x']);
    await until(() => w.carried.length === 1);
    await new Promise(resolve => setTimeout(resolve, 200));
    assert.equal(w.carried.length, 1, 'm2 is not asked');
    w.cluster.places.delete('a@x');
    w.runner.nodeUp('m1');
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(
      w.carried.map(each => each.node),
      ['m1', 'm1'],
    );
  });

  test('a user who was moved away from a living node is not sent back there for a doubt (promise 1)', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('a@x', ['doubt', 'ok']);
    w.onCarry = () => void w.cluster.places.set('a@x', { kind: 'override', node: 'm2', why: 'moved' });
    await w.put('one', ['a@x']);
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(
      w.carried.map(each => each.node),
      ['m1', 'm2'],
    );
  });

  test('nor one whose node is drained and alive, while mail goes to the next node', async t => {
    const w = await world(t);
    await w.runner.start();
    w.answers.set('a@x', ['doubt', 'ok']);
    w.onCarry = () =>
      void w.cluster.places.set('a@x', { kind: 'failover', homeDown: false, node: 'm2', why: 'drained' });
    await w.put('one', ['a@x']);
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(
      w.carried.map(each => each.node),
      ['m1', 'm2'],
    );
  });

  test('what a dead process left half done is named in doubt in the log before it is tried again', async t => {
    const dead = await world(t);
    await dead.runner.start();
    const path = mkdtempSync(join(tmpdir(), 'runner-'));
    t.after(() => rmSync(path, { recursive: true, force: true }));
    // As kill -9 would leave the folder: in the middle of the hand-over.
    dead.onCarry = () => cpSync(dead.path, path, { recursive: true });
    await dead.put('one', ['a@x', 'b@x'], 's@x');
    await until(() => dead.runner.counts().entries === 0);
    const w = await world(t, { path });
    await w.runner.start();
    await until(() => w.runner.counts().entries === 0);
    const named = w.lines.filter(line => line.outcome === 'in-doubt');
    assert.deepEqual(
      named.map(({ id, from, to, courier, node }) => ({ id, from, to, courier, node })),
      ['a@x', 'b@x'].map(to => ({ id: 'one', from: 's@x', to, courier: 'node', node: 'm1' })),
    );
    assert.match(String(named[0]?.reply), /^451 4\.4\.2 /);
  });

  test('where it is about to go is on disk before it goes, and taken off when it surely did not arrive', async t => {
    const w = await world(t);
    await w.runner.start();
    const seen: unknown[] = [];
    const read = async () => JSON.parse(await readFile(join(w.path, 'one.json'), 'utf8')).recipients[0].doubt;
    w.answers.set('a@x', ['down', 'ok']);
    w.onCarry = () => void seen.push(read());
    await w.put('one', ['a@x']);
    await until(() => w.carried.length === 1 && w.runner.counts().trying === 0);
    assert.equal(await read(), null);
    await until(() => w.runner.counts().entries === 0);
    assert.deepEqual(await seen[0], { courier: 'node', node: 'm1' });
  });

  test('a disk that fills up delivers nobody twice, and everybody once', async t => {
    const calls: FileCalls = { ...realFileCalls };
    const w = await world(t, { calls });
    await w.runner.start();
    w.answers.set('b@x', ['down', 'down', 'ok']);
    await w.put('one', ['a@x', 'b@x']);
    const full = () =>
      Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', syscall: 'write' }));
    calls.write = full;
    await until(() => w.carried.length === 2 && w.runner.counts().trying === 0);
    assert.ok(w.lines.some(line => String(line.text).includes('in memory only')));
    for (let i = 0; i < 5 && w.runner.counts().entries > 0; i += 1) {
      w.runner.flush();
      await until(() => w.runner.counts().trying === 0 && w.runner.counts().due === 0);
    }
    assert.deepEqual(
      w.carried.map(each => each.to),
      ['a@x', 'b@x', 'b@x', 'b@x'],
    );
    assert.deepEqual(readdirSync(w.path), [], 'delivering is what frees the disk');
  });

  test('a folder that has become read-only hands over nothing that it could not forget', async t => {
    const calls: FileCalls = { ...realFileCalls };
    const w = await world(t, { calls });
    await w.runner.start();
    await w.put('one', ['a@x']);
    calls.open = () => Promise.reject(Object.assign(new Error('EROFS'), { code: 'EROFS', syscall: 'open' }));
    await until(() => w.lines.some(line => String(line.text).includes('cannot note')));
    await until(() => w.runner.counts().trying === 0);
    assert.equal(w.carried.length, 0);
    calls.open = realFileCalls.open;
    w.runner.flush();
    await until(() => w.runner.counts().entries === 0);
    assert.equal(w.carried.length, 1);
  });

  test('the queue says no while it cannot write, and takes back what came to disk too late', async t => {
    const calls: FileCalls = { ...realFileCalls };
    const w = await world(t, { calls });
    await w.runner.start();
    const recipients = [recipient('a@x')];
    calls.write = () =>
      Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', syscall: 'write' }));
    const [full] = await w.courier.carry({
      letter: letterOf('f'),
      recipients,
      node: null,
      deadlineAtMs: realClock.now() + 1000,
    });
    assert.deepEqual([full?.kind, full?.failure?.kind], ['deferred', 'disk-full']);
    calls.write = realFileCalls.write;
    calls.fsync = async fd => {
      await new Promise(resolve => setTimeout(resolve, 150));
      await realFileCalls.fsync(fd);
    };
    const [late] = await w.courier.carry({
      letter: letterOf('l'),
      recipients,
      node: null,
      deadlineAtMs: realClock.now() + 50,
    });
    assert.deepEqual([late?.kind, late?.failure?.kind], ['deferred', 'queue-failed']);
    await until(() => readdirSync(w.path).length === 0);
    assert.equal(w.carried.length, 0);
  });
});

describe('kill -9 of a process that drains its queue', () => {
  test('at random instants: everybody gets it, and twice only who was called in doubt', async t => {
    const path = mkdtempSync(join(tmpdir(), 'drain-'));
    t.after(() => rmSync(path, { recursive: true, force: true }));
    const record = join(path, 'node-has');
    const filling = await world(t, {
      path: join(path, 'q'),
      schedule: { ...schedule, firstMs: 3_600_000, longestMs: 3_600_000 },
    });
    await Promise.all(
      Array.from({ length: 120 }, (_, i) => filling.put(`m${i}`, [`u${i}@x`, `v${i}@x`, `w${i}@x`])),
    );
    let doubts = 0;
    for (let round = 0; ; round += 1) {
      assert.ok(round < 60, 'the queue never drains');
      const child = spawn(N, [join(import.meta.dirname, 'queue-drainer.ts'), join(path, 'q'), record], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let said = '';
      child.stdout.on('data', chunk => {
        const first = said === '';
        said += chunk;
        // It begins to drain when it says so; most rounds end long before it is done.
        if (first && round < 12) setTimeout(() => child.kill('SIGKILL'), 5 + Math.random() * 120);
      });
      await new Promise(resolve => child.once('close', resolve));
      doubts += Number(/doubts (\d+)/.exec(said)?.[1] ?? 0);
      if (said.includes('empty')) break;
    }
    const times = new Map<string, number>();
    for (const line of (await readFile(record, 'utf8')).trim().split('\n'))
      times.set(line, (times.get(line) ?? 0) + 1);
    assert.equal(times.size, 360, 'nobody lost');
    const doubles = [...times.values()].reduce((sum, count) => sum + count - 1, 0);
    assert.ok(doubles <= doubts, `${doubles} doubles, ${doubts} called in doubt`);
    assert.ok(doubts > 0, 'the kills came at the right time to test anything');
  });
});
