/**
 * Silence: a node, or our own writer, that takes what it is given and answers nothing. Every wait ends, in 451 or by another way,
 * nobody else waits with it, and what comes back to life does not deliver a second time what was settled elsewhere.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { signal } from '../lab/processes.ts';
import { waitFor } from '../lab/wait.ts';
import { kinds, type MailWorld, startMailWorld } from './mail-world.ts';

async function openWorld(name: string, over = {}): Promise<MailWorld> {
  const world = await startMailWorld({ name, over });
  const { receipts } = await world.send('lmtp', world.users);
  assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
  return world;
}

describe('a frozen node', { concurrency: true }, () => {
  let world: MailWorld;
  before(async () => {
    world = await openWorld('silent-node', {
      health: { interval: '100ms', timeout: '500ms', greetingTimeout: '3s', rise: 2, fall: 2 },
      failover: { spread: '200ms', settle: '2s' },
    });
  });
  after(() => world?.end());

  test('many messages for its users at the moment it freezes: each is acknowledged or 451 soon after the node is called down', async t => {
    const mine = world.usersOf('mail1');
    const others = [...world.usersOf('mail2'), ...world.usersOf('mail3')];
    world.node('mail1').freeze();
    const beganAtMs = performance.now();
    const toFrozen = Array.from({ length: 40 }, async (_, n) => {
      const user = mine[n % mine.length] ?? '';
      const sent = await world.send(
        n % 2 === 0 ? 'lmtp' : 'smtp',
        n % 4 === 3 ? [user, others[0] ?? ''] : user,
      );
      return { user, ...sent, ms: performance.now() - beganAtMs };
    });
    for (let n = 0; n < 10; n += 1) {
      const startedAtMs = performance.now();
      const { receipts } = await world.send(n % 2 === 0 ? 'lmtp' : 'smtp', others);
      assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
      assert.ok(performance.now() - startedAtMs < 1500, 'users of other nodes notice nothing');
    }
    const sent = await Promise.all(toFrozen);
    const slowestMs = Math.max(...sent.map(each => each.ms));
    t.diagnostic(
      `slowest ${Math.round(slowestMs)} ms: ${JSON.stringify(
        Object.groupBy(sent, each => kinds(each.receipts).join()),
        (key, value) => (Array.isArray(value) && key !== '' ? value.length : value),
      )}`,
    );
    for (const each of sent)
      for (const kind of kinds(each.receipts)) assert.match(kind, /^(acknowledged|451)$/);
    assert.ok(slowestMs < 12_000, `${slowestMs}`);
    for (const each of sent) {
      if (each.receipts[0]?.kind === 'acknowledged') {
        await waitFor(
          async () => (await world.count(each.user, each.number)) > 0 || (await world.queued()) > 0,
          { what: 'it to be there' },
        );
      }
    }
    world.node('mail1').thaw();
    await world.waitForHealth('mail1', 'up');
    await world.waitForEmptyQueue();
    const doubts = world.homing
      .logLines()
      .filter(line => line.msg === 'delivery' && line.outcome === 'in-doubt').length;
    let doubles = 0;
    for (const each of sent) {
      const count = await world.count(each.user, each.number);
      if (each.receipts[0]?.kind === 'acknowledged') assert.ok(count >= 1, `${each.number} of ${each.user}`);
      doubles += Math.max(0, count - 1);
    }
    assert.ok(doubles <= doubts, `${doubles} doubles, ${doubts} in doubt`);
  });
});

describe('a frozen writer', () => {
  let world: MailWorld;
  before(async () => {
    world = await openWorld('silent-writer');
  });
  after(() => world?.end());

  test('is replaced: LMTP has its answer within half a minute, SMTP is acknowledged once durable, and both are there once', async t => {
    const [user = '', second = ''] = world.usersOf('mail1');
    const [other = ''] = world.usersOf('mail2');
    await world.node('mail1').kill();
    await world.waitForHealth('mail1', 'down');
    const [writer = 0] = world.homing.pids('writer').slice(-1);
    assert.ok(signal(writer, 'SIGSTOP'));
    const beganAtMs = performance.now();
    const sending = [world.send('lmtp', user), world.send('smtp', [second, other])];
    const fine = await world.send('lmtp', other);
    assert.deepEqual(kinds(fine.receipts), ['acknowledged']);
    assert.ok(performance.now() - beganAtMs < 1500, 'who needs no writer does not wait');
    const [lmtp, smtp] = await Promise.all(sending);
    const tookMs = performance.now() - beganAtMs;
    t.diagnostic(`${Math.round(tookMs)} ms: ${kinds(lmtp?.receipts ?? [])}, ${kinds(smtp?.receipts ?? [])}`);
    assert.ok(tookMs < 35_000, `${tookMs}`);
    assert.match(kinds(lmtp?.receipts ?? []).join(), /^(451|acknowledged)$/);
    assert.match(kinds(smtp?.receipts ?? []).join(), /^acknowledged,acknowledged$/);
    await waitFor(() => world.homing.pids('writer').some(pid => pid !== writer), {
      what: 'a new writer',
      limitMs: 15_000,
    });
    await world.waitForEmptyQueue(30_000);
    assert.equal(await world.count(second, smtp?.number ?? ''), 1);
    assert.equal(await world.count(other, smtp?.number ?? ''), 1);
    const again = await world.send('lmtp', user);
    assert.deepEqual(kinds(again.receipts), ['acknowledged']);
    const isTaken = lmtp?.receipts[0]?.kind === 'acknowledged';
    assert.equal(await world.count(user, lmtp?.number ?? ''), isTaken ? 1 : 0);
  });
});
