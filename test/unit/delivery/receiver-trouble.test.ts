/** Clients that smuggle, stall, vanish, send garbage or too much; and our own going down. Each is bounded, answered, and costs nothing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import tls from 'node:tls';
import fc from 'fast-check';
import { createBodySpool } from '../../../src/delivery/body.ts';
import { Client, delivered, greeted, openWorld, type Rules, type World, withoutTrace } from './receiving.ts';

const folder = mkdtempSync(join(tmpdir(), 'homing-trouble-'));
after(() => rmSync(folder, { recursive: true }));

async function inWorld(rules: Rules, work: (world: World) => Promise<void>): Promise<void> {
  const world = await openWorld(rules);
  try {
    await work(world);
    await until(() => world.spool.memoryInUseBytes() === 0);
  } finally {
    await world.close();
  }
}

async function until(met: () => boolean): Promise<void> {
  for (const giveUpAtMs = performance.now() + 5000; !met(); ) {
    assert.ok(performance.now() < giveUpAtMs, `not met: ${met}`);
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

/** Descriptors of this process on spooled bodies. */
function openBodies(): number {
  return readdirSync('/proc/self/fd').filter(fd => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes('homing-receive-');
    } catch {
      return false;
    }
  }).length;
}

async function atData(world: World, verb = 'LHLO'): Promise<Client> {
  const client = await greeted(world.port, verb);
  client.write('MAIL FROM:<sue@example.com>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\n');
  assert.deepEqual(
    (await client.replies(3)).map(reply => reply.slice(0, 3)),
    ['250', '250', '354'],
  );
  return client;
}

const smuggled = 'MAIL FROM:<evil@example.com>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nsmuggled\r\n.\r\n';

describe('a message is one message', () => {
  const ends = [
    '\n.\n',
    '\n.\r\n',
    '\r\n.\n',
    '\r.\r',
    '\r\n.\r',
    '\r.\r\n',
    '\n.\r',
    '\n..\r\n',
    '\r\r\n.\n',
    '\r\n.\r\r\n',
  ];
  for (const end of ends) {
    test(`whatever ${JSON.stringify(end)} pretends`, async () => {
      await inWorld({}, async world => {
        const client = await atData(world);
        client.write(`first${end}${smuggled}NOOP\r\n`);
        assert.deepEqual(await client.replies(2), ['250 2.0.0 Saved', '250 2.0.0 OK']);
        assert.equal(world.arrived.length, 1);
        const body = withoutTrace(world.arrived[0]?.body ?? '');
        assert.ok(body.includes('MAIL FROM:<evil@example.com>'));
        assert.equal(/\r(?!\n)|(?<!\r)\n/.test(body), false);
        client.close();
      });
    });

    test(`and where the site refuses bare newlines, ${JSON.stringify(end)} is refused once for each recipient`, async () => {
      await inWorld({ limits: { bareNewline: 'refuse' } }, async world => {
        const client = await atData(world);
        client.write(`first${end}${smuggled}NOOP\r\n`);
        assert.deepEqual(await client.replies(2), ['550 5.6.0 Message has bare CR or LF', '250 2.0.0 OK']);
        assert.equal(world.arrived.length, 0);
        client.close();
      });
    });
  }

  test('any bytes, however they are cut, come out as they went in but for bare newlines', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      const part = fc.constantFrom(
        '\r',
        '\n',
        '.',
        '\r\n',
        '\r\n.\r\n',
        '..',
        'abc',
        'DATA\r\n',
        'QUIT\r\n',
        '\0',
        'ü',
      );
      await fc.assert(
        fc.asyncProperty(
          fc.array(part, { maxLength: 30 }),
          fc.array(fc.nat(120), { maxLength: 4 }),
          async (parts, cuts) => {
            const sent = Buffer.from(parts.join('')).toString('latin1');
            const whole = sent === '' || sent.endsWith('\r\n') ? sent : `${sent}\r\n`;
            const wire = Buffer.from(
              `MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n${whole.replace(/^\./, '..').replaceAll('\r\n.', '\r\n..')}.\r\n`,
              'latin1',
            );
            world.arrived.length = 0;
            let from = 0;
            for (const cut of [...cuts].sort((a, b) => a - b)) {
              client.write(wire.subarray(from, cut));
              from = Math.max(from, cut);
              await new Promise(resolve => setImmediate(resolve));
            }
            client.write(wire.subarray(from));
            assert.deepEqual(
              (await client.replies(4)).map(reply => reply.slice(0, 3)),
              ['250', '250', '354', '250'],
            );
            assert.equal(world.arrived.length, 1);
            assert.equal(withoutTrace(world.arrived[0]?.body ?? ''), whole.replace(/\r\n|\r|\n/g, '\r\n'));
          },
        ),
        { numRuns: 150 },
      );
      client.close();
    });
  });

  test('ten megabytes go through a file and come out whole', async () => {
    await inWorld({}, async world => {
      const client = await atData(world);
      const line = `${'x'.repeat(998)}\r\n`;
      const body = line.repeat(10_000);
      client.write(`${body}.\r\n`);
      assert.equal(await client.reply(), '250 2.0.0 Saved');
      assert.equal(withoutTrace(world.arrived[0]?.body ?? ''), body);
      client.close();
    });
  });
});

