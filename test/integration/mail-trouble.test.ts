/**
 * Mail while something is wrong: nodes that are dead or frozen, a spool that is not mounted, read-only or full, a queue or bodies
 * folder without room. What the client sees is design §5's: 451 or a durable yes, never 5xx, and never a yes for what is not on disk.
 */
import assert from 'node:assert/strict';
import { chownSync, existsSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { mailOwner } from '../lab/dovecot-node.ts';
import { maildirOf, numbersByImap } from '../lab/imap-count.ts';
import { greet, openMailTalk } from '../lab/mail.ts';
import { waitFor, within } from '../lab/wait.ts';
import {
  kinds,
  type LabNode,
  type MailWorld,
  nextNumber,
  nodeNames,
  numberedMessage,
  startMailWorld,
} from './mail-world.ts';

/** Everyone has had mail once, as in life: their Maildirs are there. */
async function greetAll(world: MailWorld): Promise<void> {
  const { receipts } = await world.send('lmtp', world.users);
  assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
}

describe('a node that is dead', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({ name: 'mail-dead' });
    await greetAll(world);
  });
  after(() => world?.end());
  afterEach(async () => {
    for (const name of nodeNames) {
      if ((await world.health(name)) === 'up') continue;
      await world.node(name).restart();
      await world.waitForHealth(name, 'up');
    }
  });

  test("its users' mail is written into their spool at once, the others' goes to their nodes; then all go home again", async () => {
    await world.node('mail2').kill();
    const to = nodeNames.flatMap(name => world.usersOf(name).slice(0, 2));
    const during: { user: string; number: string }[] = [];
    for (const kind of ['lmtp', 'smtp'] as const) {
      const from = `dead-${kind}@example.net`;
      const { number, receipts } = await world.send(kind, to, { from });
      assert.deepEqual(
        kinds(receipts),
        to.map(() => 'acknowledged'),
      );
      const lines = await world.deliveries(from, to.length);
      for (const user of to) {
        during.push({ user, number });
        assert.equal(await world.count(user, number), 1, `${user}: on disk when it was acknowledged`);
        const line = lines.find(each => each.to === user);
        const home = world.homeOf(user);
        assert.deepEqual(
          [line?.courier, line?.node, line?.outcome],
          home === 'mail2' ? ['direct', null, 'delivered'] : ['node', home, 'delivered'],
        );
      }
      const savedBy = await world.savedBy(number, 4);
      assert.ok(!savedBy.includes('mail2'));
      assert.equal(savedBy.length, 4, 'no other node stands in for it');
    }
    await world.waitForHealth('mail2', 'down');
    const { number } = await world.send('smtp', to);
    assert.equal((await world.savedBy(number, 4)).length, 4);
    await world.node('mail2').restart();
    await world.waitForHealth('mail2', 'up');
    const [user = ''] = world.usersOf('mail2');
    await waitFor(async () => (await world.placeOf(user)).kind === 'home', { what: `${user} to be home` });
    const home = await world.send('lmtp', to);
    assert.deepEqual(
      (await world.savedBy(home.number, to.length)).sort(),
      to.map(each => world.homeOf(each)).sort(),
    );
    for (const each of during) {
      const found = await numbersByImap({ port: world.homing.ports.imap ?? 0, user: each.user });
      assert.equal(found.get(each.number), 1, `${each.user} reads ${each.number} once`);
    }
  });

  test('what is written directly has Return-Path, Delivered-To and Received as the node would have written them', async () => {
    const [user = ''] = world.usersOf('mail3');
    const own = await world.send('lmtp', user, { from: 'likeness@example.net' });
    await world.node('mail3').kill();
    const direct = await world.send('lmtp', user, { from: 'likeness@example.net' });
    const nullSender = await world.send('smtp', user, { from: '' });
    const head = (text: string) => text.replace(/\r\n/g, '\n').split('\n\n')[0] ?? '';
    const fields = (text: string) => head(text).match(/^[A-Za-z-]+:/gm) ?? [];
    const byNode = await world.stored(user, own.number);
    const byUs = await world.stored(user, direct.number);
    assert.match(head(byUs), /^Return-Path: <likeness@example\.net>$/m);
    assert.match(head(byUs), new RegExp(`^Delivered-To: ${user}$`, 'm'));
    assert.match(await world.stored(user, nullSender.number), /^Return-Path: <>\r?$/m);
    for (const field of ['Return-Path:', 'Delivered-To:']) {
      assert.equal(fields(byNode).filter(each => each === field).length, 1, `${field} by the node`);
      assert.equal(fields(byUs).filter(each => each === field).length, 1, `${field} by us`);
    }
    assert.equal(fields(byUs).filter(each => each === 'Received:').length, 1, 'ours');
    assert.match(head(byUs), new RegExp(`\\n\\tfor <${user}>;`));
  });

  test('what a real Dovecot might take for the end of a message is text in the spool too, and large messages are whole', async () => {
    const [user = ''] = world.usersOf('mail2');
    await world.node('mail2').kill();
    const numbers: string[] = [];
    for (const end of ['\n.\n', '\n.\r\n', '\r.\r', '\r\n..\r\n']) {
      const number = nextNumber();
      const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports.smtp ?? 0 });
      await greet(talk, 'smtp');
      await talk.ask('MAIL FROM:<raw@example.net>');
      assert.equal((await talk.ask(`RCPT TO:<${user}>`)).code, 250);
      await talk.ask('DATA');
      talk.write(
        `${numberedMessage({ number, to: user })}before${end}MAIL FROM:<evil@example.net>\r\nX-Number: smuggled\r\n.\r\n`,
      );
      assert.equal((await talk.reply()).code, 250);
      assert.equal((await talk.ask('NOOP')).code, 250);
      talk.close();
      assert.match(await world.stored(user, number), /MAIL FROM:<evil@example.net>/);
      numbers.push(number);
    }
    const large = await world.send('lmtp', user, { bodyBytes: 20_000_000, replyLimitMs: 60_000 });
    assert.deepEqual(kinds(large.receipts), ['acknowledged']);
    const sent = numberedMessage({ number: large.number, to: user, bodyBytes: 20_000_000 });
    assert.ok(
      (await world.stored(user, large.number)).replace(/\r?\n/g, '\r\n').endsWith(sent),
      'to the last byte',
    );
    // The same files, read by a Dovecot: each is one message.
    await world.waitForHealth('mail2', 'down');
    const found = await numbersByImap({ port: world.homing.ports.imap ?? 0, user });
    for (const number of [...numbers, large.number]) assert.equal(found.get(number), 1);
    assert.equal(found.get('smuggled'), undefined);
  });

  test('a stranger whose home it is gets 451, not 550 and not 250: nobody can vouch now', async () => {
    await world.node('mail1').kill();
    await world.waitForHealth('mail1', 'down');
    for (const kind of ['lmtp', 'smtp'] as const) {
      for (let n = 0; n < 20; n += 1) {
        const user = `unknown${n}@example.org`;
        const { receipts } = await world.send(kind, user);
        const { json } = await world.homing.admin(`/v1/explain?user=${user}`);
        const expected = (json as { home: string }).home === 'mail1' ? '451' : '550';
        assert.deepEqual(kinds(receipts), [expected], user);
      }
    }
    assert.equal(await world.queued(), 0);
  });

  test('a user with an active Sieve script is not written directly: SMTP queues, LMTP says 451, and the script runs later', async () => {
    const [user = '', other = ''] = world.usersOf('mail1');
    const home = dirname(maildirOf(world.spoolDir, user));
    const script = join(home, '.dovecot.sieve');
    const { uid, gid } = mailOwner();
    writeFileSync(script, 'require ["fileinto", "mailbox"];\nfileinto :create "Sorted";\n');
    chownSync(script, uid, gid);
    await world.node('mail1').kill();
    try {
      const lmtp = await world.send('lmtp', [user, other]);
      assert.deepEqual(kinds(lmtp.receipts), ['451', 'acknowledged']);
      const smtp = await world.send('smtp', [user, other], { from: 'sieve@example.net' });
      assert.deepEqual(kinds(smtp.receipts), ['acknowledged', 'acknowledged']);
      assert.equal(await world.count(user, smtp.number), 0);
      assert.equal(await world.count(other, smtp.number), 1);
      assert.equal(await world.queued(), 1);
      const lines = await world.deliveries('sieve@example.net', 2);
      assert.equal(lines.find(line => line.to === user)?.outcome, 'queued');
      await world.node('mail1').restart();
      await world.waitForHealth('mail1', 'up');
      await world.waitForEmptyQueue();
      assert.equal(await world.count(user, smtp.number), 0, 'not in the inbox');
      const sorted = readdirSync(join(maildirOf(world.spoolDir, user), '.Sorted', 'new'));
      assert.equal(sorted.length, 1, 'sorted by its script');
      assert.equal(await world.count(user, lmtp.number), 0);
    } finally {
      rmSync(script);
    }
  });
});

