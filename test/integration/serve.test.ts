/**
 * `homing serve` that cannot serve: each reason is named, the exit code tells wrong settings (78) from trouble on the machine (1), it
 * ends by itself, and no process, port or folder of it is left. Nothing here needs a node.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type SettingsTree, startHoming } from '../lab/homing.ts';
import { freePorts, isFree } from '../lab/ports.ts';
import { reachableLauncher } from '../lab/reachable.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { makeCertificate } from '../unit/net/certificate.ts';
import { homingCommand, isRoot, refusedStart } from './operating.ts';

let folder: TempFolder;
let ports: number[];
let runs = 0;
let strangersLauncher = '';
/** Not root, even where the tests are. */
const stranger = isRoot ? ['setpriv', '--reuid=nobody', '--regid=nogroup', '--clear-groups'] : [];

before(async () => {
  folder = await openTempFolder('serve');
  ports = await freePorts(6);
  strangersLauncher = await reachableLauncher(stranger, folder.path);
});

after(() => folder?.remove());

const at = (index: number) => `127.0.0.1:${ports[index]}`;

/** Right settings, with a folder of their own, and what the test has wrong about them. */
function settings(over: SettingsTree = {}): { runDir: string; tree: SettingsTree } {
  runs += 1;
  const runDir = join(folder.path, `run${runs}`);
  const tree: SettingsTree = {
    cluster: 'lab',
    nodes: [{ name: 'mail1', address: '127.0.0.99', ports: { imap: 143, lmtp: 24 } }],
    listen: { imap: [at(0)], imaps: [], lmtp: [at(1)], smtp: [at(2)], admin: [at(3)] },
    users: { defaultDomain: 'example.org', domains: ['example.org'] },
    queue: { path: join(runDir, 'var/queue') },
    state: { path: join(runDir, 'var/state') },
    ...over,
  };
  return { runDir, tree };
}

function listenOn(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const listener = createServer();
    listener.once('error', reject);
    listener.listen(port, '127.0.0.1', () => resolve(listener));
  });
}

const close = (listener: Server) => new Promise<void>(resolve => listener.close(() => resolve()));

async function nothingIsLeft(runDir: string): Promise<void> {
  for (const port of ports.slice(0, 4)) assert.ok(await isFree(port), `port ${port} is still taken`);
  assert.ok(!existsSync(join(runDir, 'var')), 'a folder was made for settings that are wrong');
}

