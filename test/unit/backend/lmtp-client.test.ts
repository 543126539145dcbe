import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import {
  type Handed,
  type LmtpClient,
  type LmtpMessage,
  type LmtpTimeouts,
  openLmtp,
} from '../../../src/backend/lmtp-client.ts';
import { realClock } from '../../../src/net/clock.ts';
import {
  type Deed,
  dovecotLhlo,
  hangUp,
  type Peer,
  reset,
  type Script,
  silence,
  startPeer,
} from './lmtp-peer.ts';

const quick: LmtpTimeouts = {
  connectMs: 500,
  greetingMs: 200,
  commandMs: 200,
  goAheadMs: 200,
  stallMs: 300,
  finalMs: 300,
};

function message(recipients: string[], text = 'Subject: x\r\n\r\nhello\r\n', streamed = false): LmtpMessage {
  const bytes = Buffer.from(text);
  const open = () =>
    Readable.from(
      [bytes.subarray(0, 7), bytes.subarray(7)].filter(part => part.length > 0),
      { objectMode: false },
    );
  return {
    from: 's@x',
    recipients,
    body: { bytes: bytes.length, memory: streamed ? null : bytes, open },
    eightBit: false,
    smtpUtf8: false,
  };
}

async function open(port: number, timeouts = quick): Promise<LmtpClient> {
  const opened = await openLmtp(
    { address: '127.0.0.1', port, ownName: 'proxy', timeouts, clock: realClock },
    soon(),
  );
  assert.ok(opened.ok, JSON.stringify(opened));
  return opened.client;
}

function soon(ms = 5000): number {
  return realClock.now() + ms;
}

async function peerFor(t: TestContext, script: Script = {}): Promise<Peer> {
  const peer = await startPeer(script);
  t.after(() => peer.close());
  return peer;
}

function show(handed: readonly Handed[]): string[] {
  return handed.map(each => {
    if (each.kind === 'replied') return `${each.atEnd ? 'end' : 'early'} ${each.reply.code}`;
    return each.kind === 'unsayable' ? each.why : `${each.kind} ${each.fault.kind}`;
  });
}

const noPipelining = '250-peer\r\n250 8BITMIME';

