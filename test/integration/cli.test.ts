/**
 * The launcher as a user runs it: `sh src/homing.sh …` as a process of its own, with real files, pipes, links and a real certificate.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

const root = join(import.meta.dirname, '../..');
const launcher = join(root, 'src/homing.sh');
const folder = mkdtempSync(join(tmpdir(), 'homing-launcher-'));
const least =
  'nodes:\n  - { name: mail1, address: 10.0.0.1 }\n  - { name: mail2, address: 10.0.0.2 }\nusers: { defaultDomain: example.org }\n';

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const settings = file('h.yaml', least);

function homing(
  args: readonly string[],
  options: { input?: string; env?: Record<string, string>; program?: string } = {},
) {
  const { input = '', env = {}, program = launcher } = options;
  const done = spawnSync(program, [...args], {
    input,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 60_000,
    maxBuffer: 64 * 1024 * 1024,
  });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

describe('the launcher', () => {
  test('works through symlinks, relative ones too, from any folder', () => {
    const bin = join(folder, 'bin');
    mkdirSync(bin);
    symlinkSync(launcher, join(bin, 'absolute'));
    symlinkSync('absolute', join(bin, 'relative'));
    for (const name of ['absolute', 'relative']) {
      const { code, out, err } = homing(['map', '-c', settings, 'joe'], { program: join(bin, name) });
      assert.deepEqual([code, err], [0, '']);
      assert.match(out, /^joe@example\.org\tmail[12]\t/);
    }
  });

  test("takes node_modules' own Node where the machine's is too old or missing, and says nothing of it", () => {
    const old = join(folder, 'old');
    mkdirSync(old);
    writeFileSync(join(old, 'node'), '#!/bin/sh\necho v20.1.0\n', { mode: 0o755 });
    const { code, err } = homing(['map', '-c', settings, 'joe'], { env: { PATH: `${old}:/usr/bin:/bin` } });
    assert.deepEqual([code, err], [0, '']);
  });

  test('a HOMING_NODE that is none is named: 69', () => {
    const { code, err } = homing(['map', '-c', settings, 'joe'], { env: { HOMING_NODE: '/bin/true' } });
    assert.equal(code, 69);
    assert.match(err, /HOMING_NODE=\/bin\/true is not a Node 24 or newer/);
  });

  test('a half installed package is named: 69', () => {
    const half = join(folder, 'half/src');
    mkdirSync(half, { recursive: true });
    execFileSync('cp', [launcher, half]);
    const { code, err } = homing(['--version'], { program: join(half, 'homing.sh') });
    assert.equal(code, 69);
    assert.match(err, /the installation is not complete/);
  });

  test('an installed package runs its built JavaScript', () => {
    const pkg = join(folder, 'node_modules/homing');
    mkdirSync(join(pkg, 'src'), { recursive: true });
    mkdirSync(join(pkg, 'dist'));
    execFileSync('cp', [launcher, join(pkg, 'src')]);
    writeFileSync(join(pkg, 'package.json'), '{"type":"module"}');
    writeFileSync(
      join(pkg, 'dist/main.js'),
      'console.log(process.env.HOMING_ROOT, process.argv.slice(2).join("|"));\n',
    );
    const { out } = homing(['a b', '--c'], {
      program: join(pkg, 'src/homing.sh'),
      env: { HOMING_NODE: process.execPath },
    });
    assert.equal(out, `${pkg} a b|--c\n`);
  });

  test('npx homing works in a clone', () => {
    const done = spawnSync('npx', ['--offline', '--no-install', 'homing', 'map', '-c', settings, 'joe'], {
      cwd: root,
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(done.status, 0, done.stderr);
    assert.match(done.stdout, /^joe@example\.org\tmail[12]\t/);
  });
});

describe('homing map at length', () => {
  test('100,000 users from standard input in under two seconds, start included', () => {
    const users = Array.from({ length: 100_000 }, (_, i) => `user${i}@example.org\n`).join('');
    const began = performance.now();
    const { code, out } = homing(['map', '--json', '-c', settings], { input: users });
    const ms = performance.now() - began;
    assert.equal(code, 0);
    const lines = out.trimEnd().split('\n');
    assert.equal(lines.length, 100_000);
    const mail1 = lines.filter(line => JSON.parse(line).node === 'mail1').length;
    assert.ok(Math.abs(mail1 - 50_000) < 1500, `${mail1} on mail1`);
    assert.ok(ms < 2000, `took ${Math.round(ms)} ms`);
  });

  test('`| head` ends it quietly', () => {
    const script = `yes joe | sh ${launcher} map -c ${settings} | head -n 2`;
    const done = spawnSync('bash', ['-c', script], { encoding: 'utf8', timeout: 30_000 });
    assert.equal(done.status, 0);
    assert.equal(done.stderr, '');
    assert.equal(done.stdout.split('\n').length, 3);
  });

  test('a full disk under its output is told, not passed over', () => {
    const done = spawnSync('bash', ['-c', `sh ${launcher} map -c ${settings} joe > /dev/full`], {
      encoding: 'utf8',
      timeout: 30_000,
    });
    assert.deepEqual([done.status, done.stderr], [1, 'homing: standard output: ENOSPC\n']);
  });

  test('standard input that is closed maps nobody', () => {
    const done = spawnSync('bash', ['-c', `sh ${launcher} map -c ${settings} <&-`], {
      encoding: 'utf8',
      timeout: 30_000,
    });
    assert.equal(done.stdout, '');
  });
});

describe('trouble is named', () => {
  test('wrong settings: 78 with file, line, column and key, for each of them', () => {
    const bad = file('bad.yaml', `${least}health: { interval: 5 }\nlisten: { imap: ["*:143"] }\n`);
    for (const command of ['check', 'map', 'status']) {
      const { code, err } = homing([command, '--config', bad]);
      assert.equal(code, 78, command);
      assert.ok(err.includes(`${bad}:5:21: health.interval: 5 has no unit; write 5s or 5ms\n`), err);
      assert.ok(err.includes(`${bad}:6:18: listen.imap[0]: "*" is not an IP address; such as`), err);
    }
  });

  test('settings that are not there: 78', () => {
    const { code, err } = homing(['check', '--config', join(folder, 'none.yaml')]);
    assert.deepEqual(
      [code, err],
      [
        78,
        `${join(folder, 'none.yaml')}: can't be read: there is no such file; give the settings file with --config FILE\n`,
      ],
    );
  });

  test('a map file that may not be read', () => {
    const map = file('closed.map', 'joe -> mail1\n');
    chmodSync(map, 0);
    const path = file('closed.yaml', `${least}maps: [closed.map]\n`);
    // Root reads everything: as root the folder in its place stands for what can't be read.
    const isRoot = process.getuid?.() === 0;
    const folderMap = file('folder.yaml', `${least}maps: [bin]\n`);
    const { code, err } = homing(['map', '-c', isRoot ? folderMap : path, 'joe']);
    assert.equal(code, 1);
    assert.match(err, isRoot ? /bin: is not a plain file/ : /closed\.map: may not be read/);
  });
});

/** A backend that greets so. */
async function backend(greeting: string): Promise<{ server: Server; port: number }> {
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.end(greeting);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port };
}

