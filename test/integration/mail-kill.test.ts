/**
 * kill -9 under a steady stream of mail: of nodes, and of each of Homing's processes. What was acknowledged is there; once, unless the
 * client had to repeat it without an answer or the log called it in doubt. Counted from the mailboxes, by files and through IMAP.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { greet, openMailTalk } from '../lab/mail.ts';
import { pause, waitFor } from '../lab/wait.ts';
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
const randomPause = (leastMs: number, mostMs: number) => pause(leastMs + Math.random() * (mostMs - leastMs));

async function openWorld(name: string, over = {}): Promise<MailWorld> {
  const world = await startMailWorld({ name, over });
  const { receipts } = await world.send('lmtp', world.users);
  assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']), 'everyone has a Maildir');
  return world;
}

describe('a node killed under load', () => {
  let world: MailWorld;
  before(async () => {
    world = await openWorld('kill-node');
  });
  after(() => world?.end());

  test('in the middle of DATA: the message is acknowledged from the spool, once', async () => {
    const [user = '', second = ''] = world.usersOf('mail1');
    const other = world.usersOf('mail2')[0] ?? '';
    for (const kind of ['lmtp', 'smtp'] as const) {
      const number = nextNumber();
      const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports[kind] ?? 0 });
      await greet(talk, kind);
      await talk.ask('MAIL FROM:<mid@example.net>');
      const to = [user, other, second];
      for (const each of to) assert.equal((await talk.ask(`RCPT TO:<${each}>`)).code, 250);
      assert.equal((await talk.ask('DATA')).code, 354);
      const message = numberedMessage({ number, to: user, bodyBytes: 2_000_000 });
      talk.write(message.slice(0, 1_000_000));
      await world.node('mail1').kill();
      talk.write(`${message.slice(1_000_000)}.\r\n`);
      for (const _ of kind === 'lmtp' ? to : ['all']) assert.equal((await talk.reply()).code, 250);
      talk.close();
      for (const each of to) assert.equal(await world.count(each, number), 1, each);
      assert.deepEqual(await world.savedBy(number, 1), ['mail2']);
      await world.waitForHealth('mail1', 'down');
      await world.node('mail1').restart();
      await world.waitForHealth('mail1', 'up');
    }
  });

  test('again and again, one after the other: nothing lost, none twice but in doubt, and all at home at the end', async t => {
    const stream = startStream(world, { lanes: 6, pauseMs: 10 });
    let locks = 0;
    for (let round = 0; round < 6 * times; round += 1) {
      const name = nodeNames[round % 3] ?? 'mail1';
      await randomPause(100, 500);
      locks += (await world.killUnderLoad(name)).length;
      await randomPause(100, 700);
      await world.node(name).restart();
    }
    for (const name of nodeNames) await world.waitForHealth(name, 'up', 60_000);
    const books = await stream.end(60_000);
    await world.waitForEmptyQueue(60_000);
    const tally = await auditBooks(world, books);
    t.diagnostic(`${JSON.stringify(tally)}, ${locks} locks left behind`);
    assert.ok(tally.acknowledged > 50 && tally.direct > 0, JSON.stringify(tally));
    for (const user of world.users) {
      await waitFor(async () => (await world.placeOf(user)).kind === 'home', {
        what: `${user} to be home`,
        limitMs: 20_000,
      });
      const { number } = await world.send('lmtp', user);
      assert.deepEqual(await world.savedBy(number, 1), [world.homeOf(user)]);
    }
  });
});

describe('Homing killed under load', () => {
  for (const [way, over] of Object.entries({
    direct: {},
    queue: { delivery: { whenHomeDown: { smtp: ['queue'], lmtp: [] } } },
  })) {
    test(`its serving process, writer, parent or all, at random, a node dying too (${way}): acknowledged is delivered`, async t => {
      const world = await openWorld(`kill-${way}`, over);
      try {
        const stream = startStream(world, { lanes: 5, pauseMs: 10 });
        let locks = 0;
        const victims = ['serving', 'writer', 'all', 'serving', 'parent'] as const;
        for (let round = 0; round < victims.length * times; round += 1) {
          const name = nodeNames[round % 3] ?? 'mail1';
          const node = world.node(name);
          const victim = victims[round % victims.length] ?? 'all';
          await randomPause(100, 500);
          locks += (await world.killUnderLoad(name)).length;
          await randomPause(0, 400);
          const before = world.homing.pids('serving').at(-1);
          await (victim === 'all' ? world.homing.kill9() : world.homing.kill9(victim));
          await randomPause(0, 200);
          const restarting = node.restart();
          if (victim === 'all' || victim === 'parent') await world.homing.restart();
          if (victim === 'serving') {
            await waitFor(() => world.homing.pids('serving').some(pid => pid !== before), {
              what: 'a new serving process',
            });
          }
          await restarting;
        }
        for (const each of nodeNames) await world.waitForHealth(each, 'up', 60_000);
        const books = await stream.end(60_000);
        await world.waitForEmptyQueue(60_000);
        const tally = await auditBooks(world, books);
        t.diagnostic(`${JSON.stringify(tally)}, ${locks} locks left behind`);
        assert.ok(
          tally.acknowledged > 50 && (way === 'queue' ? tally.queued : tally.direct) > 0,
          JSON.stringify(tally),
        );
      } finally {
        await world.end();
      }
    });
  }
});