describe('a message handed to a node', () => {
  for (const [name, lhlo] of [
    ['pipelined', dovecotLhlo],
    ['one command at a time', noPipelining],
  ] as const) {
    test(`${name}: each recipient gets the node's own reply, in order`, async t => {
      const peer = await peerFor(t, {
        lhlo,
        rcpt: line => (line.includes('nobody') ? '550 5.1.1 no such user' : '250 2.1.5 OK'),
        final: (_, i) => (i === 1 ? '452 4.2.2 full' : '250 2.0.0 saved'),
      });
      const client = await open(peer.port);
      const { handed } = await client.deliver(message(['a@x', 'nobody@x', 'b@x', 'c@x']), soon());
      assert.deepEqual(show(handed), ['end 250', 'early 550', 'end 452', 'end 250']);
      assert.equal(peer.messages[0], 'Subject: x\r\n\r\nhello\r\n.\r\n');
      const again = await client.deliver(message(['d@x'], '.dot\r\n', true), soon());
      assert.deepEqual(show(again.handed), ['end 250']);
      assert.equal(peer.messages[1], '..dot\r\n.\r\n');
      assert.equal(peer.connections, 1, 'the connection was kept');
      client.quit();
    });

    test(`${name}: everybody refused leaves the connection in step`, async t => {
      const peer = await peerFor(t, {
        lhlo,
        rcpt: line => (line.includes('no') ? '550 5.1.1 no such user' : '250 OK'),
      });
      const client = await open(peer.port);
      assert.deepEqual(show((await client.deliver(message(['no1@x', 'no2@x']), soon())).handed), [
        'early 550',
        'early 550',
      ]);
      assert.deepEqual(show((await client.deliver(message(['a@x']), soon())).handed), ['end 250']);
      assert.equal(peer.connections, 1);
      client.quit();
    });

    test(`${name}: a refused sender is everybody's reply`, async t => {
      const peer = await peerFor(t, {
        lhlo,
        mail: () => '451 4.3.0 not now',
        rcpt: () => '503 5.5.1 MAIL first',
        data: () => '503 5.5.1 MAIL first',
      });
      const client = await open(peer.port);
      assert.deepEqual(show((await client.deliver(message(['a@x', 'b@x']), soon())).handed), [
        'early 451',
        'early 451',
      ]);
      assert.ok(client.usable);
      client.quit();
    });

    test(`${name}: DATA refused is the reply of those accepted`, async t => {
      const peer = await peerFor(t, {
        lhlo,
        rcpt: line => (line.includes('no') ? '550 no' : '250 OK'),
        data: () => '451 4.3.0 disk',
      });
      const client = await open(peer.port);
      assert.deepEqual(show((await client.deliver(message(['no@x', 'b@x']), soon())).handed), [
        'early 550',
        'early 451',
      ]);
      assert.deepEqual(peer.lines.at(-1), 'RSET');
      assert.ok(client.usable);
      client.quit();
    });

    test(`${name}: a recipient check opens no message`, async t => {
      const peer = await peerFor(t, {
        lhlo,
        rcpt: line => (line.includes('no') ? '550 5.1.1 no' : '250 2.1.5 yes'),
      });
      const client = await open(peer.port);
      assert.deepEqual(show((await client.check('s@x', ['a@x', 'no@x'], soon())).handed), [
        'early 250',
        'early 550',
      ]);
      assert.deepEqual(peer.lines.slice(1), ['MAIL FROM:<s@x>', 'RCPT TO:<a@x>', 'RCPT TO:<no@x>', 'RSET']);
      assert.deepEqual(show((await client.deliver(message(['a@x']), soon())).handed), ['end 250']);
      client.quit();
    });
  }

  test('354 with nobody accepted is answered by a lone dot, and the connection is given up', async t => {
    const peer = await peerFor(t, { rcpt: () => '550 5.1.1 no', data: () => '354 go on' });
    const client = await open(peer.port);
    assert.deepEqual(show((await client.deliver(message(['a@x']), soon())).handed), ['early 550']);
    assert.equal(client.usable, false);
    for (const deadline = soon(1000); peer.messages.length === 0 && realClock.now() < deadline; )
      await new Promise(setImmediate);
    assert.deepEqual(peer.messages, ['.\r\n']);
  });

  test('a UTF-8 address is refused by us, and the others go', async t => {
    const peer = await peerFor(t);
    const client = await open(peer.port);
    const { handed } = await client.deliver(message(['grüße@x', 'a@x', 'a b@x']), soon());
    assert.deepEqual(show(handed), ['no-utf8-route', 'end 250', 'bad-address']);
    client.quit();
  });

  test('a large body is streamed whole, to a node that reads slowly', async t => {
    let length = 0;
    const server = createServer(socket => {
      socket.write('220 x\r\n');
      let seen = '';
      socket.on('data', chunk => {
        if (length === 0 && !seen.includes('DATA')) {
          seen += chunk.toString();
          if (seen === 'LHLO proxy\r\n') socket.write(`${dovecotLhlo}\r\n`);
          if (seen.includes('DATA')) socket.write('250 a\r\n250 b\r\n354 c\r\n');
          return;
        }
        length += chunk.length;
        socket.pause();
        setTimeout(() => socket.resume(), 1);
        if (chunk.subarray(-5).toString() === '\r\n.\r\n') socket.write('250 2.0.0 saved\r\n');
      });
    });
    const port = await listen(t, server);
    const client = await open(port);
    const line = Buffer.from(`${'x'.repeat(998)}\r\n`);
    const open4 = () =>
      Readable.from(
        Array.from({ length: 400 }, () => Buffer.concat(Array.from({ length: 10 }, () => line))),
        { objectMode: false },
      );
    const body = { bytes: 4_000_000, memory: null, open: open4 };
    const { handed } = await client.deliver({ ...message(['a@x']), body }, soon());
    assert.deepEqual(show(handed), ['end 250']);
    assert.equal(length, 4_000_003);
    client.quit();
  });
});

async function listen(t: TestContext, server: ReturnType<typeof createServer>): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', socket => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return new Promise(resolve => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
}