describe('delivery.sieve: bypass', () => {
  test('delivers to the inbox of a user with a script while the node is down', async () => {
    const world = await startMailWorld({ name: 'mail-bypass', over: { delivery: { sieve: 'bypass' } } });
    try {
      await greetAll(world);
      const [user = ''] = world.usersOf('mail1');
      writeFileSync(join(dirname(maildirOf(world.spoolDir, user)), '.dovecot.sieve'), 'discard;\n');
      await world.node('mail1').kill();
      for (const kind of ['lmtp', 'smtp'] as const) {
        const { number, receipts } = await world.send(kind, user);
        assert.deepEqual(kinds(receipts), ['acknowledged']);
        assert.equal(await world.count(user, number), 1);
      }
    } finally {
      await world.end();
    }
  });
});

describe('all nodes dead', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({ name: 'mail-none', over: { failover: { spread: '200ms' } } });
    await greetAll(world);
  });
  after(() => world?.end());

  const mark = () => join(world.spoolDir, '.homing');
  const back = async () => {
    await Promise.all(nodeNames.map(name => world.node(name).restart()));
    for (const name of nodeNames) await world.waitForHealth(name, 'up');
  };

  test('LMTP is written directly; without the spool mark it is 451, and SMTP is queued; all of it arrives once when nodes are back', async () => {
    await Promise.all(nodeNames.map(name => world.node(name).kill()));
    const to = nodeNames.flatMap(name => world.usersOf(name).slice(0, 2));
    const direct = await world.send('lmtp', to, { from: 'none@example.net' });
    assert.deepEqual(
      kinds(direct.receipts),
      to.map(() => 'acknowledged'),
    );
    for (const line of await world.deliveries('none@example.net', to.length))
      assert.deepEqual([line.courier, line.outcome], ['direct', 'delivered']);

    // SMTP: verified while the mark was there, written when it is not.
    const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports.smtp ?? 0 });
    await greet(talk, 'smtp');
    const queued = nextNumber();
    await talk.ask('MAIL FROM:<queued@example.net>');
    for (const user of to) assert.equal((await talk.ask(`RCPT TO:<${user}>`)).code, 250);
    renameSync(mark(), `${mark()}.away`);
    // A look at the mark is kept for a second.
    await waitFor(async () => (await world.send('lmtp', to[0] ?? '')).receipts[0]?.kind === 'refused', {
      what: 'the missing mark to be noticed',
    });
    assert.equal((await talk.ask('DATA')).code, 354);
    talk.write(`${numberedMessage({ number: queued, to: to[0] ?? '' })}.\r\n`);
    const reply = await talk.reply();
    talk.close();
    assert.equal(reply.code, 250, reply.text);
    assert.equal(await world.queued(), 1);

    // A node's yes is remembered for seconds; who is taken on its word is in the queue like the first.
    const taken = [queued];
    await waitFor(
      async () => {
        const { number, receipts } = await world.send('smtp', to);
        if (kinds(receipts).includes('acknowledged')) taken.push(number);
        return kinds(receipts).every(kind => kind === '451');
      },
      { what: 'nobody to vouch for anyone', everyMs: 200 },
    );
    assert.equal(await world.queued(), taken.length);
    const lmtp = await world.send('lmtp', to);
    assert.deepEqual(
      kinds(lmtp.receipts),
      to.map(() => '451'),
    );
    for (const user of to)
      for (const number of [...taken, lmtp.number]) assert.equal(await world.count(user, number), 0);
    renameSync(`${mark()}.away`, mark());
    await back();
    await world.waitForEmptyQueue();
    for (const user of to) {
      for (const number of taken) assert.equal(await world.count(user, number), 1, `${user}, from the queue`);
      assert.equal(await world.count(user, direct.number), 1, `${user}, directly`);
    }
  });
});