describe('wrong settings end the start with 78, before anything is begun', () => {
  test('each mistake is told at once, with file, line, column, key, and what would be right', async () => {
    const { runDir } = settings();
    const text = [
      'cluster: lab',
      'nodes:',
      '  - { name: mail1, address: 127.0.0.99, wieght: 5 }',
      `listen: { imap: ["${at(0)}"], admin: ["${at(3)}"] }`,
      'users: { defaultDomain: example.org }',
      'health: { interval: 100 }',
      'failover: { failback: never }',
      `state: { path: ${join(runDir, 'var/state')} }`,
      `queue: { path: ${join(runDir, 'var/queue')} }`,
    ].join('\n');
    const { code, out, err } = await refusedStart(runDir, text);
    assert.equal(code, 78);
    assert.equal(out, '');
    assert.match(err, /^homing: .*homing\.yaml:3:\d+: nodes\[0\]\.wieght: .*weight/m);
    assert.match(err, /^homing: .*homing\.yaml:6:\d+: health\.interval: .*100.*(s|ms)/m);
    assert.match(err, /^homing: .*homing\.yaml:7:\d+: failover\.failback: .*never.*idle/m);
    assert.ok(!err.includes('    at '), `no stack: ${err}`);
    await nothingIsLeft(runDir);
  });

  test('settings that are not there, are a folder, or are no YAML are named', async () => {
    const { runDir } = settings();
    const bad = await refusedStart(runDir, 'nodes: [\n  {');
    assert.equal(bad.code, 78);
    assert.match(bad.err, /homing\.yaml:2:\d+/);
    for (const path of [join(runDir, 'none.yaml'), runDir]) {
      const { code, err } = await homingCommand(['serve', '--config', path]);
      assert.equal(code, 78);
      assert.ok(err.includes(path) && !err.includes('    at '), err);
    }
  });

  test('missing certificate and map file, an unknown account: all of them named in one go', async () => {
    const { runDir, tree } = settings({
      tls: { cert: '/nonexistent/cert.pem', key: '/nonexistent/key.pem' },
      maps: ['/nonexistent/users.map'],
      spool: { path: '/srv/{user}/Maildir', mark: '/srv/.homing', user: 'no-such-account' },
      runAs: 'nor-this-one',
    });
    const { code, err } = await refusedStart(runDir, tree);
    assert.equal(code, 78);
    assert.match(err, /tls: .*\/nonexistent\/cert\.pem/);
    assert.match(err, /\/nonexistent\/users\.map/);
    assert.match(err, /spool\.user: .*no-such-account/);
    if (isRoot) assert.match(err, /runAs: .*nor-this-one/);
    await nothingIsLeft(runDir);
  });

  test('a key that does not fit its certificate is named, and so is one that is no key', async () => {
    const one = await makeCertificate(folder.path, 'one', 'mail.example.org');
    const other = await makeCertificate(folder.path, 'other', 'mail.example.org');
    const garbage = join(folder.path, 'garbage.pem');
    await writeFile(garbage, 'not a key');
    for (const key of [other.key, garbage]) {
      const { runDir, tree } = settings({ tls: { cert: one.cert, key } });
      const { code, err } = await refusedStart(runDir, tree);
      assert.equal(code, 78);
      assert.ok(err.includes(one.cert) && err.includes(key), err);
      await nothingIsLeft(runDir);
    }
  });

  test('a mistake in a map file is told with its line; a node that is none too', async () => {
    const { runDir, tree } = settings({ maps: [join(folder.path, 'users.map')] });
    await writeFile(
      join(folder.path, 'users.map'),
      'joe@example.org -> mail1\n/(/ -> mail1\nann@example.org -> mail7\n',
    );
    const first = await refusedStart(runDir, tree);
    assert.equal(first.code, 78);
    assert.match(first.err, /users\.map:2: /);
    await writeFile(join(folder.path, 'users.map'), 'joe@example.org -> mail1\n\nann@example.org -> mail7\n');
    const second = await refusedStart(runDir, tree);
    assert.equal(second.code, 78);
    assert.match(second.err, /users\.map:3: .*mail7/);
    await nothingIsLeft(runDir);
  });

  test('a map file and a key that may not be read are named', async () => {
    const { cert, key } = await makeCertificate(folder.path, 'closed', 'mail.example.org');
    const map = join(folder.path, 'closed.map');
    await writeFile(map, 'joe@example.org -> mail1\n');
    const { runDir, tree } = settings({ maps: [map], tls: { cert, key } });
    await mkdir(runDir, { recursive: true });
    for (const path of [map, key]) await chmod(path, 0o000);
    if (isRoot) await chmod(runDir, 0o777);
    const { code, err } = await refusedStart(runDir, tree, stranger, strangersLauncher);
    assert.equal(code, 78);
    assert.ok(err.includes(map) && err.includes(key), err);
    await nothingIsLeft(runDir);
  });
});

