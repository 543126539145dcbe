/**
 * What an operator meets who writes settings: defaults, and for each mistake its line, column, key, and what would be right.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { checkTimers, defaultTimers } from '../../../src/core/timers.ts';
import { nodeSpecs, timersOf, userRules, viewRules } from '../../../src/settings/derived.ts';
import { settingsExample } from '../../../src/settings/example.ts';
import { formatError, loadSettings, parseSettings } from '../../../src/settings/load.ts';
import { settingsReference } from '../../../src/settings/reference.ts';
import type { Settings } from '../../../src/settings/schema.ts';

const root = join(import.meta.dirname, '../../..');
const least = 'nodes:\n  - { name: mail1, address: 10.0.0.1 }\nusers: { defaultDomain: example.org }\n';

function good(text: string): Settings {
  const loaded = parseSettings(text, '/etc/homing/homing.yaml');
  assert.ok(loaded.ok, loaded.ok ? '' : loaded.errors.map(formatError).join('\n'));
  return loaded.settings;
}

function errorsOf(text: string): string[] {
  const loaded = parseSettings(text, 'h.yaml');
  assert.equal(loaded.ok, false, 'these settings should have been refused');
  return loaded.ok ? [] : loaded.errors.map(formatError);
}

/** The one error of the least settings with this text behind them. */
function only(text: string): string {
  const errors = errorsOf(least + text);
  assert.equal(errors.length, 1, errors.join('\n'));
  return errors[0] ?? '';
}

describe('what is left out', () => {
  test('nodes and a default domain are enough, and all else has its default', () => {
    const s = good(least);
    assert.deepEqual(nodeSpecs(s), [
      { name: 'mail1', address: '10.0.0.1', weight: 100, pool: 'default', ports: { imap: 143, lmtp: 24 } },
    ]);
    assert.deepEqual(s.users.domains, ['example.org']);
    assert.deepEqual(s.listen.admin, ['127.0.0.1:8025']);
    assert.equal(s.health.interval, 1000);
    assert.equal(s.health.timeout, 800);
    assert.equal(s.failover.hold, 10_000);
    assert.equal(s.queue.path, '/etc/homing/var/queue');
    assert.equal(s.log.file, '-');
    assert.equal(s.tls, null);
    assert.equal(s.spool, null);
  });

  test('a group with nothing below it means its defaults, as in a file whose keys are all commented out', () => {
    assert.equal(good(`${least}health:\nqueue:\n  backoff:\nlisten:\n`).health.rise, 2);
  });

  test('without a spool nothing is delivered directly, unless it was asked for: that is an error', () => {
    assert.deepEqual(good(least).delivery.whenHomeDown, { smtp: ['queue'], lmtp: [], given: false });
    assert.match(
      only('delivery: { whenHomeDown: [direct] }\n'),
      /delivery.whenHomeDown: names direct, but there is no spool/,
    );
    const spool = 'spool: { path: "/srv/{domain}/{local}", mark: /srv/.homing, user: vmail }\n';
    assert.deepEqual(good(least + spool).delivery.whenHomeDown.smtp, ['direct', 'queue']);
    assert.deepEqual(good(least + spool).delivery.whenHomeDown.lmtp, ['direct']);
    const both = good(`${least}${spool}delivery: { whenHomeDown: [queue, direct] }\n`).delivery.whenHomeDown;
    assert.deepEqual(
      [both.smtp, both.lmtp],
      [
        ['queue', 'direct'],
        ['queue', 'direct'],
      ],
    );
    const apart = good(`${least}${spool}delivery: { whenHomeDown: { lmtp: [] } }\n`).delivery.whenHomeDown;
    assert.deepEqual([apart.smtp, apart.lmtp], [['direct', 'queue'], []]);
  });

  test('the settings of the design are taken, but for what is not built yet', () => {
    const s = good(`
cluster: example
include: []
nodes:
  - { name: mail1, address: 10.0.0.1, weight: 100, pool: default,
      ports: { imap: 143, pop3: 110, sieve: 4190, lmtp: 24, submission: 587 } }
self: mail1
listen:
  imap: ["0.0.0.0:143"]
  imaps: []
  pop3: []
  pop3s: []
  sieve: []
  submission: []
  submissions: []
  lmtp: ["127.0.0.1:24"]
  smtp: ["0.0.0.0:25"]
  admin: ["127.0.0.1:8025"]
processes: auto
tls: { cert: cert.pem, key: key.pem }
users: { defaultDomain: example.org, domains: [example.org], detail: "+", masterSeparator: "*", affinity: user }
placement: rendezvous
maps: [users.map]
health: { interval: 1s, timeout: 800ms, rise: 2, fall: 3 }
failover: { failback: idle, hold: 10s, fence: none }
delivery: { whenHomeDown: [direct, queue], multiHome: split }
spool: { format: maildir, path: "/srv/mail/{domain}/{local}/Maildir", mark: "/srv/mail/.homing", user: vmail }
queue: { path: var/queue }
state: { store: embedded, path: var/state }
trust: { proxyProtocol: [], xclient: [] }
log: { level: info, file: "-" }
`);
    assert.equal(s.tls?.cert, '/etc/homing/cert.pem');
    assert.deepEqual(s.maps, ['/etc/homing/users.map']);
    assert.equal(s.nodes[0]?.ports.sieve, 4190);
  });
});

