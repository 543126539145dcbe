import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import type { Handed, LmtpMessage, LmtpTimeouts, Pull } from '../../../src/backend/lmtp-client.ts';
import {
  createLmtpPool,
  type LmtpAddress,
  type LmtpPool,
  type LmtpPoolOptions,
} from '../../../src/backend/lmtp-pool.ts';
import type { Evidence } from '../../../src/core/types.ts';
import { realClock } from '../../../src/net/clock.ts';
import { hangUp, type Peer, reset, type Script, silence, startPeer } from './lmtp-peer.ts';

const timeouts: LmtpTimeouts = {
  connectMs: 300,
  greetingMs: 300,
  commandMs: 300,
  goAheadMs: 300,
  stallMs: 300,
  finalMs: 1000,
};

function message(to = ['a@x']): LmtpMessage {
  const memory = Buffer.from('x\r\n');
  return {
    from: '',
    recipients: to,
    body: { bytes: 3, memory, open: () => Readable.from([memory]) },
    eightBit: false,
    smtpUtf8: false,
  };
}

async function world(t: TestContext, script: Script = {}, options: Partial<LmtpPoolOptions> = {}) {
  const peer = await startPeer(script);
  const evidence: Evidence[] = [];
  const pool = createLmtpPool({
    ownName: 'p',
    timeouts,
    maxPerNode: 3,
    maxWaiting: 10,
    waitMs: 500,
    idleMs: 60_000,
    clock: realClock,
    onEvidence: (_, each) => evidence.push(each),
    ...options,
  });
  t.after(async () => {
    pool.close();
    await peer.close();
  });
  return { peer, pool, evidence, to: at(peer) };
}

function at(peer: Peer): LmtpAddress {
  return { name: 'm1', address: '127.0.0.1', port: peer.port };
}

function soon(ms = 3000): number {
  return realClock.now() + ms;
}

function words(handed: readonly Handed[]): string {
  return handed
    .map(each =>
      each.kind === 'replied'
        ? String(each.reply.code)
        : each.kind === 'unsayable'
          ? each.why
          : `${each.kind} ${each.fault.kind}`,
    )
    .join(' ');
}

async function until(what: () => boolean): Promise<void> {
  for (const end = soon(); !what(); ) {
    assert.ok(realClock.now() < end, 'it did not come about in time');
    await new Promise(setImmediate);
  }
}

function kept(pool: LmtpPool): number {
  return pool.list().reduce((sum, row) => sum + row.kept, 0);
}

