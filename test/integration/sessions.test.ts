/**
 * Sessions through the whole of Homing to real Dovecot nodes, as users and operators meet them: always at home, honest about outages,
 * whole in every byte, and not stopped by somebody else's trouble. What a node saw is read from that node's own log.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { ImapFlow } from 'imapflow';
import { password } from '../lab/dovecot-node.ts';
import { waitFor } from '../lab/wait.ts';
import { Operated } from './operated.ts';
import { isLong, openRaw, Raw, residentBytes } from './operating.ts';

const run = promisify(execFile);

let world: Operated;
let homes: Map<string, string>;

before(async () => {
  world = await Operated.start({
    ...{ name: 'sessions', from: 60, users: 60 },
    over: {
      ...{ log: { level: 'trace' }, state: { lease: '4s' } },
      failover: { spread: '300ms', hold: '7s', settle: '1s' },
    },
  });
  homes = await world.homes();
});

after(() => world?.end());

/** The n-th user at home on that node. Each test has users of its own, so that none finds another's pins. */
const taken = new Set<string>();
function userOf(node: string): string {
  const found = [...homes].find(([user, home]) => home === node && !taken.has(user));
  assert.ok(found, `no user of ${node} is left`);
  taken.add(found[0]);
  return found[0];
}

function flow(user: string, how: 'plain' | 'starttls' | 'tls'): ImapFlow {
  const client = new ImapFlow({
    ...{ host: '127.0.0.1', port: world.at(how === 'tls' ? 'imaps' : 'imap').port, secure: how === 'tls' },
    ...{ doSTARTTLS: how === 'starttls', logger: false, tls: { rejectUnauthorized: false } },
    ...{ auth: { user, pass: password }, disableAutoIdle: true },
  });
  client.on('error', () => undefined);
  return client;
}

async function allUp(): Promise<void> {
  for (const { name } of world.nodes)
    await world.isNode(name, row => row.health === 'up', 'to be up', 15_000);
}

describe('a session goes home', () => {
  test('60 users, at once, each is let in by the home node that `homing map` names, and by no other', async () => {
    const sessions = await Promise.all(world.users.map(user => openRaw(world.at(), user)));
    assert.equal(new Set(homes.values()).size, 3);
    for (const user of world.users) {
      const at = world.nodes.map(({ name }) => (world.loginsAt(name, user) > 0 ? name : '')).filter(Boolean);
      assert.deepEqual(at, [homes.get(user)], user);
    }
    for (const raw of sessions) raw.leave();
  });

  test('imapflow over plain, STARTTLS and TLS: writes, reads back, idles', async () => {
    for (const how of ['plain', 'starttls', 'tls'] as const) {
      const client = flow(userOf('mail1'), how);
      await client.connect();
      const lock = await client.getMailboxLock('INBOX');
      const text = `Subject: by flow\r\n\r\n${'0123456789\r\n'.repeat(2000)}`;
      const appended = await client.append('INBOX', text);
      assert.ok(appended !== false && appended.uid !== undefined);
      const message = await client.fetchOne(String(appended.uid), { source: true }, { uid: true });
      assert.ok(message && message.source?.toString() === text);
      const idling = client.idle();
      await client.noop();
      await idling;
      lock.release();
      await client.logout();
    }
  });

  test("Python's imaplib over all three listeners, a wrong password and then the right one", async () => {
    const ports = [world.at('imap').port, world.at('imaps').port].map(String);
    const script = join(import.meta.dirname, 'imaplib-client.py');
    const { stdout } = await run('python3', [script, '127.0.0.1', ...ports, userOf('mail2'), password]);
    const seen = JSON.parse(stdout);
    assert.deepEqual([seen.starttls, seen.tls, seen.second], ['OK', 'OK', 'OK']);
    assert.match(seen.refused, /AUTHENTICATIONFAILED/);
  });

  test("a wrong password is answered in the node's own words, and counts for nothing else", async () => {
    const user = userOf('mail3');
    const straight = new Raw({ port: world.node('mail3').ports.imap, address: world.node('mail3').address });
    const own = await straight.logIn(user, 'wrong');
    const through = new Raw(world.at());
    const told = await through.logIn(user, 'wrong');
    assert.match(told, /^in NO \[AUTHENTICATIONFAILED\]/);
    assert.equal(told, own);
    through.text = '';
    assert.match(await through.logIn(user), /^in OK/);
    assert.equal((await world.nodeRow('mail3')).health, 'up');
    for (const raw of [straight, through]) raw.leave();
  });

  test('what is pipelined after LOGIN reaches the node after its OK; after a NO it is ours to answer', async () => {
    const user = userOf('mail1');
    const good = new Raw(world.at());
    good.write(`a LOGIN ${user} ${password}\r\nb SELECT INBOX\r\nc STATUS INBOX (MESSAGES)\r\nd LOGOUT\r\n`);
    await good.hears(/^a OK[\s\S]*^b OK[\s\S]*^c OK[\s\S]*^d OK/m);
    await good.isClosed();
    const bad = new Raw(world.at());
    bad.write(`a LOGIN ${user} wrong\r\nb LOGIN ${user} ${password}\r\nc NOOP\r\n`);
    await bad.hears(/^a NO \[AUTHENTICATIONFAILED\][\s\S]*^b OK[\s\S]*^c OK/m);
    bad.leave();
  });
});

