/**
 * Planned changes under a steady stream of mail: nodes drained and made ready, settings reloaded, Homing asked to end and started anew.
 * None of them may cost a message, a copy or a doubt; and a drain is not even noticed by the client.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { greet, openMailTalk } from '../lab/mail.ts';
import { pause, waitFor, within } from '../lab/wait.ts';
import { auditBooks, startStream } from './mail-stream.ts';
import {
  isLong,
  kinds,
  type MailWorld,
  nextNumber,
  nodeNames,
  numberedMessage,
  startMailWorld,
} from './mail-world.ts';

const times = isLong ? 12 : 1;

describe('a planned change under load', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({ name: 'mail-change' });
    const { receipts } = await world.send('lmtp', world.users);
    assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
  });
  after(() => world?.end());

  const order = async (name: string, admin: 'ready' | 'drain' | 'maint'): Promise<void> => {
    const { status, body } = await world.homing.admin(`/v1/nodes/${name}`, { body: { admin } });
    assert.equal(status, 200, body);
  };

  test('nodes that drain, go into maintenance and come back: no client sees a refusal, nothing is doubted, doubled or written directly', async t => {
    const stream = startStream(world, { lanes: 6, pauseMs: 5 });
    for (let round = 0; round < 6 * times; round += 1) {
      const name = nodeNames[round % 3] ?? 'mail1';
      const seen = stream.begun();
      await order(name, round % 2 === 0 ? 'drain' : 'maint');
      await waitFor(() => stream.begun() > seen + 30, { what: 'mail during the drain' });
      const [user = ''] = world.usersOf(name);
      const away = await world.placeOf(user);
      assert.ok('node' in away && (away.node !== name || away.kind === 'pin'), JSON.stringify(away));
      await order(name, 'ready');
      await pause(Math.random() * 300);
    }
    const books = await stream.end(30_000);
    await world.waitForEmptyQueue();
    const tally = await auditBooks(world, books);
    t.diagnostic(JSON.stringify(tally));
    assert.deepEqual(
      { ...tally, acknowledged: 0 },
      { acknowledged: 0, retried: 0, doubled: 0, inDoubt: 0, direct: 0, queued: 0 },
      books
        .flatMap(each => each.refusals)
        .slice(0, 5)
        .join('\n'),
    );
    assert.ok(tally.acknowledged > 100);
  });

  test('reloads while mail flows change nothing for it', async () => {
    const stream = startStream(world, { lanes: 4, pauseMs: 5 });
    for (let round = 0; round < 4 * times; round += 1) {
      const seen = stream.begun();
      world.homing.signal('SIGHUP');
      await waitFor(() => stream.begun() > seen + 30, { what: 'mail after the reload' });
    }
    const tally = await auditBooks(world, await stream.end(30_000));
    assert.equal(tally.retried + tally.doubled + tally.inDoubt + tally.direct, 0, JSON.stringify(tally));
  });

  test('asked to end in the middle of a message: it is taken, acknowledged and there; and the next start serves', async () => {
    const to = nodeNames.map(name => world.usersOf(name)[0] ?? '');
    for (const kind of ['lmtp', 'smtp'] as const) {
      // Clients that went without a word hold nothing up, one of them in the middle of a message.
      for (const lines of ['', 'MAIL FROM:<>\r\n', `MAIL FROM:<>\r\nRCPT TO:<${to[0]}>\r\nDATA\r\nhalf`]) {
        const rude = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports[kind] ?? 0 });
        await greet(rude, kind);
        rude.socket.end(lines);
      }
      const number = nextNumber();
      const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports[kind] ?? 0 });
      await greet(talk, kind);
      await talk.ask('MAIL FROM:<end@example.net>');
      for (const each of to) assert.equal((await talk.ask(`RCPT TO:<${each}>`)).code, 250);
      assert.equal((await talk.ask('DATA')).code, 354);
      const message = numberedMessage({ number, to: to[0] ?? '', bodyBytes: 500_000 });
      talk.write(message.slice(0, 250_000));
      const stopping = world.homing.stop(30_000);
      await world.homing.waitForLog(line => line.msg === 'draining', 'the drain');
      talk.write(`${message.slice(250_000)}.\r\n`);
      for (const _ of kind === 'lmtp' ? to : ['all'])
        assert.equal((await within(talk.reply(), 10_000, 'reply')).code, 250);
      const settledAtMs = performance.now();
      await stopping;
      assert.ok(
        performance.now() - settledAtMs < 1000,
        'with nothing left to do, the processes are gone at once',
      );
      talk.close();
      for (const each of to) assert.equal(await world.count(each, number), 1, each);
      await world.homing.restart();
    }
  });

  test('a client that goes away in the middle of a message leaves nothing anywhere', async () => {
    const [user = ''] = world.users;
    for (const kind of ['lmtp', 'smtp'] as const) {
      const number = nextNumber();
      const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports[kind] ?? 0 });
      await greet(talk, kind);
      await talk.ask('MAIL FROM:<gone@example.net>');
      await talk.ask(`RCPT TO:<${user}>`);
      await talk.ask('DATA');
      talk.write(numberedMessage({ number, to: user, bodyBytes: 500_000 }));
      talk.socket.end();
      talk.close();
      const after = await world.send(kind, user);
      assert.deepEqual(kinds(after.receipts), ['acknowledged']);
      assert.equal(await world.count(user, number), 0);
    }
  });
});