describe('whenHomeDown: queue alone', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({
      name: 'mail-queue',
      over: { delivery: { whenHomeDown: { smtp: ['queue'], lmtp: [] } } },
    });
    await greetAll(world);
  });
  after(() => world?.end());

  test('SMTP waits in the queue, LMTP is 451; the queue outlives kill -9 of everything, and is delivered once by the home nodes', async () => {
    await Promise.all(nodeNames.map(name => world.node(name).kill()));
    const books: { user: string; number: string }[] = [];
    for (let round = 0; round < 10; round += 1) {
      const to = nodeNames.map(name => world.usersOf(name)[round % 4] ?? '');
      const { number, receipts } = await world.send('smtp', to, {
        from: 'waits@example.net',
        bodyBytes: round === 5 ? 3_000_000 : 500,
      });
      assert.deepEqual(
        kinds(receipts),
        to.map(() => 'acknowledged'),
      );
      for (const user of to) books.push({ user, number });
    }
    const lmtp = await world.send('lmtp', world.usersOf('mail1'));
    assert.deepEqual(new Set(kinds(lmtp.receipts)), new Set(['451']));
    assert.equal(await world.queued(), 10);
    await world.homing.kill9();
    await Promise.all(nodeNames.map(name => world.node(name).restart()));
    await world.homing.restart();
    await world.waitForEmptyQueue();
    for (const { user, number } of books)
      assert.equal(await world.count(user, number), 1, `${number} of ${user}`);
    for (const { user, number } of books.slice(0, 3))
      assert.ok((await world.savedBy(number, 3)).includes(world.homeOf(user)));
    const [first] = books;
    const text = (await world.stored(first?.user ?? '', first?.number ?? '')).replace(/\r\n/g, '\n');
    assert.match(text, /^Return-Path: <waits@example.net>$/m);
    assert.match(text, new RegExp(`^Delivered-To: ${first?.user}$`, 'm'));
    assert.equal(text.match(/^Received: from drill.invalid/gm)?.length, 1, 'ours, once');
  });
});