describe('a session is whole', () => {
  const mebibytes = isLong ? 200 : 50;

  test(`${mebibytes} MB go to the node and come back, byte for byte`, async () => {
    const user = userOf('mail2');
    const line = `${'x'.repeat(62)}\r\n`;
    const blocks = (mebibytes * 1024 * 1024) / 65_536;
    const block = Buffer.alloc(65_536, line);
    const head = Buffer.from('Subject: large\r\n\r\n');
    const size = head.length + blocks * block.length;
    const hash = createHash('sha256').update(head);
    const raw = await openRaw(world.at(), user);
    raw.write(`a APPEND INBOX {${size}}\r\n`);
    await raw.hears(/^\+ /m);
    raw.socket.write(head);
    for (let index = 0; index < blocks; index += 1) {
      // Each block differs, so that a lost or doubled one is seen.
      const own = Buffer.from(block);
      own.writeUInt32BE(index, 0);
      for (let at = 0; at < 4; at += 1) own[at] = 97 + ((own[at] ?? 0) % 26);
      hash.update(own);
      if (!raw.socket.write(own)) await new Promise(resolve => raw.socket.once('drain', resolve));
    }
    raw.write('\r\n');
    await raw.hears(/^a OK/m, 60_000);
    const sent = hash.digest('hex');

    const back = new Fetching(world.at());
    await back.logIn(user);
    assert.equal(await back.fetch(size), sent);
    back.leave();
    raw.leave();
  });

  test('readers that do not read: the memory of the serving process stays bounded, and nobody else waits', async () => {
    const user = [...taken].find(one => homes.get(one) === 'mail2') ?? '';
    const large = await openRaw(world.at(), user);
    large.write('a SELECT INBOX\r\n');
    await large.hears(/^a OK/m);
    const pid = world.pidOf('serving');
    const atRestBytes = residentBytes(pid);
    const slow = await Promise.all(Array.from({ length: 10 }, () => openRaw(world.at(), user)));
    for (const raw of slow) {
      raw.write('a EXAMINE INBOX\r\n');
      await raw.hears(/^a OK/m);
      raw.socket.pause();
      raw.write('b FETCH 1:* BODY.PEEK[]\r\n');
    }
    let mostBytes = 0;
    const other = await openRaw(world.at(), userOf('mail1'));
    for (let round = 0; round < 30; round += 1) {
      assert.ok(await other.answers(2000));
      mostBytes = Math.max(mostBytes, residentBytes(pid));
    }
    assert.ok(mostBytes - atRestBytes < 64 * 1024 * 1024, `grown by ${(mostBytes - atRestBytes) >> 20} MB`);
    for (const raw of [...slow, large, other]) raw.leave();
  });
});

/** Hashes one literal as it comes. */
class Fetching extends Raw {
  #hash = createHash('sha256');
  #left = -1;
  #start = '';

  override async logIn(user: string): Promise<string> {
    const answer = await super.logIn(user);
    this.write('s SELECT INBOX\r\n');
    await this.hears(/^s OK/m);
    return answer;
  }