describe('what is not built yet is refused by name', () => {
  for (const [text, key] of [
    ['include: [a.yaml]', 'include'],
    ['listen: { pop3: ["127.0.0.1:110"] }', 'listen.pop3'],
    ['listen: { pop3s: ["127.0.0.1:995"] }', 'listen.pop3s'],
    ['listen: { sieve: ["127.0.0.1:4190"] }', 'listen.sieve'],
    ['listen: { submission: ["127.0.0.1:587"] }', 'listen.submission'],
    ['listen: { submissions: ["127.0.0.1:465"] }', 'listen.submissions'],
    ['processes: 4', 'processes'],
    ['tls: [{ cert: a, key: b }]', 'tls'],
    ['placement: dovecot-director', 'placement'],
    ['failover: { fence: command }', 'failover.fence'],
    ['failover: { failback: now }', 'failover.failback'],
    ['failover: { failback: manual }', 'failover.failback'],
    ['delivery: { multiHome: pin-first }', 'delivery.multiHome'],
    ['delivery: { sieve: exec }', 'delivery.sieve'],
    ['delivery: { whenHomeDown: [exec] }', 'delivery.whenHomeDown[0]'],
    ['spool: { format: mbox, path: "/m/{user}", mark: /m/.h, user: vmail }', 'spool.format'],
    ['queue: { mode: write-cache }', 'queue.mode'],
    ['state: { store: redis }', 'state.store'],
    ['state: { url: "redis://x" }', 'state.url'],
    ['state: { onLoss: refuse }', 'state.onLoss'],
    ['trust: { proxyProtocol: [10.0.0.0/8] }', 'trust.proxyProtocol'],
    ['trust: { xclient: [10.0.0.0/8] }', 'trust.xclient'],
  ] as const) {
    test(text, () => {
      const error = only(`${text}\n`);
      assert.ok(error.includes(`: ${key}: `), error);
      assert.match(error, /not supported yet; ./);
    });
  }

  test('TLS to nodes', () => {
    const text =
      'nodes: [{ name: a, address: 10.0.0.1, tls: starttls, ip: 10.0.0.1 }]\nusers: { defaultDomain: x.org }\n';
    assert.deepEqual(errorsOf(text), [
      'h.yaml:1:44: nodes[0].tls: "starttls" is not supported yet; the only value now is off',
      'h.yaml:1:58: nodes[0].ip: is not supported yet; leave it out',
    ]);
  });
});