describe('a node that takes connections and says nothing', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({
      name: 'mail-frozen',
      over: {
        health: { interval: '100ms', timeout: '500ms', greetingTimeout: '3s', rise: 2, fall: 2 },
        failover: { spread: '200ms', settle: '2s' },
      },
    });
    await greetAll(world);
  });
  after(() => world?.end());

  test('a message under way ends in doubt within its bounds, others never wait, new mail goes directly, and it comes home', async () => {
    const frozen: LabNode = 'mail1';
    const [user = '', second = ''] = world.usersOf(frozen);
    const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports.lmtp ?? 0 });
    await greet(talk, 'lmtp');
    const doubtful = nextNumber();
    await talk.ask('MAIL FROM:<frozen@example.net>');
    assert.equal((await talk.ask(`RCPT TO:<${user}>`)).code, 250);
    assert.equal((await talk.ask('DATA')).code, 354);
    world.node(frozen).freeze();
    const startedAtMs = performance.now();
    talk.write(`${numberedMessage({ number: doubtful, to: user })}.\r\n`);
    const answer = within(talk.reply(), 20_000, 'the frozen message');
    const others = [...world.usersOf('mail2'), ...world.usersOf('mail3')];
    for (const kind of ['lmtp', 'smtp', 'lmtp', 'smtp'] as const) {
      const beganAtMs = performance.now();
      const { receipts } = await world.send(kind, others);
      assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
      assert.ok(performance.now() - beganAtMs < 1500, 'users of other nodes notice nothing');
    }
    const reply = await answer;
    const tookMs = performance.now() - startedAtMs;
    talk.close();
    assert.ok(reply.code === 451 || reply.code === 250, `${reply.code} ${reply.text}`);
    assert.ok(tookMs < 12_000, `${tookMs}`);
    await world.waitForHealth(frozen, 'down');
    for (const kind of ['lmtp', 'smtp'] as const) {
      const from = `thaw-${kind}@example.net`;
      const { number, receipts } = await world.send(kind, [user, second], { from });
      assert.deepEqual(kinds(receipts), ['acknowledged', 'acknowledged']);
      for (const each of [user, second]) assert.equal(await world.count(each, number), 1);
      for (const line of await world.deliveries(from, 2)) assert.equal(line.courier, 'direct');
    }
    world.node(frozen).thaw();
    await world.waitForHealth(frozen, 'up');
    const [line] = await world.deliveries('frozen@example.net', 1);
    await waitFor(async () => (await world.send('lmtp', second)).receipts[0]?.kind === 'acknowledged', {
      what: 'mail home',
    });
    const there = await world.count(user, doubtful);
    if (reply.code === 250) assert.equal(there, 1);
    else assert.ok(there <= (line?.outcome === 'in-doubt' ? 1 : 0), `${there}: ${JSON.stringify(line)}`);
  });
});