describe('trouble on the machine ends the start with 1, and leaves no process behind', () => {
  test('ports in use: each is named with its listener, whichever it is', async () => {
    const { runDir, tree } = settings();
    const taken = [await listenOn(ports[0] ?? 0), await listenOn(ports[2] ?? 0)];
    const { code, err } = await refusedStart(runDir, tree);
    assert.equal(code, 1);
    assert.ok(err.includes(`listen.imap ${at(0)}`) && err.includes(`listen.smtp ${at(2)}`), err);
    assert.match(err, /in use/);
    await Promise.all(taken.map(close));
    const admin = await listenOn(ports[3] ?? 0);
    const second = await refusedStart(runDir, tree);
    assert.equal(second.code, 1);
    assert.ok(second.err.includes(`listen.admin ${at(3)}`), second.err);
    assert.match(second.err, /in use/);
    await close(admin);
    for (const port of ports.slice(0, 4)) assert.ok(await isFree(port), `port ${port} is still taken`);
  });

  test('an address that this machine does not have is named', async () => {
    const { runDir, tree } = settings({ listen: { imap: ['203.0.113.7:1143'], admin: [at(3)] } });
    const { code, err } = await refusedStart(runDir, tree);
    assert.equal(code, 1);
    assert.match(err, /listen\.imap 203\.0\.113\.7:1143: .*no such address/);
  });

  test('a low port without the right to it: what to do is said', async () => {
    const firstFree = Number(
      (await readFile('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8')).trim(),
    );
    // Where everybody may bind every port, nobody can be refused: then nobody is.
    const { runDir, tree } = settings({ listen: { imap: ['127.0.0.1:143'], admin: ['127.0.0.1:144'] } });
    await mkdir(runDir, { recursive: true });
    await chmod(runDir, 0o777);
    if (firstFree <= 143) return;
    const { code, err } = await refusedStart(runDir, tree, stranger, strangersLauncher);
    assert.equal(code, 1);
    assert.match(err, /listen\.imap 127\.0\.0\.1:143: .*root.*CAP_NET_BIND_SERVICE/);
  });

  test('a state, queue or log that cannot be written is named', async () => {
    const blocked = join(folder.path, 'a-file');
    await writeFile(blocked, '');
    const inFile = join(blocked, 'inside');
    for (const over of [
      { state: { path: inFile } },
      { queue: { path: inFile } },
      { log: { file: inFile } },
    ]) {
      const { runDir, tree } = settings(over);
      const { code, err } = await refusedStart(runDir, tree);
      assert.equal(code, 1, err);
      assert.ok(err.includes(blocked), err);
      assert.match(err, new RegExp(`^homing: .*${Object.keys(over)[0]}`, 'm'));
      assert.ok(!err.includes('    at '), `no stack: ${err}`);
    }
  });

  test('folders that belong to somebody else are named, to who may not write there', async () => {
    for (const key of ['state', 'queue']) {
      const { runDir, tree } = settings();
      await mkdir(runDir, { recursive: true });
      await chmod(runDir, 0o777);
      const closed = join(runDir, 'closed');
      await mkdir(closed, { mode: 0o700 });
      if (!isRoot) await chmod(closed, 0o500);
      const { code, err } = await refusedStart(
        runDir,
        { ...tree, [key]: { path: closed } },
        stranger,
        strangersLauncher,
      );
      assert.equal(code, 1, err);
      assert.ok(err.includes(closed), err);
      assert.ok(!err.includes('    at '), `no stack: ${err}`);
    }
  });

  test('a journal that is garbage ends the start and is named: nobody is placed by a guess', async () => {
    const { runDir, tree } = settings();
    await mkdir(join(runDir, 'var/state'), { recursive: true });
    await writeFile(join(runDir, 'var/state/journal'), 'this is no journal\n'.repeat(50));
    const { code, err } = await refusedStart(runDir, tree);
    assert.equal(code, 1, err);
    assert.match(err, /journal/);
    assert.ok(!err.includes('    at '), `no stack: ${err}`);
  });

  test('a second Homing on the same state folder is refused, and the first goes on', async () => {
    const { runDir, tree } = settings();
    // Ready needs a node that is up; this one has none, so it is watched by its liveness alone.
    const node = await listenOn(ports[5] ?? 0);
    node.on('connection', socket => {
      socket.on('error', () => {});
      socket.write('* OK ready\r\n');
    });
    const first = await startHoming({
      runDir,
      settings: {
        ...tree,
        nodes: [{ name: 'mail1', address: '127.0.0.1', ports: { imap: ports[5] } }],
        listen: { imap: [at(0)], admin: [at(3)] },
        health: { interval: '100ms', rise: 1 },
      },
    });
    try {
      const second = settings({ state: { path: join(runDir, 'var/state') }, listen: { admin: [at(4)] } });
      const { code, err } = await refusedStart(second.runDir, second.tree);
      assert.equal(code, 1);
      assert.match(err, /another Homing/);
      assert.ok(err.includes(join(runDir, 'var/state')), err);
      assert.equal((await first.admin('/readyz')).status, 200);
    } finally {
      assert.equal(await first.stop(), 0, first.logText());
      node.close();
    }
  });
});