describe('mistakes are told with file, line, column, key and what would be right', () => {
  test('all at once, in the order of the file', () => {
    const errors = errorsOf(
      [
        'nodes:',
        '  - { name: mail1, address: 10.0.0.1:143, wieght: 5 }',
        '  - { address: 10.0.0.2, weight: 1001, ports: { imap: x } }',
        'users: { defaultDomain: example.org, afinity: user }',
        'health:',
        '  interval: 5',
        '  rise: two',
        'listen: { imap: ["localhost:143", 7] }',
        'nodez: 1',
      ].join('\n'),
    );
    const starts = [
      'h.yaml:2:29: nodes[0].address: "10.0.0.1:143" is neither an IP address nor a DNS name; without the port',
      'h.yaml:2:43: nodes[0].wieght: is not a known key; did you mean weight?',
      'h.yaml:3:5: nodes[1].name: is missing; add it, for example "mail1"',
      "h.yaml:3:34: nodes[1].weight: 1001 won't do; a whole number from 0 to 1000",
      'h.yaml:3:55: nodes[1].ports.imap: "x" is not a port; a whole number from 1 to 65535',
      'h.yaml:4:38: users.afinity: is not a known key; did you mean affinity?',
      'h.yaml:6:13: health.interval: 5 has no unit; write 5s or 5ms',
      'h.yaml:7:9: health.rise: "two" won\'t do; a whole number from 1 to 100',
      'h.yaml:8:18: listen.imap[0]: "localhost" is not an IP address; such as "127.0.0.1:143"',
      'h.yaml:8:35: listen.imap[1]: "7" is not address:port; such as',
      'h.yaml:9:1: nodez: is not a known key; did you mean nodes?',
    ];
    assert.equal(errors.length, starts.length, errors.join('\n'));
    for (const [i, start] of starts.entries())
      assert.ok(errors[i]?.startsWith(start), `${errors[i]}\nshould be\n${start}`);
  });

  for (const [text, error] of [
    ['listen: { admin: ["0.0.0.0:8025"] }', /4:19: listen.admin\[0\]: .* has no passwords; loopback/],
    [
      'listen: { imap: ["127.0.0.1:143", "0.0.0.0:143"] }',
      /listen.imap\[1\]: 0.0.0.0:143 is taken by listen.imap 127.0.0.1:143/,
    ],
    [
      'listen: { imap: ["[::]:143"], lmtp: ["127.0.0.1:143"] }',
      /listen.lmtp\[0\]: 127.0.0.1:143 is taken by listen.imap/,
    ],
    [
      'listen: { imap: ["10.0.0.1:143"] }',
      /listen.imap\[0\]: 10.0.0.1:143 is a backend of mail1: Homing would talk to itself/,
    ],
    ['listen: { imaps: ["127.0.0.1:993"] }', /listen.imaps: needs a certificate; set tls:/],
    ['tls: { cert: a.pem }', /4:1: tls.key: is missing; add it/],
    ['self: mial1', /4:7: self: mial1 is not one of the nodes; did you mean mail1\?/],
    ['placement: rendevous', /placement: "rendevous" is not known; did you mean rendezvous\?/],
    ['log: { level: verbose }', /log.level: "verbose" is not known; one of: trace, debug, info/],
    ['log: yes please', /4:6: log: is not a group of keys; the keys are level, file/],
    ['health: [1s]', /health: is not a group of keys; the keys are interval/],
    ['maps: users.map', /maps: "users.map" is not a list; a list, such as \["users.map"\]/],
    [
      'queue: { path: "var/{node}" }',
      /queue.path: {node} stands for nothing, as self is not set; set self, or use {host}/,
    ],
    [
      'queue: { path: "var/{nod}" }',
      /queue.path: "{nod}" is not known here; what may stand there: {host}, {node}/,
    ],
    [
      'queue: { backoff: { first: 1h } }',
      /queue.backoff.first: 1h is longer than the longest wait; at most 15m/,
    ],
    ['queue: { lifetime: 2s }', /queue.lifetime: 2s is over before the first retry; more than 5s/],
    ['failover: { hold: 5s }', /4:19: failover.hold: 5s is too short: .* at least 9800ms/],
    ['state: { lease: 30s }', /failover.hold: 10s is too short/],
    ['state: { lease: 1s }', /state.lease: 1s can't be safe: close/],
    ['health: { timeout: 40s }', /health.greetingTimeout: 30s is shorter than health.timeout; at least 40s/],
    ['health: { jitter: 60% }', /health.jitter: "60%" won't do; a share from 0% to 50%/],
    [
      'spool: { path: /srv/mail, mark: /srv/.h, user: vmail }',
      /spool.path: names one folder for everybody; with {user}/,
    ],
    ['spool: { path: "mail/{user}", mark: /srv/.h, user: vmail }', /spool.path: .* is not an absolute path/],
    ['spool: { path: "/m/../{user}", mark: /srv/.h, user: vmail }', /spool.path: has ".." in it/],
    ['spool: { path: "/m/{usr}", mark: /srv/.h, user: vmail }', /spool.path: "{usr}" is not known here/],
    ['spool: { path: "/m/{user}", mark: /srv/.h, user: "v m" }', /spool.user: "v m" is not an account/],
    ['cluster: "a/b"', /cluster: "a\/b" won't do as a name/],
    ['limits: { message: 10 }', /limits.message: 10 has no unit; write 10B or 10MiB/],
    ['limits: { recipients: 0 }', /limits.recipients: 0 won't do/],
    ['runAs:\n  - root', /runAs: \["root"\] is not a text/],
    ['log: { file: "" }', /log.file: is empty/],
    ['log: { file: "a\\u0000b" }', /log.file: has a control character/],
  ] as const) {
    test(text, () => assert.match(only(`${text}\n`), error));
  }

  test('two nodes of one name, or one backend for two', () => {
    const text =
      'nodes:\n  - { name: a, address: 10.0.0.1 }\n  - { name: A, address: 10.0.0.1, ports: { imap: 143 } }\nusers: { defaultDomain: x.org }\n';
    const errors = errorsOf(text);
    assert.match(errors[0] ?? '', /3:13: nodes\[1\].name: A is the name of nodes\[0\] already/);
    assert.match(errors[1] ?? '', /3:50: nodes\[1\].ports.imap: 10.0.0.1 port 143 is a's imap already/);
  });

  test('a node without the backend that a listener needs', () => {
    const text =
      'nodes: [{ name: a, address: 10.0.0.1, ports: { pop3: 110 } }]\nusers: { defaultDomain: x.org }\nlisten: { imap: ["127.0.0.1:143"], lmtp: ["127.0.0.1:24"] }\n';
    assert.deepEqual(
      errorsOf(text).map(e => e.split(': ')[1]),
      ['nodes[0].ports.imap', 'nodes[0].ports.lmtp'],
    );
  });

  test('nodes of which none can be a home, unless a map places everybody', () => {
    const nodes = 'nodes: [{ name: a, address: 10.0.0.1, pool: archive }]\nusers: { defaultDomain: x.org }\n';
    assert.match(errorsOf(nodes)[0] ?? '', /nodes: have none with weight in pool default/);
    assert.equal(good(`${nodes}maps: [m]\n`).nodes[0]?.pool, 'archive');
  });

  test('mail without a domain to accept it for', () => {
    const text =
      'nodes: [{ name: a, address: 10.0.0.1 }]\nusers: { defaultDomain: "" }\nlisten: { smtp: ["127.0.0.1:25"] }\n';
    assert.match(errorsOf(text)[0] ?? '', /users.domains: is empty: no mail would be accepted/);
  });

  test('duplicate keys are named with both lines, at any depth', () => {
    assert.deepEqual(errorsOf(`${least}self: a\nself: b\nlog: { level: info, level: warn }\n`), [
      'h.yaml:5:1: self: stands here twice; it is in line 4 already',
      'h.yaml:6:21: level: stands here twice; it is in line 6 already',
    ]);
  });

  test('broken YAML, unknown tags and a second document', () => {
    assert.match(errorsOf('nodes: [ {\n')[0] ?? '', /^h.yaml:\d+:\d+: is not YAML: /);
    assert.match(errorsOf('a: !shell rm\n')[0] ?? '', /^h.yaml:1:4: is not YAML: Unresolved tag/);
    assert.match(errorsOf('a: 1\n---\nb: 1\n')[0] ?? '', /is not YAML/);
    assert.match(errorsOf('\tnodes: []\n')[0] ?? '', /is not YAML/);
    assert.match(errorsOf('? { a: b }\n: 1\n')[0] ?? '', /^h.yaml:1:3: is not a key/);
  });

  test('a template without quotes in a group: the quotes are asked for', () => {
    assert.match(errorsOf('spool: { path: /srv/{user} }\n')[0] ?? '', /needs quotes: "\/srv\/{user}"/);
  });

  test('an empty file, a list, a word: what is missing is told', () => {
    assert.match(errorsOf('').join('\n'), /1:1: nodes: is missing/);
    assert.match(errorsOf('[1, 2]').join('\n'), /is not a group of keys/);
    assert.match(errorsOf('hello').join('\n'), /is not a group of keys/);
  });

  test('aliases that grow without end are refused, not expanded', () => {
    const bomb = `a: &a [x, x, x, x, x, x, x, x, x]\n${[...'bcdefghi'].map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefghi'[i]}`).join(', ')}]\n`).join('')}`;
    const began = performance.now();
    assert.match(errorsOf(bomb).join('\n'), /aliases|alias/i);
    assert.ok(performance.now() - began < 2000);
  });

  test('any text whatever is refused or loaded, without an exception, with a true line number', () => {
    const pieces = fc.constantFrom(
      'nodes:',
      'users:',
      ' ',
      '\n',
      '- ',
      '{',
      '}',
      '[',
      ']',
      'name: a',
      ': ',
      '"',
      '*a',
      '&a',
      '!x',
      '1s',
      '#',
      '\t',
      'é',
      '\u0000',
      '? ',
      '|',
      '<<: ',
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 30 }), parts => {
        const text = least + parts.join('');
        const loaded = parseSettings(text, 'h.yaml');
        const rows = text.split('\n').length;
        if (!loaded.ok)
          for (const e of loaded.errors)
            assert.ok(e.line >= 1 && e.line <= rows && e.column >= 1, formatError(e));
      }),
      { numRuns: 500 },
    );
  });
});