describe('a spool on a file system that fails', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({ name: 'mail-spool', mounts: { spool: '32m' } });
    await greetAll(world);
  });
  after(() => world?.end());

  for (const trouble of ['read-only', 'full'] as const) {
    test(`${trouble}: 451 for LMTP, the queue for SMTP, never 5xx; then it arrives once`, async () => {
      const mount = world.mountOf('spool');
      const [user = '', second = ''] = world.usersOf('mail1');
      await world.node('mail1').kill();
      await world.waitForHealth('mail1', 'down');
      if (trouble === 'full') mount.fill();
      else mount.readOnly(true);
      const lmtp = await world.send('lmtp', [user, second], {
        from: `${trouble}@example.net`,
        bodyBytes: 20_000,
      });
      const smtp = await world.send('smtp', [user, second], {
        from: `${trouble}@example.net`,
        bodyBytes: 20_000,
      });
      mount.free();
      mount.readOnly(false);
      if (trouble === 'full') mount.free();
      assert.deepEqual(kinds(lmtp.receipts), ['451', '451']);
      assert.deepEqual(kinds(smtp.receipts), ['acknowledged', 'acknowledged']);
      await world.waitForEmptyQueue();
      for (const each of [user, second]) {
        assert.equal(await world.count(each, smtp.number), 1);
        assert.equal(await world.count(each, lmtp.number), 0);
        const left = readdirSync(join(maildirOf(world.spoolDir, each), 'tmp'));
        assert.deepEqual(left, [], 'nothing half-written stays');
      }
      await world.node('mail1').restart();
      await world.waitForHealth('mail1', 'up');
    });
  }

  test("full under a living node: the node's own 4xx reaches the LMTP client, and an SMTP client keeps its message or it is queued", async () => {
    const mount = world.mountOf('spool');
    const [user = ''] = world.usersOf('mail2');
    mount.fill();
    const lmtp = await world.send('lmtp', user, { bodyBytes: 20_000 });
    const smtp = await world.send('smtp', user, { bodyBytes: 20_000 });
    mount.free();
    const [code] = kinds(lmtp.receipts);
    assert.match(code ?? '', /^4\d\d$/);
    const [answer = ''] = kinds(smtp.receipts);
    assert.match(answer, /^(4\d\d|acknowledged)$/);
    await world.waitForEmptyQueue();
    assert.equal(await world.count(user, lmtp.number), 0);
    assert.equal(await world.count(user, smtp.number), answer === 'acknowledged' ? 1 : 0);
  });
});