/** `spawnSync` would stop our own backends from answering. */
function homingAsync(args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise(resolve => {
    const child = spawn(launcher, [...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let err = '';
    child.stdout.on('data', chunk => {
      out += chunk;
    });
    child.stderr.on('data', chunk => {
      err += chunk;
    });
    child.on('close', code => resolve({ code, out, err }));
  });
}

describe('homing check', () => {
  const servers: Server[] = [];
  let imap = 0;
  let lmtp = 0;
  let rude = 0;
  before(async () => {
    for (const name of ['cert', 'other']) {
      const args = [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-days',
        '90',
      ];
      const out = [
        '-subj',
        '/CN=mail.example.org',
        '-keyout',
        join(folder, `${name}.key`),
        '-out',
        join(folder, `${name}.pem`),
      ];
      execFileSync('openssl', [...args, ...out], { stdio: 'ignore' });
    }
    const made = [
      await backend('* OK ready\r\n'),
      await backend('220 mail LMTP\r\n'),
      await backend('* BYE too busy\r\n'),
    ];
    servers.push(...made.map(m => m.server));
    [imap = 0, lmtp = 0, rude = 0] = made.map(m => m.port);
    mkdirSync(join(folder, 'spool'));
    file('spool/.homing', '');
  });
  after(() => {
    for (const server of servers) server.close();
  });

  const cluster = (ports: string, rest = ''): string =>
    file(
      'check.yaml',
      `nodes: [{ name: mail1, address: 127.0.0.1, ports: { ${ports} } }]\nusers: { defaultDomain: example.org }\n${rest}`,
    );

  const rowsOf = (out: string): Record<string, { result: string; why: string }> =>
    Object.fromEntries(
      out
        .trimEnd()
        .split('\n')
        .map(line => JSON.parse(line))
        .map(row => [row.check, row]),
    );

  test('a cluster that is well: each row ok, 0', async () => {
    const spool = `spool: { path: "${folder}/spool/{user}", mark: ${folder}/spool/.homing, user: nobody }\n`;
    const tls = `tls: { cert: cert.pem, key: cert.key }\nlisten: { imaps: ["127.0.0.1:0"] }\n`;
    const { code, out, err } = await homingAsync([
      'check',
      '--json',
      '-c',
      cluster(`imap: ${imap}, lmtp: ${lmtp}`, spool + tls),
    ]);
    assert.deepEqual([code, err], [0, ''], out);
    for (const [check, row] of Object.entries(rowsOf(out)))
      assert.equal(row.result, 'ok', `${check}: ${row.why}`);
  });

  test('a table for people names what failed in full', async () => {
    const { code, out } = await homingAsync(['check', '-c', cluster(`imap: ${rude}, lmtp: 1`)]);
    assert.equal(code, 1);
    assert.match(out, /^CHECK +RESULT +WHY\n/);
    assert.match(out, new RegExp(`node mail1 imap +FAILED +127\\.0\\.0\\.1:${rude}: \\* BYE too busy`));
    assert.match(out, /node mail1 lmtp +FAILED +127\.0\.0\.1:1: ECONNREFUSED/);
  });

  for (const [name, tls, check, why] of [
    ['missing', '{ cert: none.pem, key: cert.key }', 'none.pem', /the certificate is missing: .*none\.pem/],
    ['whose key is missing', '{ cert: cert.pem, key: none.key }', 'none.key', /the key is missing/],
    ["that is another key's", '{ cert: cert.pem, key: other.key }', 'cert.pem', /does not belong to the key/],
    ['that is none', '{ cert: h.yaml, key: cert.key }', 'h.yaml', /is not a certificate in PEM form/],
    ['whose key is none', '{ cert: cert.pem, key: h.yaml }', 'h.yaml', /is not a private key in PEM form/],
  ] as const) {
    test(`a certificate ${name}`, async () => {
      const { code, out } = await homingAsync([
        'check',
        '--json',
        '-c',
        cluster(`imap: ${imap}, lmtp: ${lmtp}`, `tls: ${tls}\n`),
      ]);
      assert.equal(code, 1);
      const row = rowsOf(out)[`tls ${join(folder, check)}`];
      assert.equal(row?.result, 'failed');
      assert.match(row?.why ?? '', why);
    });
  }

  test('a certificate that expires soon is a warning, one that has expired a failure', async () => {
    const args = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-subj',
      '/CN=x',
    ];
    const pair = ['-keyout', join(folder, 'soon.key'), '-out', join(folder, 'soon.pem')];
    execFileSync('openssl', [...args, ...pair, '-days', '5'], { stdio: 'ignore' });
    const path = cluster(`imap: ${imap}, lmtp: ${lmtp}`, 'tls: { cert: soon.pem, key: soon.key }\n');
    const { code, out } = await homingAsync(['check', '--json', '-c', path]);
    assert.equal(code, 0);
    const row = rowsOf(out)[`tls ${join(folder, 'soon.pem')}`];
    assert.equal(row?.result, 'warning');
    assert.match(row?.why ?? '', /expires in [45] days/);
  });

  test('a spool without its mark, an account that is none, a queue where a file stands', async () => {
    const rest = `spool: { path: "${folder}/spool/{user}", mark: ${folder}/spool/gone, user: nosuchaccount }\nqueue: { path: h.yaml }\nrunAs: root\n`;
    const { code, out } = await homingAsync([
      'check',
      '--json',
      '-c',
      cluster(`imap: ${imap}, lmtp: ${lmtp}`, rest),
    ]);
    assert.equal(code, 1);
    const rows = rowsOf(out);
    assert.match(
      rows[`spool mark ${folder}/spool/gone`]?.why ?? '',
      /is not there: is the file system mounted\?/,
    );
    assert.match(rows['account nosuchaccount']?.why ?? '', /there is no such account/);
    assert.match(rows[`queue ${folder}/h.yaml`]?.why ?? '', /is not a folder/);
    assert.match(rows['account root']?.why ?? '', /never runs as root/);
  });
});