describe('too much', () => {
  test('a message over the limit is refused at its end, without being kept, and the next one is welcome', async () => {
    await inWorld({ limits: { maxBytes: 100_000 } }, async world => {
      const client = await atData(world);
      const chunk = 'y'.repeat(998);
      for (let n = 0; n < 50; n++) client.write(`${chunk}\r\n`);
      await until(() => world.spool.memoryInUseBytes() > 0);
      for (let n = 0; n < 450; n++) client.write(`${chunk}\r\n`);
      await until(() => world.spool.memoryInUseBytes() === 0);
      client.write('.\r\n');
      assert.match(await client.reply(), /^552 5\.3\.4/);
      client.write('MAIL FROM:<>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\nok\r\n.\r\n');
      assert.equal((await client.replies(4))[3], '250 2.0.0 Saved');
      assert.equal(world.arrived.length, 1);
      client.close();
    });
  });

  test('a message without end is hung up on', async () => {
    await inWorld({ limits: { maxBytes: 10_000 } }, async world => {
      const client = await atData(world);
      const chunk = Buffer.alloc(64 * 1024, 'z\n');
      const feed = setInterval(() => client.write(chunk), 1);
      assert.match(await client.reply(), /^(421 4\.3\.4|$)/);
      clearInterval(feed);
      client.close();
      await client.ended;
      await until(() => world.receiver.connections() === 0);
    });
  });

  test('a command line without end is hung up on', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      client.write('NOOP '.padEnd(10_000, 'x'));
      assert.match(await client.reply(), /^421 4\.5\.2/);
      await client.ended;
    });
  });

  test('commands without a message come to an end', async () => {
    await inWorld({ limits: { maxIdleCommands: 30 } }, async world => {
      const client = await greeted(world.port);
      client.write('NOOP\r\n'.repeat(1000));
      const replies: string[] = [];
      for (let reply = await client.reply(); reply !== ''; reply = await client.reply()) replies.push(reply);
      assert.equal(replies.length, 30);
      assert.match(replies.at(-1) ?? '', /^421 4\.7\.0/);
    });
  });

  test('but a peer that keeps its connection and brings mail never meets that end', async () => {
    await inWorld({ limits: { maxIdleCommands: 10 } }, async world => {
      const client = await greeted(world.port);
      for (let n = 0; n < 30; n++) {
        client.write('NOOP\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\nx\r\n.\r\nRSET\r\n');
        const replies = await client.replies(6);
        assert.deepEqual(
          replies.map(reply => reply.slice(0, 3)),
          ['250', '250', '250', '354', '250', '250'],
        );
      }
      client.close();
    });
  });

  test("a stranger who guesses at recipients is sent away; the site's own MTA is not", async () => {
    for (const kind of ['smtp', 'lmtp'] as const) {
      await inWorld({ kind, limits: { maxRefusals: 5 } }, async world => {
        const client = await greeted(world.port, kind === 'smtp' ? 'EHLO' : 'LHLO');
        client.write(`MAIL FROM:<>\r\n${'RCPT TO:<x@elsewhere.example>\r\n'.repeat(8)}`);
        const replies = await client.replies(kind === 'smtp' ? 7 : 9);
        assert.match(replies.at(-1) ?? '', kind === 'smtp' ? /^421 4\.7\.0/ : /^550/);
        client.close();
      });
    }
  });

  test('a message that went around too often is refused', async () => {
    await inWorld({ limits: { maxHops: 5 } }, async world => {
      const client = await atData(world);
      client.write(`${'Received: from a by b; now\r\n'.repeat(6)}\r\nx\r\n.\r\n`);
      assert.match(await client.reply(), /^554 5\.4\.6/);
      client.write('MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n');
      await client.replies(3);
      client.write(
        `${'Received: from a\r\n\tby homing.test with LMTP id 1;\r\n now\r\n'.repeat(5)}\r\nx\r\n.\r\n`,
      );
      assert.match(await client.reply(), /^250/);
      client.close();
    });
    await inWorld({ limits: { maxOwnHops: 3 } }, async world => {
      const client = await atData(world);
      client.write(
        `${'Received: from a\r\n\tby homing.test with LMTP id 1;\r\n now\r\n'.repeat(4)}\r\nx\r\n.\r\n`,
      );
      assert.match(await client.reply(), /^554 5\.4\.6/);
      client.close();
    });
  });

  test('garbage is answered and ends', async () => {
    await inWorld({ kind: 'smtp' }, async world => {
      for (const bytes of [
        Buffer.alloc(9000, 0xff),
        Buffer.from('\0\r\n'.repeat(50)),
        Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
        Buffer.from([22, 3, 1, 2, 0, 1, 10]),
      ]) {
        const client = new Client(world.port);
        client.write(bytes);
        client.socket.end();
        await client.ended;
      }
      const client = await greeted(world.port, 'EHLO');
      assert.match(await client.say('MAIL FROM:<\xff\xfe@x>'), /^550 5\.6\.7/);
      client.write(Buffer.from('MAIL FROM:<\xff\xfe@x.example>\r\n', 'latin1'));
      assert.match(await client.reply(), /^501 5\.1\.7 .*UTF-8/);
      assert.match(await client.say('MAIL FROM:<a\rb@example.com>'), /^501/);
      assert.match(await client.say('MAIL FROM:<a\0b@example.com>'), /^501/);
      client.close();
      await until(() => world.receiver.connections() === 0);
    });
  });
});