describe('a queue or bodies folder that fails', () => {
  let world: MailWorld;
  before(async () => {
    world = await startMailWorld({
      name: 'mail-folders',
      mounts: { messages: '4m', bodies: '4m' },
      over: { delivery: { whenHomeDown: { smtp: ['queue'], lmtp: ['queue'] } } },
    });
    await greetAll(world);
  });
  after(() => world?.end());

  for (const trouble of ['read-only', 'full'] as const) {
    test(`queue ${trouble}: 451 for who would be queued, others unaffected; then queued and delivered once`, async () => {
      const mount = world.mountOf('messages');
      const [user = ''] = world.usersOf('mail1');
      const [other = ''] = world.usersOf('mail2');
      await world.node('mail1').kill();
      await world.waitForHealth('mail1', 'down');
      if (trouble === 'full') mount.fill();
      else mount.readOnly(true);
      for (const kind of ['lmtp', 'smtp'] as const) {
        const refused = await world.send(kind, user, { bodyBytes: 20_000 });
        assert.deepEqual(kinds(refused.receipts), ['451'], `${kind} to the dead node's user`);
        assert.equal(await world.queued(), 0);
        const fine = await world.send(kind, other);
        assert.deepEqual(kinds(fine.receipts), ['acknowledged']);
        assert.equal(await world.count(other, fine.number), 1);
      }
      mount.readOnly(false);
      mount.free();
      const kept = await world.send('smtp', user, { bodyBytes: 20_000 });
      assert.deepEqual(kinds(kept.receipts), ['acknowledged']);
      await world.node('mail1').restart();
      await world.waitForHealth('mail1', 'up');
      await world.waitForEmptyQueue();
      assert.equal(await world.count(user, kept.number), 1);
      assert.deepEqual(
        readdirSync(mount.path).filter(name => name.endsWith('.tmp')),
        [],
      );
    });

    test(`bodies ${trouble}: a message that needs the disk is 451, a small one passes, and so does the next large one`, async () => {
      const mount = world.mountOf('bodies');
      const to = nodeNames.map(name => world.usersOf(name)[1] ?? '');
      if (trouble === 'full') mount.fill();
      else mount.readOnly(true);
      for (const kind of ['lmtp', 'smtp'] as const) {
        const large = await world.send(kind, to, { bodyBytes: 2_000_000 });
        assert.deepEqual(
          kinds(large.receipts),
          to.map(() => '451'),
        );
        const small = await world.send(kind, to);
        assert.deepEqual(
          kinds(small.receipts),
          to.map(() => 'acknowledged'),
        );
        for (const user of to) {
          assert.equal(await world.count(user, large.number), 0);
          assert.equal(await world.count(user, small.number), 1);
        }
      }
      mount.readOnly(false);
      mount.free();
      const again = await world.send('lmtp', to, { bodyBytes: 2_000_000 });
      assert.deepEqual(
        kinds(again.receipts),
        to.map(() => 'acknowledged'),
      );
      assert.ok(existsSync(mount.path));
      assert.deepEqual(readdirSync(mount.path), [], 'no body stays behind');
    });
  }
});