describe('hostile values', () => {
  const keys = [
    'cluster',
    'include',
    'nodes',
    'self',
    'listen',
    'login',
    'processes',
    'runAs',
    'tls',
    'users',
    'placement',
    'maps',
    'health',
  ].concat(['failover', 'move', 'delivery', 'spool', 'queue', 'state', 'trust', 'limits', 'shutdown', 'log']);

  test('any value of any key is refused or taken, without an exception', () => {
    fc.assert(
      fc.property(fc.constantFrom(...keys), fc.jsonValue(), (key, value) => {
        parseSettings(JSON.stringify({ [key]: value }), 'h.yaml');
      }),
      { numRuns: 300 },
    );
  });

  test('any value of any key of a group, too', () => {
    const text = settingsReference();
    const paths = [...text.matchAll(/^#+ `([a-zA-Z.]+)`$/gm)].map(m => (m[1] ?? '').split('.'));
    assert.ok(paths.length > 60);
    const odd = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom({ toString: 1 }, { length: -1 }, [[]], [{}], -1, 1e300, '{node}', '{', '\u202e'),
    );
    fc.assert(
      fc.property(fc.constantFrom(...paths), odd, (path, value) => {
        const nested = path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value) as object;
        const whole = {
          nodes: [{ name: 'a', address: '10.0.0.1' }],
          users: { defaultDomain: 'x.org' },
          ...nested,
        };
        parseSettings(JSON.stringify(whole), 'h.yaml');
      }),
      { numRuns: 1000 },
    );
  });
});

