/** The receiver as clients see it: LMTP and SMTP over a real socket, nodes of paper behind. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Place, Reply } from '../../../src/core/types.ts';
import {
  atHome,
  Client,
  delivered,
  greeted,
  openWorld,
  type Rules,
  type World,
  withoutTrace,
  yes,
} from './receiving.ts';

async function inWorld(rules: Rules, work: (world: World) => Promise<void>): Promise<void> {
  const world = await openWorld(rules);
  try {
    await work(world);
    assert.equal(world.spool.memoryInUseBytes(), 0);
  } finally {
    await world.close();
  }
}

const message = 'Subject: x\r\n\r\nhello\r\n';

describe('LMTP', () => {
  test('greets at once, and offers what works now and nothing else', async () => {
    await inWorld({}, async world => {
      const client = new Client(world.port);
      const startedAtMs = performance.now();
      assert.equal(await client.reply(), '220 homing.test LMTP');
      assert.ok(performance.now() - startedAtMs < 90);
      assert.equal(
        await client.say('LHLO me'),
        '250-homing.test\n250-PIPELINING\n250-SIZE 104857600\n250-8BITMIME\n250 ENHANCEDSTATUSCODES',
      );
      assert.match(await client.say('QUIT'), /^221 /);
      await client.ended;
    });
  });

  test('one message for two recipients gets a reply each, and carries our trace', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      assert.equal(await client.say('MAIL FROM:<sue@example.com> BODY=8BITMIME SIZE=21'), '250 2.1.0 OK');
      assert.equal(await client.say('RCPT TO:<joe@example.org>'), '250 2.1.5 OK');
      assert.equal(await client.say('RCPT TO:<Ann+list@Example.Org>'), '250 2.1.5 OK');
      assert.equal(await client.say('DATA'), '354 End data with <CR><LF>.<CR><LF>');
      client.write(`${message}.\r\n`);
      assert.deepEqual(await client.replies(2), ['250 2.0.0 Saved', '250 2.0.0 Saved']);
      const [got] = world.arrived;
      assert.ok(got);
      assert.deepEqual(got.to, ['joe@example.org', 'Ann+list@example.org']);
      assert.deepEqual(
        got.recipients.map(each => [each.index, each.user, each.detail]),
        [
          [0, 'joe@example.org', ''],
          [1, 'ann@example.org', 'list'],
        ],
      );
      assert.equal(withoutTrace(got.body), message);
      assert.match(
        got.body,
        /^Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n\tby homing\.test with LMTP id [0-9a-z]+;\r\n\t\w{3}, /,
      );
      assert.equal(got.letter.from, 'sue@example.com');
      assert.equal(got.letter.eightBit, true);
      assert.match(got.options.client ?? '', /^127\.0\.0\.1:\d+$/);
      assert.equal(new Set(got.recipients.map(each => each.maildirName)).size, 2);
      for (const each of got.recipients)
        assert.match(each.maildirName, /^\d+\.M\d+P\d+Q\d+R[0-9a-z]+\.homing\.test$/);
      client.close();
    });
  });

  test('a recipient named twice, or three times in other case, gets as many final replies as it was accepted', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      client.write(
        'MAIL FROM:<>\r\nRCPT TO:<joe@example.org>\r\nRCPT TO:<joe@example.org>\r\nRCPT TO:<JOE@example.org>\r\nDATA\r\n',
      );
      assert.deepEqual(
        (await client.replies(5)).map(reply => reply.slice(0, 3)),
        ['250', '250', '250', '250', '354'],
      );
      client.write(`${message}.\r\nNOOP\r\n`);
      const replies = await client.replies(4);
      assert.deepEqual(
        replies.map(reply => reply.slice(0, 9)),
        ['250 2.0.0', '250 2.0.0', '250 2.0.0', '250 2.0.0'],
      );
      assert.equal(replies[3], '250 2.0.0 OK');
      assert.deepEqual(world.arrived[0]?.to, ['joe@example.org', 'joe@example.org', 'JOE@example.org']);
      client.close();
    });
  });

  test("each recipient gets its own outcome, in the order of RCPT, in the node's own words", async () => {
    const outcome: Rules['outcome'] = ({ user }) =>
      user.startsWith('full')
        ? {
            kind: 'rejected',
            courier: 'node',
            node: 'mail1',
            reply: { code: 552, enhanced: '5.2.2', lines: ['Mailbox is full', 'Ask for more'] },
          }
        : user.startsWith('late')
          ? {
              kind: 'deferred',
              courier: 'node',
              node: 'mail1',
              reply: { code: 451, enhanced: null, lines: ['Not now'] },
            }
          : delivered;
    await inWorld({ outcome }, async world => {
      const client = await greeted(world.port);
      client.write(
        'MAIL FROM:<a@b.example>\r\nRCPT TO:<full@example.org>\r\nRCPT TO:<joe@example.org>\r\nRCPT TO:<late@example.org>\r\nDATA\r\n',
      );
      await client.replies(5);
      client.write(`${message}.\r\n`);
      assert.deepEqual(await client.replies(3), [
        '552-5.2.2 Mailbox is full\n552 5.2.2 Ask for more',
        '250 2.0.0 Saved',
        '451 Not now',
      ]);
      client.close();
    });
  });

  test('a whole dialogue arrives the same whole, byte by byte, and cut at every point', async () => {
    const wire = Buffer.from(
      'LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<x@other.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n' +
        'S: x\r\n\r\n..\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n.\r\nQUIT\r\n',
    );
    await inWorld({}, async world => {
      const talk = async (pieces: readonly Buffer[]) => {
        world.arrived.length = 0;
        const client = new Client(world.port);
        const replies = [await client.reply()];
        for (const piece of pieces) {
          client.write(piece);
          await new Promise(resolve => setImmediate(resolve));
        }
        for (let reply = await client.reply(); reply !== ''; reply = await client.reply())
          replies.push(reply);
        return {
          codes: replies.map(reply => reply.slice(0, 3)),
          bodies: world.arrived.map(each => [each.to, withoutTrace(each.body)]),
        };
      };
      const whole = await talk([wire]);
      assert.deepEqual(whole.codes, [
        '220',
        '250',
        '250',
        '250',
        '550',
        '250',
        '354',
        '250',
        '250',
        '250',
        '250',
        '354',
        '250',
        '221',
      ]);
      assert.deepEqual(whole.bodies, [
        [['a@example.org', 'b@example.org'], 'S: x\r\n\r\n.\r\n'],
        [['c@example.org'], ''],
      ]);
      for (let at = 1; at < wire.length; at++)
        assert.deepEqual(await talk([wire.subarray(0, at), wire.subarray(at)]), whole, `cut at ${at}`);
      assert.deepEqual(await talk(Array.from(wire, byte => Buffer.from([byte]))), whole);
    });
  });

  test('pipelined recipients are asked side by side and answered in order', async () => {
    const waiting: (() => void)[] = [];
    const verifyAtNode: Rules['verifyAtNode'] = (_node, _from, rcpt) =>
      new Promise<Reply>(resolve => {
        waiting.push(() => resolve({ code: 250, enhanced: '2.1.5', lines: [rcpt] }));
        if (waiting.length === 3) for (const go of waiting.reverse()) go();
      });
    await inWorld({ verifyAtNode }, async world => {
      const client = await greeted(world.port);
      client.write(
        'MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n',
      );
      assert.deepEqual(await client.replies(5), [
        '250 2.1.0 OK',
        '250 2.1.5 a@example.org',
        '250 2.1.5 b@example.org',
        '250 2.1.5 c@example.org',
        '354 End data with <CR><LF>.<CR><LF>',
      ]);
      client.write('.\r\n');
      await client.replies(3);
      assert.deepEqual(world.arrived[0]?.to, ['a@example.org', 'b@example.org', 'c@example.org']);
      client.close();
    });
  });

  test('three hundred pipelined recipients are all answered', async () => {
    const verifyAtNode: Rules['verifyAtNode'] = async () => {
      await new Promise(resolve => setImmediate(resolve));
      return yes;
    };
    await inWorld({ verifyAtNode }, async world => {
      const client = await greeted(world.port);
      const rcpts = Array.from({ length: 300 }, (_, n) => `RCPT TO:<u${n}@example.org>\r\n`).join('');
      client.write(`MAIL FROM:<>\r\n${rcpts}DATA\r\n${message}.\r\n`);
      const replies = await client.replies(1 + 300 + 1 + 300);
      assert.deepEqual(new Set(replies.map(reply => reply.slice(0, 3))), new Set(['250', '354']));
      assert.equal(world.arrived[0]?.to.length, 300);
      client.close();
    });
  });

  test('a dispatch that breaks, or forgets someone, still leaves one reply for each recipient', async () => {
    const mangles: readonly Rules['mangle'][] = [
      () => {
        throw new Error('bug');
      },
      () => [],
      all => all.slice(0, 1),
    ];
    for (const mangle of mangles) {
      await inWorld({ ...(mangle === undefined ? {} : { mangle }) }, async world => {
        const client = await greeted(world.port);
        client.write('MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n');
        await client.replies(4);
        client.write(`${message}.\r\nQUIT\r\n`);
        const replies = await client.replies(3);
        assert.match(replies[1] ?? '', /^451 /);
        assert.match(replies[2] ?? '', /^221 /);
      });
    }
  });

  test('BDAT is not offered: refused, and its chunk never read as commands', async () => {
    await inWorld({}, async world => {
      const client = await greeted(world.port);
      client.write('MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nBDAT 12 LAST\r\nDATA\r\nQUIT\r\nNOOP\r\n');
      assert.deepEqual(await client.replies(4), [
        '250 2.1.0 OK',
        '250 2.1.5 OK',
        '502 5.5.1 BDAT is not offered',
        '250 2.0.0 OK',
      ]);
      assert.match(await client.say('BDAT 99999999999999'), /^421 4\.5\.1/);
      await client.ended;
    });
  });
});

describe('recipients', () => {
  const rcpt = async (rules: Rules, address: string): Promise<string> => {
    let reply = '';
    await inWorld(rules, async world => {
      const client = await greeted(world.port);
      await client.say('MAIL FROM:<sue@example.com>');
      reply = await client.say(`RCPT TO:<${address}>`);
      client.close();
    });
    return reply;
  };
  const says = (reply: Reply): Rules => ({ verifyAtNode: async () => reply });
  const unreachable = says({ code: 451, enhanced: '4.4.1', lines: ['no'] });
  const noSuchUser: Reply = {
    code: 550,
    enhanced: '5.1.1',
    lines: ['<joe@example.org> No such user', 'really'],
  };
  const failedOver = (): Place => ({ kind: 'failover', homeDown: true, node: 'mail2', why: 'mail1 is down' });

  test('of other domains are refused: no open relay', async () => {
    assert.equal(await rcpt({}, 'joe@elsewhere.example'), '550 5.7.1 Relaying denied');
    assert.equal(await rcpt({}, 'joe%elsewhere.example@[127.0.0.1]'), '550 5.7.1 Relaying denied');
    assert.match(await rcpt({}, '@example.org:joe@elsewhere.example'), /^550 5\.7\.1/);
    assert.match(await rcpt({}, '"joe@example.org"@elsewhere.example'), /^550 5\.7\.1/);
    assert.match(await rcpt({}, 'joe@elsewhere.example@example.org'), /^501 5\.1\.3/);
  });
  test('that the node refuses get its words, all lines of them', async () => {
    assert.equal(
      await rcpt(says(noSuchUser), 'joe@example.org'),
      '550-5.1.1 <joe@example.org> No such user\n550 5.1.1 really',
    );
    assert.equal(
      await rcpt(says({ code: 452, enhanced: '4.2.2', lines: ['over quota'] }), 'joe@example.org'),
      '452 4.2.2 over quota',
    );
  });
  test('of a node that is away are accepted where their spool vouches for them, else tried later, never refused', async () => {
    assert.equal(
      await rcpt({ ...unreachable, verifyInSpool: async () => 'present' }, 'joe@example.org'),
      '250 2.1.5 OK',
    );
    for (const presence of ['absent', 'unknown'] as const) {
      assert.match(
        await rcpt({ ...unreachable, verifyInSpool: async () => presence }, 'joe@example.org'),
        /^451 4\.4\.3/,
      );
    }
    const broken: Rules = {
      verifyAtNode: () => Promise.reject(new Error('bug')),
      verifyInSpool: () => Promise.reject(new Error('bug')),
    };
    assert.match(await rcpt(broken, 'joe@example.org'), /^451 4\.4\.3/);
  });
  test('of a node that says nothing fall back to the spool in time', async () => {
    const rules: Rules = {
      verifyAtNode: () => new Promise(() => undefined),
      verifyInSpool: async () => 'present',
      limits: { verifyTimeoutMs: 30 },
    };
    assert.equal(await rcpt(rules, 'joe@example.org'), '250 2.1.5 OK');
  });
  test('are refused for good by their own node alone, not by the one that stands in', async () => {
    assert.match(await rcpt({ ...says(noSuchUser), place: failedOver }, 'joe@example.org'), /^451 4\.4\.3/);
    assert.match(await rcpt({ ...says(yes), place: failedOver }, 'joe@example.org'), /^250/);
  });
  test('whose place is held or none are not asked about at any node', async () => {
    const rules: Rules = {
      place: () => ({ kind: 'held', node: 'mail1', why: 'fence' }),
      verifyAtNode: () => assert.fail('asked'),
      verifyInSpool: async () => 'present',
    };
    assert.equal(await rcpt(rules, 'joe@example.org'), '250 2.1.5 OK');
  });
  test('with UTF-8 addresses need SMTPUTF8', async () => {
    assert.match(await rcpt({}, 'jürgen@example.org'), /^550 5\.6\.7/);
    assert.equal(await rcpt({ smtpUtf8: true }, 'jürgen@example.org'), '250 2.1.5 OK');
  });
  test('that are garbage are refused as such', async () => {
    for (const address of ['', 'joe', '.', 'a b@example.org', `${'x'.repeat(65)}@example.org`]) {
      assert.match(await rcpt({}, address), /^501 5\.1\.3/, address);
    }
    assert.match(await rcpt({}, '../../etc@example.org'), /^553 5\.1\.3/);
  });
  test('beyond the limit are told to come in another message', async () => {
    await inWorld({ limits: { maxRecipients: 2 } }, async world => {
      const client = await greeted(world.port);
      await client.say('MAIL FROM:<>');
      await client.say('RCPT TO:<a@example.org>');
      assert.match(await client.say('RCPT TO:<x@elsewhere.example>'), /^550/);
      await client.say('RCPT TO:<b@example.org>');
      assert.match(await client.say('RCPT TO:<c@example.org>'), /^452 4\.5\.3/);
      client.close();
    });
  });
  test('of another home than the first are put off where the site wants one home a message', async () => {
    const place = (user: string) => atHome(user.startsWith('a') ? 'mail1' : 'mail2');
    await inWorld({ multiHome: 'pin-first', place }, async world => {
      const client = await greeted(world.port);
      await client.say('MAIL FROM:<>');
      assert.match(await client.say('RCPT TO:<a1@example.org>'), /^250/);
      assert.match(await client.say('RCPT TO:<b@example.org>'), /^452 4\.5\.3/);
      assert.match(await client.say('RCPT TO:<a2@example.org>'), /^250/);
      client.close();
    });
  });
});

describe('the order of commands', () => {
  test('is held', async () => {
    await inWorld({}, async world => {
      const client = new Client(world.port);
      await client.reply();
      assert.match(await client.say('MAIL FROM:<>'), /^503 5\.5\.1/);
      assert.match(await client.say('EHLO x'), /^500 /);
      assert.match(await client.say('LHLO'), /^501 /);
      await client.say('LHLO x');
      assert.match(await client.say('RCPT TO:<a@example.org>'), /^503 5\.5\.1/);
      assert.match(await client.say('DATA'), /^503 5\.5\.1/);
      assert.match(await client.say('MAIL FROM:<> SIZE=1 SIZE=2'), /^501/);
      assert.match(await client.say('MAIL FROM:<> RET=HDRS'), /^555 5\.5\.4/);
      assert.match(await client.say('MAIL FROM:<> SMTPUTF8'), /^555 5\.5\.4/);
      assert.match(await client.say('MAIL FROM:<> BODY=BINARYMIME'), /^501/);
      assert.match(await client.say('MAIL FROM:<> SIZE=999999999999'), /^552 5\.3\.4/);
      assert.match(await client.say('MAIL FROM:<>'), /^250/);
      assert.match(await client.say('MAIL FROM:<>'), /^503/);
      assert.match(await client.say('DATA'), /^503 5\.5\.1 No valid/);
      assert.match(await client.say('RCPT TO:<a@example.org> NOTIFY=NEVER'), /^555/);
      assert.match(await client.say('RCPT TO:<a@example.org>'), /^250/);
      assert.match(await client.say('RSET'), /^250/);
      assert.match(await client.say('DATA'), /^503/);
      for (const verb of [
        'WIZ x',
        'SHELL',
        'KILL',
        'AUTH PLAIN x',
        'XCLIENT ADDR=1.2.3.4',
        'XFORWARD NAME=x',
        'FOO',
      ]) {
        assert.match(await client.say(verb), /^500 /, verb);
      }
      assert.match(await client.say('STARTTLS'), /^502 5\.5\.1/);
      client.close();
    });
  });

  test('no reply carries two enhanced codes', async () => {
    await inWorld({ kind: 'smtp' }, async world => {
      const client = await greeted(world.port, 'EHLO');
      for (const line of [
        'NOOP',
        'RSET',
        'VRFY x',
        'HELP',
        'FOO',
        'MAIL FROM:<>',
        'RCPT TO:<x@y.example>',
        'RCPT TO:<a@example.org>',
        'QUIT',
      ]) {
        const reply = await client.say(line);
        assert.match(reply, /^\d{3} [245]\.\d+\.\d+ (?![245]\.\d+\.\d)/, line);
      }
    });
  });
});