describe('a node that fails', () => {
  const before: [string, Script][] = [
    ['at MAIL', { mail: () => reset }],
    ['at RCPT', { rcpt: () => reset }],
    ['at DATA', { data: () => hangUp }],
    ['mute at MAIL', { mail: () => silence }],
    ['mute at DATA', { data: () => silence }],
    ['with 421 at RCPT', { rcpt: () => '421 4.3.2 shutting down' }],
    ['with garbage', { mail: () => 'what' }],
    ['with 354 too early', { rcpt: () => '354 eh' }],
  ];
  for (const [name, script] of before) {
    test(`before the body (${name}): surely not delivered`, async t => {
      const client = await open((await peerFor(t, script)).port);
      const { handed, stale } = await client.deliver(message(['a@x', 'b@x']), soon());
      for (const each of handed) assert.equal(each.kind, 'unsent');
      assert.equal(stale, false, 'a fresh connection is never stale');
      assert.equal(client.usable, false);
    });
  }

  test('in the middle of the body: surely not delivered', async t => {
    const peer = await peerFor(t, { onBytes: socket => socket.resetAndDestroy() });
    const client = await open(peer.port);
    const big = 'x'.repeat(70).concat('\r\n').repeat(100_000);
    const bytes = Buffer.from(big);
    const chunks = () =>
      Readable.from(
        Array.from({ length: 110 }, (_, i) => bytes.subarray(i * 65536, (i + 1) * 65536)).filter(
          c => c.length > 0,
        ),
        { objectMode: false },
      );
    const { handed } = await client.deliver(
      { ...message(['a@x']), body: { bytes: bytes.length, memory: null, open: chunks } },
      soon(),
    );
    assert.deepEqual(show(handed), ['unsent broke-off']);
  });

  test('that takes no more bytes of a large body: not delivered, within the limit', async t => {
    const peer = await peerFor(t, { onBytes: socket => socket.pause() });
    for (const streamed of [false, true]) {
      const client = await open(peer.port);
      const text = 'y'.repeat(998).concat('\r\n').repeat(16_000);
      const started = realClock.now();
      const { handed } = await client.deliver(message(['a@x'], text, streamed), soon());
      assert.deepEqual(show(handed), ['unsent silent']);
      assert.ok(realClock.now() - started < 2000);
    }
  });

  test('after the dot: in doubt, but who was answered is settled', async t => {
    for (const deed of [reset, hangUp, silence] satisfies Deed[]) {
      const peer = await peerFor(t, { final: (_, i) => (i === 0 ? '250 2.0.0 saved' : deed) });
      const client = await open(peer.port);
      const { handed } = await client.deliver(message(['a@x', 'b@x', 'c@x']), soon(1000));
      // A reset may overtake the reply that was written before it.
      assert.match(show(handed)[0] ?? '', /^(end 250|in-doubt broke-off)$/);
      for (const each of handed.slice(1))
        assert.ok(each.kind === 'in-doubt' || deed === silence, show(handed).join());
      await peer.close();
    }
  });

  test('after the dot with no reply at all: everybody is in doubt, by the deadline', async t => {
    const peer = await peerFor(t, { final: () => silence });
    const client = await open(peer.port, { ...quick, finalMs: 600_000 });
    const started = realClock.now();
    const { handed } = await client.deliver(message(['a@x', 'b@x']), soon(150));
    assert.deepEqual(show(handed), ['in-doubt silent', 'in-doubt silent']);
    assert.ok(realClock.now() - started < 1000);
  });

  test('and answers before the end was sent gets no credit for it', async t => {
    const peer = await peerFor(t, { data: () => '354 go\r\n250 2.0.0 saved already' });
    for (const streamed of [true, false]) {
      const client = await open(peer.port);
      const { handed } = await client.deliver(message(['a@x'], 'long\r\n', streamed), soon());
      assert.deepEqual(show(handed), ['unsent lost-step']);
    }
  });

  test('a body that cannot be read to its end is never sent as a shorter message', async t => {
    const peer = await peerFor(t);
    const bodies = [
      {
        bytes: 100,
        memory: null,
        open: () => Readable.from([Buffer.from('short\r\n')], { objectMode: false }),
      },
      {
        bytes: 100,
        memory: null,
        open: () =>
          new Readable({
            read() {
              this.destroy(new Error('EIO'));
            },
          }),
      },
      { bytes: 100, memory: null, open: () => new Readable({ read() {} }) },
    ];
    for (const body of bodies) {
      const client = await open(peer.port);
      const { handed } = await client.deliver({ ...message(['a@x']), body }, soon());
      assert.deepEqual(show(handed), ['unsent body-failed']);
    }
    assert.deepEqual(peer.messages, []);
  });

  test('a node that replies split at any byte is understood', async t => {
    const replies = [
      '220 x\r\n',
      `${dovecotLhlo}\r\n`,
      '250 2.1.0 a\r\n550-5.1.1 b\r\n550 5.1.1 c\r\n250 2.1.5 d\r\n354 e\r\n',
      '250 2.0.0 saved\r\n',
    ];
    for (const size of [1, 2, 3, 7, 20]) {
      const server = createServer(socket => {
        const say = (text: string) => {
          const parts = text.match(new RegExp(`[^]{1,${size}}`, 'g')) ?? [];
          const next = () => {
            const part = parts.shift();
            if (part !== undefined) socket.write(part, () => setImmediate(next));
          };
          next();
        };
        socket.setNoDelay(true);
        let turn = 0;
        say(replies[turn] ?? '');
        let seen = '';
        socket.on('data', chunk => {
          seen += chunk.toString();
          if (!/(LHLO proxy|DATA|\r\n\.)\r\n$/.test(seen)) return;
          seen = '';
          turn += 1;
          say(replies[turn] ?? '');
        });
      });
      const client = await open(await listen(t, server));
      const { handed } = await client.deliver(message(['a@x', 'b@x']), soon());
      assert.deepEqual(show(handed), ['early 550', 'end 250']);
      client.quit();
    }
  });

  test('greets late, wrongly or not at all: each is told apart', async t => {
    const cases: [Script, string, string | null][] = [
      [{ greeting: silence }, 'silent', 'greeting-timeout'],
      [{ greeting: '421 4.3.2 too many connections' }, 'refused', 'explicit-error'],
      [{ greeting: hangUp }, 'broke-off', null],
      [{ lhlo: silence }, 'silent', 'reply-timeout'],
      [{ lhlo: '500 what' }, 'refused', 'explicit-error'],
    ];
    for (const [script, kind, evidence] of cases) {
      const { port } = await peerFor(t, script);
      const opened = await openLmtp(
        { address: '127.0.0.1', port, ownName: 'proxy', timeouts: quick, clock: realClock },
        soon(),
      );
      assert.ok(!opened.ok);
      assert.deepEqual([opened.fault.kind, opened.fault.evidence], [kind, evidence]);
    }
    const gone = await startPeer();
    await gone.close();
    const opened = await openLmtp(
      { address: '127.0.0.1', port: gone.port, ownName: 'p', timeouts: quick, clock: realClock },
      soon(),
    );
    assert.ok(!opened.ok);
    assert.deepEqual(
      [opened.fault.kind, opened.fault.evidence, opened.fault.text],
      ['unreachable', 'connect-failed', 'ECONNREFUSED'],
    );
  });

  test('a kept connection that died between messages is told as stale, with nothing sent', async t => {
    const peer = await peerFor(t, {
      mail: line => (line.includes('s@x') && peerSeen() > 0 ? reset : '250 OK'),
    });
    const peerSeen = () => peer.messages.length;
    const client = await open(peer.port);
    assert.deepEqual(show((await client.deliver(message(['a@x']), soon())).handed), ['end 250']);
    const second = await client.deliver(message(['a@x']), soon());
    assert.equal(second.stale, true);
    assert.deepEqual(show(second.handed), ['unsent broke-off']);
  });

  test('a goodbye between messages ends the kept connection', async t => {
    const peer = await peerFor(t);
    const client = await open(peer.port);
    const broken = new Promise<void>(resolve => {
      client.onBreak = resolve;
    });
    for (const socket of peer.sockets) socket.write('421 4.4.2 idle too long\r\n');
    await broken;
    assert.equal(client.usable, false);
  });
});

describe('the barrier pulls at a delivery', () => {
  test('before anything was sent it withdraws, after the dot it waits, unless told to break off', async t => {
    const peer = await peerFor(t, { final: () => silence });
    const withdrawn = await open(peer.port);
    const first = await withdrawn.deliver(message(['a@x']), soon(), { pull: 'unless-sent', onPull: null });
    assert.deepEqual(show(first.handed), ['unsent withdrawn']);
    assert.deepEqual(peer.messages, []);

    const client = await open(peer.port, { ...quick, finalMs: 10_000 });
    const leash: { pull: 'none' | 'unless-sent' | 'now'; onPull: (() => void) | null } = {
      pull: 'none',
      onPull: null,
    };
    const running = client.deliver(message(['a@x']), soon(), leash);
    for (const deadline = soon(1000); peer.messages.length === 0 && realClock.now() < deadline; )
      await new Promise(setImmediate);
    leash.pull = 'unless-sent';
    leash.onPull?.();
    assert.ok(client.usable, 'a message past its dot is not broken off');
    leash.pull = 'now';
    leash.onPull?.();
    assert.deepEqual(show((await running).handed), ['in-doubt withdrawn']);
  });
});
