/**
 * The command line as a script meets it: exit codes, what goes to standard output and what to standard error, and answers of any kind.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { after, describe, test } from 'node:test';
import { runCli } from '../../../src/cli/cli.ts';
import type { Io } from '../../../src/cli/io.ts';
import { commands } from '../../../src/cli/usage.ts';
import type { ExplainAnswer, StatusAnswer } from '../../../src/core/status.ts';

const root = join(import.meta.dirname, '../../..');
const folder = mkdtempSync(join(tmpdir(), 'homing-cli-'));
const least =
  'nodes:\n  - { name: mail1, address: 10.0.0.1 }\n  - { name: mail2, address: 10.0.0.2 }\nusers: { defaultDomain: example.org }\n';

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const settings = file('h.yaml', least);

async function run(argv: readonly string[], input: string | Readable = '', more: Partial<Io> = {}) {
  let out = '';
  let err = '';
  const collect = (add: (text: string) => void) =>
    new Writable({
      write(chunk, _, done) {
        add(String(chunk));
        done();
      },
    });
  const io: Io = {
    stdin: typeof input === 'string' ? Readable.from([Buffer.from(input)]) : input,
    stdout: collect(t => (out += t)),
    stderr: collect(t => (err += t)),
    env: { HOMING_ROOT: root },
    columns: null,
    serve: async () => 0,
    ...more,
  };
  const code = await runCli(argv, io);
  return { code, out, err };
}

const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close();
});

/** An admin address that answers this; what it was asked is kept. */
async function adminWith(status: number, body: string): Promise<{ url: string; asked: string[] }> {
  const asked: string[] = [];
  const server = createServer((req, res) => {
    let text = '';
    req.on('data', chunk => (text += chunk));
    req.on('end', () => {
      asked.push(`${req.method} ${req.url} ${text}`.trim());
      res.writeHead(status, { 'content-type': 'application/json', connection: 'close' }).end(body);
    });
  });
  servers.push(server);
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

describe('the command line', () => {
  test('help goes to standard output with 0, and names every command', async () => {
    const { code, out, err } = await run(['--help']);
    assert.deepEqual([code, err], [0, '']);
    for (const command of Object.keys(commands)) assert.ok(out.includes(`homing ${command}`), command);
    assert.equal((await run(['map', '--help'])).out, `${commands.map}\n`);
    assert.match((await run(['--version'])).out, /^homing \d+\.\d+\.\d+\n$/);
  });

  for (const [argv, says] of [
    [[], /which command\?/],
    [['stauts'], /"stauts" is not a command; did you mean status\?/],
    [['drill'], /drill is not supported yet/],
    [['status', '--jsn'], /Unknown option '--jsn'/],
    [['status', 'x'], /status: x is one too many/],
    [['explain'], /explain: something is missing/],
    [['node', 'drian', 'mail1'], /"drian" is not known; did you mean drain\?/],
    [['node', 'weight', 'mail1'], /a weight is a whole number from 0 to 1000/],
    [['node', 'weight', 'mail1', '1001'], /a weight is a whole number/],
    [['node', 'drain', 'mail1', '5'], /"5" is one word too many/],
    [['status', '--admin', 'ftp://x'], /"ftp:\/\/x" can't be asked/],
    [['settings-reference', 'toml'], /one of: markdown, yaml/],
  ] as const) {
    test(`a wrong one is 64 and says why: homing ${argv.join(' ')}`, async () => {
      const { code, out, err } = await run(argv);
      assert.deepEqual([code, out], [64, '']);
      assert.match(err, says);
    });
  }

  test('serve is given the settings, from --config, the environment, or the clone', async () => {
    const paths: string[] = [];
    const serve = async (path: string) => {
      paths.push(path);
      return 7;
    };
    assert.equal((await run(['serve', '--config', 'a.yaml'], '', { serve })).code, 7);
    await run(['serve'], '', { serve, env: { HOMING_CONFIG: 'b.yaml', HOMING_ROOT: root } });
    assert.deepEqual(paths, ['a.yaml', 'b.yaml']);
  });

  test('wrong settings are 78 for every command that reads them, with file, line and column', async () => {
    const bad = file('bad.yaml', `${least}placement: rendevous\n`);
    for (const argv of [
      ['map', 'joe'],
      ['check'],
      ['status'],
      ['explain', 'joe'],
      ['node', 'drain', 'mail1'],
    ]) {
      const { code, out, err } = await run([...argv, '--config', bad]);
      assert.deepEqual([code, out], [78, ''], argv[0]);
      assert.ok(
        err.startsWith(`${bad}:5:12: placement: "rendevous" is not known; did you mean rendezvous?`),
        err,
      );
    }
  });
});

describe('homing map', () => {
  test('prints user, node and why, tab-separated, or as JSON with exactly these', async () => {
    const { code, out } = await run(['map', '-c', settings, 'Joe+x']);
    assert.equal(code, 0);
    assert.match(out, /^joe@example\.org\tmail[12]\tfirst in the ranking of pool default\n$/);
    const json = JSON.parse((await run(['map', '--json', '-c', settings, 'joe'])).out);
    assert.deepEqual(Object.keys(json), ['user', 'node', 'why']);
    assert.equal(json.node, out.split('\t')[1]);
  });

  test('reads standard input, wherever it is cut, with CRLF, empty lines and no line end at the end', async () => {
    const text = 'joe\r\n\nJÖRG@Example.org\nanna';
    const whole = await run(['map', '-c', settings], text);
    assert.equal(whole.out.split('\n').length, 4);
    const bytes = Buffer.from(text);
    for (let cut = 1; cut < bytes.length; cut++) {
      const parts = Readable.from([bytes.subarray(0, cut), bytes.subarray(cut)]);
      assert.deepEqual(await run(['map', '-c', settings], parts), whole, `cut at ${cut}`);
    }
  });

  test('a name that is no user is told with its line, the others are still mapped, and the code is 1', async () => {
    const { code, out, err } = await run(
      ['map', '-c', settings],
      `joe\na b@@\n${'x'.repeat(5000)}\n../../etc\nanna\n`,
    );
    assert.equal(code, 1);
    assert.deepEqual(
      out.split('\n').map(l => l.split('\t')[0]),
      ['joe@example.org', 'anna@example.org', ''],
    );
    assert.deepEqual(
      err
        .trim()
        .split('\n')
        .map(l => l.split(': ')[1]),
      ['line 2', 'line 3', 'line 4'],
    );
  });

  test('a line without end is skipped in bounded memory', async () => {
    const endless = Readable.from(
      (function* () {
        for (let i = 0; i < 2000; i++) yield Buffer.alloc(65_536, 'x');
        yield Buffer.from('\njoe\n');
      })(),
    );
    const before = process.memoryUsage().rss;
    const { code, out } = await run(['map', '-c', settings], endless);
    assert.equal(code, 1);
    assert.match(out, /^joe@example.org\t/);
    assert.ok(process.memoryUsage().rss - before < 100 * 1024 * 1024);
  });

  test('control characters of a name never reach the terminal', async () => {
    const { err } = await run(['map', '-c', settings, 'a\x1b[31mb']);
    assert.ok(!err.includes('\x1b'));
  });

  test('map files count, and one that is wrong or missing is named with its line: exit 1, nothing mapped', async () => {
    file('users.map', '# all of them\njoe -> mail2\n@example.net -> pool:default\n');
    const withMap = file('m.yaml', `${least}maps: [users.map]\n`);
    const { out } = await run(['map', '-c', withMap, 'joe']);
    assert.equal(out, 'joe@example.org\tmail2\tusers.map:2\n');
    file('wrong.map', 'joe -> mail9\nanna mail1\n');
    const wrong = await run(['map', '-c', file('w.yaml', `${least}maps: [wrong.map]\n`), 'joe']);
    assert.deepEqual([wrong.code, wrong.out], [1, '']);
    assert.match(wrong.err, /wrong\.map:2: has no ->/);
    file('lost.map', 'joe -> mail9\n');
    const lost = await run(['map', '-c', file('l.yaml', `${least}maps: [lost.map]\n`), 'joe']);
    assert.match(lost.err, /lost\.map:1: no node is called mail9; known: mail1, mail2/);
    const missing = await run(['map', '-c', file('n.yaml', `${least}maps: [none.map]\n`), 'joe']);
    assert.equal(missing.code, 1);
    assert.match(missing.err, /none\.map: there is no such file/);
  });

  test('a user whom no node can take has no node: "-", null, and exit 1', async () => {
    const pools = file(
      'p.yaml',
      'nodes: [{ name: a, address: 10.0.0.1, pool: other }]\nusers: { defaultDomain: x.org }\nmaps: [p.map]\n',
    );
    file('p.map', 'joe -> a\n');
    const { code, out } = await run(['map', '-c', pools, 'joe', 'anna']);
    assert.equal(code, 1);
    assert.match(out, /^joe@x.org\ta\tp.map:1\nanna@x.org\t-\t/);
    assert.equal(JSON.parse((await run(['map', '--json', '-c', pools, 'anna'])).out).node, null);
  });

  test('a reader that goes away ends it without a word', async () => {
    const stdout = new PassThrough({ highWaterMark: 1 });
    stdout.on('error', () => {});
    const users = Readable.from(
      (function* () {
        for (let i = 0; i < 20_000; i++) yield Buffer.from(`user${i}\n`);
      })(),
    );
    stdout.once('data', () => stdout.destroy());
    const { err } = await run(['map', '-c', settings], users, { stdout });
    assert.equal(err, '');
  });
});

const status: StatusAnswer = {
  cluster: 'example',
  epoch: 1003,
  run: 'r1',
  storeState: 'open',
  startedAtMs: Date.now() - 93_784_000,
  members: [{ id: 'm1', pid: 4711, phase: 'serving' }],
  nodes: [
    {
      name: 'mail1',
      address: '10.0.0.1',
      weight: 100,
      pool: 'default',
      admin: 'ready',
      health: 'down',
      evidence: [
        { protocol: 'imap', health: 'down', why: 'ECONNREFUSED \x1b[2J' },
        { protocol: 'lmtp', health: 'up', why: 'greeted in 2 ms' },
      ],
      sessions: 12,
      deliveries: 3,
      users: 9,
    },
  ],
  queue: { messages: 2, oldestAgeMs: 61_000 },
  holds: { users: 0, reason: '' },
};

const explained: ExplainAnswer = {
  input: 'Joe',
  user: 'joe@example.org',
  affinityKey: 'joe@example.org',
  home: 'mail1',
  place: {
    kind: 'failover',
    homeDown: true,
    node: 'mail2',
    why: 'next in the ranking of pool default, after mail1 (down)',
  },
  ranking: [
    { node: 'mail1', weight: 100, admin: 'ready', health: 'down', eligible: false, why: 'down' },
    { node: 'mail2', weight: 100, admin: 'ready', health: 'up', eligible: true, why: '' },
  ],
  override: null,
  map: null,
  pin: null,
  sessions: [
    {
      user: 'joe@example.org',
      protocol: 'imap',
      node: 'mail2',
      client: '192.0.2.1:4711',
      sinceMs: Date.now() - 5000,
    },
  ],
};

describe('commands that ask a running Homing', () => {
  test('status prints a table; what nodes said never reaches the terminal raw', async () => {
    const { url, asked } = await adminWith(200, JSON.stringify(status));
    const { code, out } = await run(['status', '--admin', url]);
    assert.equal(code, 0);
    assert.deepEqual(asked, ['GET /v1/status']);
    assert.match(out, /cluster example · view 1003 of run r1 · store open · up 1 d 2 h/);
    assert.match(out, /NODE +ADDRESS +POOL +WEIGHT +ADMIN +HEALTH/);
    assert.match(
      out,
      /mail1 +10\.0\.0\.1 +default +100 +ready +down +12 +3 +9 +imap down \(ECONNREFUSED \\x1b\[2J\), lmtp up/,
    );
    assert.match(out, /queue: 2 waiting, the oldest 1 min 1 s\nholds: none/);
    assert.ok(!out.includes('\x1b'));
  });

  test('a narrow terminal gets narrow lines', async () => {
    const { url } = await adminWith(200, JSON.stringify(status));
    const { out } = await run(['status', '--admin', url], '', { columns: 100 });
    const rows = out.split('\n').filter(l => /^(NODE|mail1)/.test(l));
    assert.equal(rows.length, 2);
    for (const row of rows) assert.ok([...row].length <= 100, row);
  });

  test('--json is the answer as it came, in one line', async () => {
    const { url } = await adminWith(200, JSON.stringify(status));
    assert.deepEqual(JSON.parse((await run(['status', '--json', '--admin', url])).out), status);
  });

  test('explain asks for the user encoded, prints the ranking, and is 1 where nobody can take the user', async () => {
    const { url, asked } = await adminWith(200, JSON.stringify(explained));
    const { code, out } = await run(['explain', '--admin', url, 'jö e&x=1/..']);
    assert.equal(code, 0);
    assert.deepEqual(asked, [`GET /v1/explain?user=${encodeURIComponent('jö e&x=1/..')}`]);
    assert.match(
      out,
      /^user +joe@example\.org \(asked as Joe\)\nplace +mail2: failover, next in the ranking/,
    );
    assert.match(out, /1 +mail1 +100 +ready +down +no: down\n2 +mail2 +100 +ready +up +yes/);
    assert.match(out, /joe@example\.org +imap +mail2 +192\.0\.2\.1:4711/);
    const none = { ...explained, place: { kind: 'none', why: 'all are down' } };
    const { url: other } = await adminWith(200, JSON.stringify(none));
    assert.equal((await run(['explain', '--admin', other, 'joe'])).code, 1);
  });

  test('node orders are posted, and the answer names the view', async () => {
    const { url, asked } = await adminWith(200, '{"epoch":1004}');
    const drained = await run(['node', 'drain', 'mail1', '--admin', url]);
    assert.deepEqual([drained.code, drained.out], [0, 'mail1 drains since view 1004\n']);
    await run(['node', 'weight', 'mail/1', '50', '--admin', url]);
    assert.deepEqual(asked, [
      'POST /v1/nodes/mail1 {"admin":"drain"}',
      'POST /v1/nodes/mail%2F1 {"weight":50}',
    ]);
  });

  test('sessions and queue print tables, also empty ones', async () => {
    const { url } = await adminWith(200, '{"sessions":[]}');
    assert.equal((await run(['sessions', '--admin', url])).out, 'no sessions\n');
    const entry = {
      id: 'q1',
      from: '',
      to: ['a@x', 'b@x', 'c@x', 'd@x'],
      bytes: 10,
      ageMs: 1000,
      attempts: 1,
      nextInMs: 0,
      why: '451',
    };
    const { url: queue } = await adminWith(200, JSON.stringify({ messages: 2, entries: [entry] }));
    assert.match(
      (await run(['queue', '--admin', queue])).out,
      /q1 +1 s +10 +<> +a@x, b@x, c@x and 1 more +1 +now +451\n\n1 of 2\n/,
    );
  });

  test('a refusal is 1, trouble there is 69, each with its sentence', async () => {
    const { url } = await adminWith(404, '{"error":"there is no node mail9"}');
    assert.deepEqual(await run(['node', 'drain', 'mail9', '--admin', url]), {
      code: 1,
      out: '',
      err: 'homing: there is no node mail9\n',
    });
    const { url: broken } = await adminWith(503, '{"error":"the store is not open"}');
    assert.equal((await run(['status', '--admin', broken])).code, 69);
  });

  test('nobody there, no Homing, and a Homing of another version: 69 and one line', async () => {
    const { url } = await adminWith(200, '{}');
    const other = await run(['status', '--admin', url]);
    assert.equal(other.code, 69);
    assert.match(other.err, /answered in another form: is it a Homing of this version\?\n$/);
    const { url: web } = await adminWith(200, '<html>');
    assert.match((await run(['status', '--admin', web])).err, /is not a Homing's admin address/);
    const nobody = await run(['status', '--admin', '127.0.0.1:1']);
    assert.deepEqual(
      [nobody.code, nobody.err],
      [69, 'homing: no running Homing at http://127.0.0.1:1: connection refused\n'],
    );
  });

  test('the admin address comes from the settings, and without one there is nobody to ask', async () => {
    const { url, asked } = await adminWith(200, JSON.stringify(status));
    const path = file('a.yaml', `${least}listen: { admin: ["${url.slice(7)}"] }\n`);
    assert.equal((await run(['status', '-c', path])).code, 0);
    assert.equal(asked.length, 1);
    const none = await run(['status', '-c', file('none.yaml', `${least}listen: { admin: [] }\n`)]);
    assert.equal(none.code, 69);
    assert.match(none.err, /listen.admin is empty/);
  });
});