describe('kept connections', () => {
  test('are used again, and never more at once than allowed; who waits is served in turn', async t => {
    const { peer, pool, to, evidence } = await world(t);
    const all = await Promise.all(Array.from({ length: 13 }, () => pool.deliver(to, message(), soon())));
    assert.deepEqual(all.map(words), Array(13).fill('250'));
    assert.equal(peer.connections, 3);
    assert.deepEqual(pool.list(), [{ node: 'm1', kept: 3, busy: 0, waiting: 0 }]);
    assert.deepEqual(new Set(evidence), new Set(['ok']));
  });

  test('the queue for a connection is bounded in number and time', async t => {
    const { pool, to } = await world(
      t,
      { final: () => silence },
      { maxPerNode: 1, maxWaiting: 2, waitMs: 100 },
    );
    const running = pool.deliver(to, message(), soon(600));
    const started = realClock.now();
    const others = await Promise.all([1, 2, 3].map(() => pool.deliver(to, message(), soon())));
    assert.deepEqual(others.map(words), Array(3).fill('unsent busy'));
    assert.ok(realClock.now() - started < 400);
    assert.equal(words(await running), 'in-doubt silent');
  });

  test('one that the node closed meanwhile is noticed, or the message goes once more on a fresh one', async t => {
    const { peer, pool, to } = await world(t);
    await pool.deliver(to, message(), soon());
    for (const socket of peer.sockets) socket.end();
    assert.equal(words(await pool.deliver(to, message(), soon())), '250');
    assert.equal(peer.messages.length, 2);
    for (const socket of peer.sockets) socket.resetAndDestroy();
    await until(() => kept(pool) === 0);
    assert.equal(words(await pool.deliver(to, message(), soon())), '250');
  });

  test('a fresh connection that breaks the same way is not tried for ever', async t => {
    let mails = 0;
    const { peer, pool, to } = await world(t, { mail: () => (++mails > 1 ? reset : '250 OK') });
    assert.equal(words(await pool.deliver(to, message(), soon())), '250');
    assert.equal(words(await pool.deliver(to, message(), soon())), 'unsent broke-off');
    assert.equal(peer.connections, 2);
  });

  test('nothing is repeated once the node has said a word', async t => {
    let mails = 0;
    const { peer, pool, to } = await world(t, {
      mail: () => '250 OK',
      rcpt: () => (++mails > 1 ? hangUp : '250 OK'),
    });
    await pool.deliver(to, message(), soon());
    assert.equal(words(await pool.deliver(to, message(), soon())), 'unsent broke-off');
    assert.equal(peer.connections, 1);
  });

  test('are closed when they were not used for a while, before the node does', async t => {
    const { peer, pool, to } = await world(t, {}, { idleMs: 60 });
    await pool.deliver(to, message(), soon());
    await until(() => pool.list().length === 0);
    await until(() => peer.sockets.size === 0);
    assert.equal(peer.lines.at(-1), 'QUIT');
  });

  test("do not outlive the node's going down or moving to another address", async t => {
    const { peer, pool, to } = await world(t);
    const second = await startPeer();
    t.after(() => second.close());
    await pool.deliver(to, message(), soon());
    assert.equal(words(await pool.deliver(at(second), message(), soon())), '250');
    await until(() => peer.sockets.size === 0);
    assert.equal(second.connections, 1);
    pool.closeNode('m1');
    await until(() => second.sockets.size === 0);
    assert.deepEqual(pool.list(), []);
    assert.equal(
      words(await pool.deliver(at(second), message(), soon())),
      '250',
      'a node that comes back is served',
    );
  });

  test('a message that runs while its node is declared gone ends by itself, and its connection is not kept', async t => {
    const { pool, to } = await world(t, {
      final: () => socket => setTimeout(() => socket.write('250 late\r\n'), 80),
    });
    const running = pool.deliver(to, message(), soon());
    await until(() => pool.list()[0]?.busy === 1);
    pool.closeNode('m1');
    assert.equal(words(await running), '250');
    assert.deepEqual(pool.list(), []);
  });
});

describe('evidence', () => {
  test('of a dead port, a mute node and one that turns us away is told at once', async t => {
    const cases: [Script | null, Evidence, string][] = [
      [null, 'connect-failed', 'unsent unreachable'],
      [{ greeting: silence }, 'greeting-timeout', 'unsent silent'],
      [{ greeting: '554 go away' }, 'explicit-error', 'unsent refused'],
      [{ data: () => silence }, 'reply-timeout', 'unsent silent'],
      [{ final: () => silence }, 'reply-timeout', 'in-doubt silent'],
    ];
    for (const [script, expected, result] of cases) {
      const { pool, to, evidence, peer } = await world(t, script ?? {});
      if (script === null) await peer.close();
      assert.equal(words(await pool.deliver(to, message(), soon())), result);
      assert.equal(evidence.at(-1), expected);
    }
  });

  test('our own deadline and shutdown are none', async t => {
    const { pool, to, evidence } = await world(t);
    pool.close();
    assert.equal(words(await pool.deliver(to, message(), soon())), 'unsent withdrawn');
    assert.deepEqual(evidence, []);
  });
});

describe('the barrier pulls', () => {
  test('while it waits for a connection, or for one to open: withdrawn at once', async t => {
    const { pool, to } = await world(
      t,
      { greeting: silence },
      { maxPerNode: 1, waitMs: 5000, timeouts: { ...timeouts, greetingMs: 1500 } },
    );
    const opening: Pull = { pull: 'none', onPull: null };
    const waiting: Pull = { pull: 'none', onPull: null };
    const both = [pool.deliver(to, message(), soon(), opening), pool.deliver(to, message(), soon(), waiting)];
    await until(() => waiting.onPull !== null && opening.onPull !== null);
    const started = realClock.now();
    for (const leash of [waiting, opening]) {
      leash.pull = 'unless-sent';
      leash.onPull?.();
    }
    assert.deepEqual((await Promise.all(both)).map(words), ['unsent withdrawn', 'unsent withdrawn']);
    assert.ok(realClock.now() - started < 300);
    await until(() => pool.list().length === 0);
  });
});