describe('too slow, or gone', () => {
  test('an idle client is told and closed, however slowly it trickles', async () => {
    await inWorld({ limits: { idleTimeoutMs: 120 } }, async world => {
      const idle = await greeted(world.port);
      const slow = await greeted(world.port);
      const feed = setInterval(() => slow.write('N'), 10);
      assert.match(await idle.reply(), /^421 4\.4\.2/);
      assert.match(await slow.reply(), /^421 4\.4\.2/);
      clearInterval(feed);
      await Promise.all([idle.ended, slow.ended]);
    });
  });

  test('a client that connects and says nothing is closed', async () => {
    await inWorld({ limits: { idleTimeoutMs: 60 } }, async world => {
      const client = new Client(world.port);
      assert.deepEqual(
        (await client.replies(2)).map(reply => reply.slice(0, 3)),
        ['220', '421'],
      );
    });
  });

  test('a message that stalls, and one that trickles past its time, end with nothing delivered', async () => {
    await inWorld({ limits: { stallTimeoutMs: 80, bodyTimeoutMs: 300 } }, async world => {
      const stalled = await atData(world);
      stalled.write('half a mess');
      const slow = await atData(world);
      const feed = setInterval(() => slow.write('a'), 10);
      assert.match(await stalled.reply(), /^421 4\.4\.2/);
      assert.match(await slow.reply(), /^421 4\.4\.2/);
      clearInterval(feed);
      assert.equal(world.arrived.length, 0);
    });
  });

  test('a client that vanishes inside DATA leaves nothing behind', async () => {
    await inWorld({}, async world => {
      for (const bytes of [10, 300_000]) {
        const client = await atData(world);
        client.write('v'.repeat(bytes));
        client.write('\r\n.\r');
        await until(() => (bytes < 1000 ? world.spool.memoryInUseBytes() > 10 : openBodies() === 1));
        client.close();
        await until(() => world.receiver.connections() === 0 && world.spool.memoryInUseBytes() === 0);
        await until(() => openBodies() === 0);
      }
      assert.equal(world.arrived.length, 0);
    });
  });

  test('a client that goes without QUIT is gone at once, wherever it was: nothing holds its place until a timeout', async () => {
    await inWorld({}, async world => {
      for (const lines of ['', 'LHLO c\r\n', 'LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<joe@example.org>\r\n']) {
        for (const go of ['end', 'destroy', 'resetAndDestroy'] as const) {
          const client = new Client(world.port);
          client.write(lines);
          await until(() => world.receiver.connections() === 1);
          client.socket[go]();
          await until(() => world.receiver.connections() === 0);
          client.close();
        }
      }
    });
  });

  test('a half command before the end of the connection is not run', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      await client.say('MAIL FROM:<>');
      client.write('RCPT TO:<joe@example.org>');
      client.socket.end();
      await client.ended;
      assert.deepEqual(world.asked, []);
    });
  });

  test('a client that vanishes after the final dot has its message delivered, and the log says so', async () => {
    let go = (): void => undefined;
    const outcome: Rules['outcome'] = () =>
      new Promise(resolve => {
        go = () => resolve(delivered);
      });
    await inWorld({ outcome }, async world => {
      const client = await atData(world);
      client.write('x\r\n.\r\n');
      await until(() => world.arrived.length === 1);
      client.close();
      await until(() => world.receiver.connections() === 0);
      go();
      await until(() => world.logged.some(line => /client gone/.test(String(line.msg))));
    });
  });

  test('a client that never reads its replies is closed and costs little', async () => {
    await inWorld({ limits: { idleTimeoutMs: 150, maxIdleCommands: 1_000_000 } }, async world => {
      const client = new Client(world.port);
      client.socket.pause();
      await until(() => world.receiver.connections() === 1);
      for (let n = 0; n < 200; n++) client.write('HELP\r\n'.repeat(1000));
      await until(() => world.receiver.connections() === 0);
      client.close();
    });
  });

  test('a full disk is 452 or 451 for the message, and the next one is welcome', async () => {
    const openFile = async () => openSync('/dev/full', 'w');
    const spool = createBodySpool({ folder, memoryBytes: 1000, openFile });
    await inWorld({ spool }, async world => {
      const client = await atData(world);
      client.write(`${'x'.repeat(200_000)}\r\n.\r\n`);
      assert.match(await client.reply(), /^45[12] 4\.3\.1/);
      client.write('MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\nx\r\n.\r\n');
      assert.match((await client.replies(4))[3] ?? '', /^250/);
      client.close();
    });
    assert.equal(spool.memoryInUseBytes(), 0);
  });
});