describe('files', () => {
  test('a missing file, a folder, and bytes that are not UTF-8 are errors with the path', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'homing-settings-'));
    const binary = join(folder, 'b.yaml');
    await writeFile(binary, Buffer.from([0x61, 0xff, 0xfe]));
    for (const [path, why] of [
      [join(folder, 'none.yaml'), 'there is no such file'],
      [folder, 'it is a folder'],
      [binary, 'is not UTF-8'],
    ] as const) {
      const loaded = await loadSettings(path);
      assert.equal(loaded.ok, false);
      if (!loaded.ok) assert.ok(formatError(loaded.errors[0] ?? assert.fail()).includes(why));
    }
  });

  test('a byte order mark and CRLF line ends do no harm', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'homing-settings-'));
    const path = join(folder, 'h.yaml');
    await writeFile(path, `\ufeff${least.replaceAll('\n', '\r\n')}`);
    assert.equal((await loadSettings(path)).ok, true);
  });

  test('relative paths are relative to the settings file; {host} and {node} stand for what they say', () => {
    const s = good(
      `${least}self: mail1\nqueue: { path: "../q/{node}-{host}" }\nlog: { file: "/var/log/{host}.log" }\n`,
    );
    assert.equal(s.queue.path, `/etc/q/mail1-${hostname()}`);
    assert.equal(s.log.file, `/var/log/${hostname()}.log`);
  });

  test('domains are lower case, whatever was written', () => {
    const s = good(
      'nodes: [{ name: a, address: 10.0.0.1 }]\nusers: { defaultDomain: Example.ORG, domains: [Example.org, EXAMPLE.org, Bücher.example] }\n',
    );
    assert.deepEqual(s.users.domains, ['example.org', 'bücher.example']);
    assert.equal(userRules(s).defaultDomain, 'example.org');
  });

  test('settings are plain data: they can be sent to another process as they are', () => {
    const s = good(least);
    assert.deepEqual(structuredClone(s), s);
    assert.deepEqual(JSON.parse(JSON.stringify(s)), s);
  });

  test('the shipped settings and map load, and docs/settings.md and config/homing.yaml are what the schema says', async () => {
    const shipped = await loadSettings(join(root, 'config/homing.yaml'));
    assert.ok(shipped.ok, shipped.ok ? '' : shipped.errors.map(formatError).join('\n'));
    const hint = 'run: sh src/homing.sh settings-reference';
    assert.equal(
      await readFile(join(root, 'config/homing.yaml'), 'utf8'),
      settingsExample(),
      `${hint} yaml > config/homing.yaml`,
    );
    assert.equal(
      await readFile(join(root, 'docs/settings.md'), 'utf8'),
      settingsReference(),
      `${hint} > docs/settings.md`,
    );
  });

  test('each key of the shipped settings can be uncommented, alone and all at once', () => {
    const text = settingsExample();
    const lines = text.split('\n');
    const keys = lines.flatMap((line, i) => (/^ *#[a-zA-Z]+: /.test(line) ? [i] : []));
    assert.ok(keys.length > 40);
    const uncommented = (which: readonly number[]) =>
      lines.map((line, i) => (which.includes(i) ? line.replace('#', '') : line)).join('\n');
    for (const key of keys) {
      // Listeners on TLS need a certificate, which is another key.
      const tls = lines.findIndex(line => line.startsWith('#tls:'));
      const spool = lines.findIndex(line => line.startsWith('#spool:'));
      good(uncommented([key, tls, spool]));
    }
    good(uncommented(keys));
  });
});

describe('what is derived', () => {
  test("the default lease gives the design's timers, and every lease that is allowed gives safe ones", () => {
    assert.deepEqual(timersOf(good(least)), defaultTimers);
    fc.assert(
      fc.property(
        fc.integer({ min: 500, max: 60_000 }),
        fc.integer({ min: 100, max: 90_000 }),
        (lease, hold) => {
          const loaded = parseSettings(
            `${least}state: { lease: ${lease}ms }\nfailover: { hold: ${hold}ms, settle: 100ms }\n`,
            'h',
          );
          if (loaded.ok) assert.deepEqual(checkTimers(timersOf(loaded.settings)), []);
        },
      ),
    );
  });

  test('the digest of what all members must have alike follows what places users, and nothing else', () => {
    const digest = (text: string) =>
      viewRules(good(least.replace('example.org }', `example.org${text} }`))).rulesDigest;
    assert.equal(digest(''), digest(', domains: [example.org, example.net]'));
    assert.notEqual(digest(''), digest(', affinity: domain'));
    assert.notEqual(digest(''), digest(', detail: "-"'));
  });
});