  async fetch(size: number): Promise<string> {
    this.isKeeping = false;
    const done = new Promise<void>(resolve => {
      this.socket.on('data', (chunk: Buffer) => {
        let bytes = chunk;
        if (this.#left < 0) {
          this.#start += bytes.toString('latin1');
          const at = this.#start.indexOf(`{${size}}\r\n`);
          if (at < 0) return;
          bytes = Buffer.from(this.#start.slice(at + `{${size}}\r\n`.length), 'latin1');
          this.#left = size;
        }
        const own = bytes.subarray(0, this.#left);
        this.#hash.update(own);
        this.#left -= own.length;
        if (this.#left === 0) resolve();
      });
    });
    this.write('f FETCH * BODY.PEEK[]\r\n');
    await Promise.race([
      done,
      waitFor(() => this.ended, { what: 'the end', limitMs: 60_000 }).then(() =>
        assert.fail(`ended with ${this.#left} bytes to come`),
      ),
    ]);
    return this.#hash.digest('hex');
  }
}

describe('a node in trouble', () => {
  test('killed: its sessions are closed, its users log in on the next node, nobody else notices', async () => {
    const gone = [userOf('mail2'), userOf('mail2')];
    const stays = userOf('mail1');
    const [first, second, other] = await Promise.all([...gone, stays].map(user => openRaw(world.at(), user)));
    const before = world.nodes.map(({ name }) => world.loginsAt(name, gone[0] ?? ''));
    await world.node('mail2').kill();
    const killedAtMs = performance.now();
    const login = new Raw(world.at());
    assert.match(await login.logIn(gone[0] ?? ''), /^in OK/);
    const tookMs = performance.now() - killedAtMs;
    assert.ok(tookMs < 4000, `the next login took ${tookMs} ms`);
    for (const raw of [first, second]) await raw?.isClosed(3000);
    const place = await world.placeOf(gone[0] ?? '');
    assert.equal(place.kind, 'failover');
    const logins = world.nodes.map(
      ({ name }, index) => world.loginsAt(name, gone[0] ?? '') - (before[index] ?? 0),
    );
    assert.deepEqual(
      logins,
      world.nodes.map(({ name }) => (name === place.node ? 1 : 0)),
    );
    assert.ok(await other?.answers());
    assert.equal((await world.nodeRow('mail2')).health, 'down');
    login.leave();
    other?.leave();
    await world.node('mail2').restart();
    await allUp();
  });

  test('back again: who is active stays, who is idle goes home by itself', async () => {
    const active = userOf('mail2');
    const idle = userOf('mail2');
    await world.node('mail2').kill();
    const session = await openRaw(world.at(), active);
    (await openRaw(world.at(), idle)).leave();
    const away = (await world.placeOf(active)).node;
    assert.notEqual(away, 'mail2');
    await world.node('mail2').restart();
    await allUp();
    await world.isPlacedOn(idle, 'mail2', 15_000);
    assert.ok(await session.answers(), world.homing.logText());
    assert.deepEqual([(await world.placeOf(active)).kind, (await world.placeOf(active)).node], ['pin', away]);
    const before = world.loginsAt('mail2', active);
    const beside = await openRaw(world.at(), active);
    assert.equal(
      world.loginsAt('mail2', active),
      before,
      'a second session of an active user joins the first',
    );
    for (const raw of [session, beside]) raw.leave();
    await world.isPlacedOn(active, 'mail2', 20_000);
    (await openRaw(world.at(), active)).leave();
    assert.equal(world.loginsAt('mail2', active), before + 1);
  });

  test('frozen: its users are told UNAVAILABLE in bounded time, others log in as ever', async () => {
    const stuck = userOf('mail3');
    const fine = userOf('mail1');
    world.node('mail3').freeze();
    try {
      const startedAtMs = performance.now();
      const raw = new Raw(world.at());
      const told = raw.logIn(stuck, password, 45_000);
      for (let round = 0; round < 5; round += 1) {
        const before = performance.now();
        (await openRaw(world.at(), fine)).leave();
        assert.ok(performance.now() - before < 2000);
      }
      assert.match(await told, /^in NO \[UNAVAILABLE\]/);
      assert.ok(performance.now() - startedAtMs < 40_000);
      raw.leave();
    } finally {
      world.node('mail3').thaw();
    }
    await allUp();
    (await openRaw(world.at(), stuck)).leave();
  });

  test('all of them down: UNAVAILABLE, never a wrong password; and they come back by themselves', async () => {
    await Promise.all(world.nodes.map(node => node.kill()));
    const answers = await Promise.all(
      [userOf('mail1'), userOf('mail2'), userOf('mail3')].map(async user => {
        const raw = new Raw(world.at());
        const answer = await raw.logIn(user, password, 30_000);
        raw.write('z LOGOUT\r\n');
        await raw.hears(/^z OK/m);
        raw.leave();
        return answer;
      }),
    );
    for (const answer of answers) assert.match(answer, /^in NO \[UNAVAILABLE\]/);
    await Promise.all(world.nodes.map(node => node.restart()));
    await allUp();
    await Promise.all(world.users.slice(0, 6).map(async user => (await openRaw(world.at(), user)).leave()));
  });
});

test('no password is in the log, at trace, after all of this', () => {
  const forms = [`"${password}"`, ` ${password}\\r`, `\\u0000${password}`, `:${password}`, ' wrong'];
  for (const user of world.users) forms.push(Buffer.from(`\0${user}\0${password}`).toString('base64'));
  const lines = world.homing.logLines().map(line => JSON.stringify(line));
  assert.ok(lines.length > 100);
  for (const line of lines) for (const form of forms) assert.ok(!line.includes(form), line);
});