describe('going down', () => {
  test('idle clients are told, a message under way is finished, new ones are turned away', async () => {
    let go = (): void => undefined;
    const outcome: Rules['outcome'] = () =>
      new Promise(resolve => {
        go = () => resolve(delivered);
      });
    await inWorld({ outcome }, async world => {
      const idle = await greeted(world.port);
      const busy = await atData(world);
      const begun = await greeted(world.port);
      await begun.say('MAIL FROM:<>');
      const drained = world.receiver.drain(5000);
      assert.match(await idle.reply(), /^421 4\.3\.2/);
      const late = new Client(world.port);
      assert.match(await late.reply(), /^421 4\.3\.2/);
      assert.match(await begun.say('RSET'), /^250/);
      assert.match(await begun.say('MAIL FROM:<>'), /^421 4\.3\.2/);
      busy.write('x\r\n.\r\n');
      await until(() => world.arrived.length === 1);
      go();
      assert.deepEqual(await busy.replies(2), [
        '250 2.0.0 Saved',
        '421 4.3.2 This proxy is shutting down, try again soon',
      ]);
      await drained;
      assert.equal(world.receiver.connections(), 0);
    });
  });

  test('what is not over by the limit is cut, and a delivery that hangs holds nobody', async () => {
    await inWorld(
      { outcome: () => new Promise(resolve => setTimeout(() => resolve(delivered), 300)) },
      async world => {
        const open = await atData(world);
        const busy = await atData(world);
        busy.write('x\r\n.\r\n');
        await until(() => world.arrived.length === 1);
        await world.receiver.drain(30);
        await Promise.all([open.ended, busy.ended]);
        assert.equal(await busy.reply(), '');
      },
    );
  });

  test('a delivery whose client is gone still counts as under way', async () => {
    await inWorld(
      { outcome: () => new Promise(resolve => setTimeout(() => resolve(delivered), 60)) },
      async world => {
        const client = await atData(world);
        client.write('x\r\n.\r\n');
        await until(() => world.arrived.length === 1);
        client.close();
        await world.receiver.drain(5000);
        assert.ok(world.logged.some(line => /client gone/.test(String(line.msg))));
      },
    );
  });
});

