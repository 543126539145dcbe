/**
 * A day of an operator: nodes drained, put in maintenance and weighted by `homing node …`, settings, maps, certificates and logs
 * changed under a running Homing, restarts polite and rude. Each with what users notice of it.
 */
import assert from 'node:assert/strict';
import { copyFile, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { password } from '../lab/dovecot-node.ts';
import { maildirFiles } from '../lab/imap-count.ts';
import { greet, numberedMessage, openMailTalk } from '../lab/mail.ts';
import { isFree } from '../lab/ports.ts';
import { sessionGone } from '../lab/processes.ts';
import { pause, waitFor } from '../lab/wait.ts';
import { makeCertificate } from '../unit/net/certificate.ts';
import { Operated } from './operated.ts';
import { homingCommand, openRaw } from './operating.ts';

let world: Operated;
let homes: Map<string, string>;
let map: string;
let logFile: string;

before(async () => {
  world = await Operated.start({
    ...{ name: 'operate', from: 70, users: 60 },
    over: {
      ...{ state: { lease: '4s' }, shutdown: { limit: '2s' } },
      failover: { spread: '300ms', hold: '7s', settle: '1s' },
    },
  });
  homes = await world.homes();
  map = join(world.folder.path, 'users.map');
  logFile = join(world.folder.path, 'log', 'homing.log');
});

after(() => world?.end());

const taken = new Set<string>();
function userOf(node: string): string {
  const found = [...homes].find(([user, home]) => home === node && !taken.has(user));
  assert.ok(found, `no user of ${node} is left`);
  taken.add(found[0]);
  return found[0];
}

async function allReady(): Promise<void> {
  for (const { name } of world.nodes) {
    await world.order('node', 'ready', name);
    await world.isNode(
      name,
      row => row.health === 'up' && row.admin === 'ready',
      'to be up and ready',
      15_000,
    );
  }
}

/** Lines of the log after `from`, with this message. */
const logged = (from: number, matches: (line: Readonly<Record<string, unknown>>) => boolean, what: string) =>
  waitFor(() => world.homing.logLines().slice(from).find(matches), {
    what: `the log to say ${what}`,
    tell: () => world.homing.logText(),
  });

describe('orders by `homing node`', () => {
  test('drain: who is active stays, new ones go elsewhere; status, sessions and explain say so', async () => {
    const [active, fresh] = [userOf('mail1'), userOf('mail1')];
    const session = await openRaw(world.at(), active);
    assert.match(await world.order('node', 'drain', 'mail1'), /^mail1 drains since view \d+\n$/);
    const other = await openRaw(world.at(), fresh);
    const place = await world.placeOf(fresh);
    assert.notEqual(place.node, 'mail1');
    assert.equal(world.loginsAt(place.node ?? '', fresh), 1);
    assert.ok(await session.answers());
    const beside = await openRaw(world.at(), active);
    assert.equal(world.loginsAt('mail1', active), 2);

    assert.match(await world.order('status'), /^mail1 .*drain.*$/m);
    const { sessions } = await world.ask<{ sessions: { user: string; node: string }[] }>('sessions');
    assert.deepEqual(
      sessions.filter(row => row.user === active).map(row => row.node),
      ['mail1', 'mail1'],
    );
    assert.deepEqual(
      sessions.filter(row => row.user === fresh).map(row => row.node),
      [place.node],
    );
    assert.match(await world.order('explain', active), /mail1/);
    assert.match(await world.order('explain', fresh), /drain/);
    for (const raw of [session, beside, other]) raw.leave();
    await allReady();
  });

  test('maint: its sessions are closed, and their users are let in elsewhere at once', async () => {
    const user = userOf('mail2');
    const stays = await openRaw(world.at(), userOf('mail1'));
    const session = await openRaw(world.at(), user);
    await world.order('node', 'maint', 'mail2');
    await session.isClosed(4000);
    const again = await openRaw(world.at(), user);
    assert.notEqual((await world.placeOf(user)).node, 'mail2');
    assert.equal(world.loginsAt('mail2', user), 1);
    assert.equal((await world.nodeRow('mail2')).sessions, 0);
    assert.ok(await stays.answers());
    for (const raw of [again, stays]) raw.leave();
    await allReady();
  });

  test('weight 0: nobody new by ranking, the active stay; back at 100, everybody is where they were', async () => {
    const [active, fresh] = [userOf('mail3'), userOf('mail3')];
    const session = await openRaw(world.at(), active);
    await world.order('node', 'weight', 'mail3', '0');
    assert.notEqual((await world.placeOf(fresh)).node, 'mail3');
    assert.ok(await session.answers());
    assert.equal((await world.placeOf(active)).node, 'mail3');
    await world.order('node', 'weight', 'mail3', '100');
    assert.equal((await world.placeOf(fresh)).node, 'mail3');
    session.leave();
  });

  test('an order for a node that is none, or an order that is none, is refused with a word and a code', async () => {
    const order = (...args: string[]) =>
      homingCommand(['node', ...args, '--config', world.homing.configFile]);
    const none = await order('drain', 'mail9');
    assert.equal(none.code, 1);
    assert.match(none.err, /mail9/);
    assert.equal((await order('drian', 'mail1')).code, 64);
    assert.equal((await order('weight', 'mail1', '1001')).code, 64);
  });

  test('`homing map` and the running proxy place 1,000 users alike', async () => {
    const users = Array.from({ length: 1000 }, (_, index) => `someone.${index}@example.org`);
    const mapped = (await world.order('map', '--json', ...users)).split('\n').filter(Boolean);
    const asked: (string | undefined)[] = [];
    for (let index = 0; index < users.length; index += 40)
      asked.push(
        ...(await Promise.all(
          users.slice(index, index + 40).map(async user => (await world.placeOf(user)).node),
        )),
      );
    assert.deepEqual(
      asked,
      mapped.map(line => (JSON.parse(line) as { node: string }).node),
    );
  });
});

describe('the admin API lets in who it should', () => {
  const ask = (options: { method?: string; path: string; headers?: Record<string, string>; body?: string }) =>
    new Promise<number>((resolve, reject) => {
      const { body = '', ...rest } = options;
      const asking = request(
        { host: '127.0.0.1', port: world.homing.ports.admin, agent: false, ...rest },
        answer => {
          answer.resume();
          answer.on('end', () => resolve(answer.statusCode ?? 0));
        },
      );
      asking.on('error', reject);
      asking.end(body);
    });

  test("a page's own name as Host, or a form, is refused, and changes nothing", async () => {
    const order = '{"admin":"maint"}';
    const json = { 'content-type': 'application/json' };
    const path = '/v1/nodes/mail1';
    assert.equal(await ask({ path: '/v1/status', headers: { host: 'evil.example.com' } }), 403);
    assert.equal(await ask({ path: '/v1/status', headers: { host: '127.0.0.1.evil.example.com' } }), 403);
    assert.equal(
      await ask({ method: 'POST', path, body: order, headers: { ...json, host: 'evil.example' } }),
      403,
    );
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'])
      assert.equal(await ask({ method: 'POST', path, body: order, headers: { 'content-type': type } }), 415);
    assert.equal(await ask({ method: 'POST', path, body: order }), 415);
    for (const body of [
      '',
      '{',
      '[]',
      '{"admin":"gone"}',
      '{"weight":-1}',
      '{"weight":1,"admin":"drain"}',
      'x'.repeat(100_000),
    ])
      assert.equal(await ask({ method: 'POST', path, body, headers: json }), 400, body.slice(0, 40));
    assert.equal(await ask({ method: 'POST', path: '/v1/nodes/%2e%2e', body: order, headers: json }), 404);
    for (const method of ['PUT', 'DELETE', 'PATCH'])
      assert.equal(await ask({ method, path, headers: json }), 404);
    assert.equal(await ask({ path: '/v1/explain?user=joe%00' }), 400);
    assert.equal((await world.nodeRow('mail1')).admin, 'ready');
  });

  test('garbage and half requests: it goes on', async () => {
    const port = world.homing.ports.admin ?? 0;
    for (const text of [
      '\x16\x03\x01\x02\x00',
      'GET\r\n\r\n',
      `GET /${'a'.repeat(100_000)} HTTP/1.1\r\n\r\n`,
      'POST /v1/nodes/mail1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{',
    ]) {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      socket.write(text);
      const silent = new Promise(resolve => socket.once('close', resolve));
      socket.resume();
      if (!text.startsWith('POST')) await silent;
      socket.destroy();
    }
    assert.equal((await world.homing.admin('/readyz')).status, 200);
  });
});

describe('settings and files that change', () => {
  test('SIGHUP with good ones: a node more, another weight, log level, a map; sessions live on', async () => {
    const session = await openRaw(world.at(), userOf('mail1'));
    await writeFile(map, '# nothing yet\n');
    const fourth = await world.addNode('mail4', '127.0.0.74');
    const listed = world.settings.nodes as Record<string, unknown>[];
    const { imap, lmtp } = fourth.ports;
    world.settings = {
      ...world.settings,
      nodes: [...listed, { name: 'mail4', address: fourth.address, ports: { imap, lmtp }, weight: 50 }],
      maps: [map],
      log: { level: 'trace', file: '-' },
    };
    const from = world.homing.logLines().length;
    await world.reload(world.settings);
    const line = await logged(from, one => one.msg === 'reloaded', 'reloaded');
    assert.deepEqual([...(line.changed as string[])].sort(), ['log.level', 'maps', 'nodes.mail4']);
    assert.deepEqual(line.needRestart, []);
    await world.isNode('mail4', row => row.health === 'up' && row.weight === 50, 'to be up');
    const moved = (await world.homes()).entries();
    const [user] = [...moved].find(([one, home]) => home === 'mail4' && !taken.has(one)) ?? [];
    assert.ok(user !== undefined);
    (await openRaw(world.at(), user)).leave();
    assert.equal(world.loginsAt('mail4', user), 1);
    assert.ok(await session.answers());
    session.leave();
  });

  test('SIGHUP with wrong ones: the old stay, and the log says file, line, key and remedy', async () => {
    const good = await readFile(world.homing.configFile, 'utf8');
    const from = world.homing.logLines().length;
    await world.reload(`${good}\nwieght: 5\n`);
    const line = await logged(
      from,
      one => String(one.msg).includes('the old settings stay'),
      'that the old stay',
    );
    assert.match(String(line.why), /homing\.yaml:\d+:\d+: wieght/);
    for (const broken of [
      { ...world.settings, maps: ['/nonexistent.map'] },
      { ...world.settings, tls: { ...world.certificate, key: '/nonexistent.key' } },
    ]) {
      const next = world.homing.logLines().length;
      await world.reload(broken);
      const said = await logged(
        next,
        one => String(one.msg).includes('the old settings stay'),
        'that the old stay',
      );
      assert.match(JSON.stringify(said), /nonexistent/);
    }
    (await openRaw(world.at(), userOf('mail1'))).leave();
    await writeFile(world.homing.configFile, good);
  });

  test('a key that only a restart brings in is named, and the rest takes effect', async () => {
    const from = world.homing.logLines().length;
    const changed = {
      ...world.settings,
      cluster: 'lab',
      limits: { recipients: 7 },
      state: { path: '/elsewhere', lease: '4s' },
    };
    await world.reload(changed);
    const line = await logged(from, one => one.msg === 'reloaded', 'reloaded');
    assert.deepEqual(line.needRestart, ['state.path']);
    assert.deepEqual([...(line.changed as string[])].sort(), ['limits.recipients', 'state.path']);
    await world.reload(world.settings);
    await logged(
      from + 1,
      one => one.msg === 'reloaded' && (one.changed as string[]).includes('limits.recipients'),
      'all as before',
    );
  });

  test('SIGHUPs in quick succession: the last file counts, whatever the pace', async () => {
    for (let weight = 1; weight <= 12; weight += 1) {
      const listed = world.settings.nodes as Record<string, unknown>[];
      await world.reload({
        ...world.settings,
        nodes: listed.map(node => (node.name === 'mail4' ? { ...node, weight } : node)),
      });
      await pause(weight % 4);
    }
    await world.isNode('mail4', row => row.weight === 12, 'to have the last weight');
    await world.reload(world.settings);
    await world.isNode('mail4', row => row.weight === 50, 'to be as before');
  });

  test('a changed map file is picked up by itself; a broken one is not, and its line is named', async () => {
    const user = userOf('mail1');
    await writeFile(map, `${user} -> mail3\n`);
    await world.isPlacedOn(user, 'mail3', 15_000);
    (await openRaw(world.at(), user)).leave();
    assert.equal(world.loginsAt('mail3', user), 1);
    assert.match(await world.order('explain', user), /users\.map:1/);
    const from = world.homing.logLines().length;
    await writeFile(map, `# a comment\n${user} -> mail17\n`);
    const line = await logged(
      from,
      one => String(one.msg).includes('the last good map stays'),
      'that the last good map stays',
    );
    assert.match(String(line.file), /users\.map$/);
    assert.equal(line.line, 2);
    assert.equal((await world.placeOf(user)).node, 'mail3');
    await writeFile(map, '# nothing again\n');
    await world.isPlacedOn(user, 'mail1', 15_000);
  });

  test('a renewed certificate is taken at SIGHUP, or by itself; running sessions keep theirs', async () => {
    const subject = () =>
      new Promise<string>((resolve, reject) => {
        const socket = connectTls(
          { port: world.at('imaps').port, host: '127.0.0.1', rejectUnauthorized: false },
          () => {
            resolve(String(socket.getPeerCertificate().subject.CN));
            socket.destroy();
          },
        );
        socket.on('error', reject);
      });
    assert.equal(await subject(), 'mail.example.org');
    const session = await openRaw(world.at('imaps'), userOf('mail2'));
    const renewed = await makeCertificate(world.folder.path, 'renewed', 'renewed.example.org');
    await copyFile(renewed.key, world.certificate.key);
    await copyFile(renewed.cert, world.certificate.cert);
    world.homing.signal('SIGHUP');
    await waitFor(async () => (await subject()) === 'renewed.example.org', {
      what: 'the renewed certificate',
      tell: () => world.homing.logText(),
    });
    assert.ok(await session.answers());
    session.leave();
  });
});

describe('logs', () => {
  test('a log file is rotated by mv and SIGHUP: every process writes the new one, nothing is lost', async () => {
    assert.equal(await world.homing.stop(), 0);
    world.settings = { ...world.settings, log: { level: 'debug', file: logFile } };
    await world.startAgain();
    const [first, second] = [userOf('mail1'), userOf('mail2')];
    (await openRaw(world.at(), first)).leave();
    const hasSession = (file: string, user: string) => async () =>
      (await readFile(file, 'utf8'))
        .split('\n')
        .some(line => line.includes('"msg":"session"') && line.includes(user));
    await waitFor(hasSession(logFile, first), { what: 'the session in the log file' });
    const children = [world.pidOf('serving'), world.pidOf('writer')];
    await rename(logFile, `${logFile}.1`);
    world.homing.signal('SIGHUP');
    await waitFor(() => stat(logFile).then(() => true), { what: 'the new log file' });
    await waitFor(async () => (await readFile(logFile, 'utf8')).includes('"reloaded"'), {
      what: 'the reload in it',
    });
    await waitFor(
      async () => {
        (await openRaw(world.at(), second)).leave();
        return hasSession(logFile, second)();
      },
      { what: 'a session in the new log file', everyMs: 200, tell: () => readFile(logFile, 'utf8') },
    );
    assert.deepEqual([world.pidOf('serving'), world.pidOf('writer')], children, 'nobody died of it');
    for (const file of [logFile, `${logFile}.1`]) {
      const text = await readFile(file, 'utf8');
      for (const line of text.split('\n').filter(Boolean)) assert.doesNotThrow(() => JSON.parse(line), line);
      assert.ok(!text.includes(`"${password}"`) && !text.includes(` ${password}`));
    }
  });

  test('a log that cannot be made anew stops nobody: the old one is written on', async () => {
    const folder = join(world.folder.path, 'log');
    await rename(folder, `${folder}.gone`);
    await writeFile(folder, 'in the way');
    world.homing.signal('SIGHUP');
    const user = userOf('mail1');
    for (let round = 0; round < 3; round += 1) (await openRaw(world.at(), user)).leave();
    assert.equal((await world.homing.admin('/readyz')).status, 200);
    await waitFor(async () => (await readFile(join(`${folder}.gone`, 'homing.log'), 'utf8')).includes(user), {
      what: 'the session in the old file',
    });
  });
});

describe('ends and starts', () => {
  test('states and pins survive a restart, and a kill -9 of everything', async () => {
    world.settings = { ...world.settings, log: { level: 'debug', file: '-' } };
    await world.homing.stop();
    await world.startAgain();
    await allReady();
    await world.order('node', 'drain', 'mail2');
    await world.order('node', 'weight', 'mail3', '0');
    await writeFile(map, `pinned@example.org -> mail1\n`);
    await world.isPlacedOn('pinned@example.org', 'mail1', 15_000);
    const seen = async () =>
      Promise.all(
        ['mail1', 'mail2', 'mail3'].map(async name => {
          const { admin, weight } = await world.nodeRow(name);
          return `${admin} ${weight}`;
        }),
      );
    const wanted = ['ready 100', 'drain 100', 'ready 0'];
    assert.deepEqual(await seen(), wanted);
    assert.equal(await world.homing.stop(), 0);
    await world.startAgain();
    assert.deepEqual(await seen(), wanted);
    await world.homing.kill9();
    await world.startAgain();
    assert.deepEqual(await seen(), wanted);
    assert.equal((await world.placeOf('pinned@example.org')).node, 'mail1');
    await world.order('node', 'weight', 'mail3', '100');
    await allReady();
  });

  test('SIGTERM: no new connection, a delivery under way is finished, sessions end within the limit, exit 0', async () => {
    const user = userOf('mail1');
    const session = await openRaw(world.at(), user);
    const port = world.homing.ports.smtp ?? 0;
    const talk = await openMailTalk({ port, address: '127.0.0.1', replyLimitMs: 10_000 });
    await greet(talk, 'smtp');
    for (const command of ['MAIL FROM:<sender@example.net>', `RCPT TO:<${user}>`, 'DATA'])
      await talk.ask(command);
    const [head = '', ...rest] = numberedMessage({ number: 'drained', to: user }).split('\r\n\r\n');
    talk.write(`${head}\r\n\r\n`);
    const startedAtMs = performance.now();
    world.homing.signal('SIGTERM');
    await waitFor(() => isFree(world.at().port), { what: 'the IMAP port to be given back' });
    assert.ok(await isFree(port));
    talk.write(`${rest.join('\r\n\r\n')}\r\n.\r\n`);
    const reply = await talk.reply();
    assert.equal(reply.code, 250, JSON.stringify(reply));
    await session.isClosed(4000);
    assert.equal(await world.homing.ended, 0);
    assert.ok(performance.now() - startedAtMs < 6000);
    await sessionGone(world.homing.pid, 1000);
    const files = await maildirFiles(world.spoolDir, user);
    assert.equal(files.length, 1);
  });

  test('SIGTERM twice: it ends at once, with sessions and a delivery open, and exit 0', async () => {
    world.settings = { ...world.settings, shutdown: { limit: '60s' } };
    await world.startAgain();
    const user = userOf('mail1');
    const session = await openRaw(world.at(), user);
    const port = world.homing.ports.smtp ?? 0;
    const talk = await openMailTalk({ port, address: '127.0.0.1', replyLimitMs: 10_000 });
    await greet(talk, 'smtp');
    for (const command of ['MAIL FROM:<sender@example.net>', `RCPT TO:<${user}>`, 'DATA'])
      await talk.ask(command);
    world.homing.signal('SIGTERM');
    await waitFor(() => isFree(world.at().port), { what: 'the drain to have begun' });
    const startedAtMs = performance.now();
    world.homing.signal('SIGTERM');
    assert.equal(await world.homing.ended, 0);
    assert.ok(performance.now() - startedAtMs < 3000, `${performance.now() - startedAtMs} ms`);
    await sessionGone(world.homing.pid, 1000);
    await session.isClosed(1000);
    talk.close();
  });

  test('SIGHUP in the middle of a start stops nothing', async () => {
    await world.startAgain({
      onLine: line => {
        const { role, pid, child } = JSON.parse(line) as { role: string; pid: number; child?: string };
        if (role === 'parent' && child === 'writer') process.kill(pid, 'SIGHUP');
      },
    });
    assert.equal(await world.homing.stop(), 0);
  });

  test('SIGINT of a terminal drains as SIGTERM does', async () => {
    world.settings = { ...world.settings, shutdown: { limit: '200ms' } };
    await world.startAgain();
    const session = await openRaw(world.at(), userOf('mail2'));
    world.homing.signal('SIGINT');
    await session.isClosed(3000);
    assert.equal(await world.homing.ended, 0);
    await sessionGone(world.homing.pid, 1000);
  });
});