describe('STARTTLS', () => {
  const key = join(folder, 'key.pem');
  const cert = join(folder, 'cert.pem');
  const words =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=homing.test -keyout'.split(
      ' ',
    );
  execFileSync('openssl', [...words, key, '-out', cert], { stdio: 'ignore' });
  const context = tls.createSecureContext({ key: readFileSync(key), cert: readFileSync(cert) });

  test('carries the dialogue on encrypted, forgets what was said before, and drops what was pipelined behind it', async () => {
    await inWorld({ kind: 'smtp', tls: () => context }, async world => {
      const client = await greeted(world.port, 'EHLO');
      client.write(
        'NOOP\r\nMAIL FROM:<evil@example.com>\r\nSTARTTLS\r\nRCPT TO:<joe@example.org>\r\nNOOP\r\n',
      );
      assert.deepEqual(
        (await client.replies(3)).map(reply => reply.slice(0, 3)),
        ['250', '250', '220'],
      );
      client.socket.removeAllListeners('data');
      client.socket.setEncoding();
      const secure = tls.connect({ socket: client.socket, rejectUnauthorized: false });
      secure.setEncoding('utf8');
      let text = '';
      secure.on('data', piece => {
        text += piece;
      });
      await new Promise(resolve => secure.once('secureConnect', resolve));
      assert.equal(secure.getPeerCertificate().subject.CN, 'homing.test');
      secure.write('MAIL FROM:<sue@example.com>\r\n');
      await until(() => text.endsWith('\r\n'));
      assert.match(text, /^503 /);
      secure.write(
        'EHLO c\r\nMAIL FROM:<sue@example.com>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n',
      );
      await until(() => /221 /.test(text));
      assert.doesNotMatch(text, /STARTTLS/);
      assert.equal(world.arrived.length, 1);
      assert.match(world.arrived[0]?.body ?? '', /with ESMTPS id/);
      assert.equal(world.asked.length, 1);
      secure.destroy();
    });
  });

  test('a client that goes during the handshake, or behind it, is gone at once', async () => {
    await inWorld({ kind: 'smtp', tls: () => context }, async world => {
      const early = await greeted(world.port, 'EHLO');
      assert.match(await early.say('STARTTLS'), /^220/);
      early.socket.end();
      await until(() => world.receiver.connections() === 0);
      const late = await greeted(world.port, 'EHLO');
      assert.match(await late.say('STARTTLS'), /^220/);
      late.socket.removeAllListeners('data');
      const secure = tls.connect({ socket: late.socket, rejectUnauthorized: false });
      secure.on('error', () => undefined);
      await new Promise(resolve => secure.once('secureConnect', resolve));
      late.socket.destroy();
      await until(() => world.receiver.connections() === 0);
      early.close();
    });
  });

  test('is offered only where there is a certificate, and never again inside TLS', async () => {
    await inWorld({ tls: () => context }, async world => {
      const client = new Client(world.port);
      await client.reply();
      assert.match(await client.say('LHLO c'), /STARTTLS/);
      client.close();
    });
  });
});
