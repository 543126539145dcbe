/**
 * Mail through the whole of Homing to three real Dovecot nodes that are well: who hands it over, who is refused and in whose words,
 * that one message in is one message out, and what is written on and about it.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { numbersByImap } from '../lab/imap-count.ts';
import { greet, type MailTalk, openMailTalk, send } from '../lab/mail.ts';
import { waitFor } from '../lab/wait.ts';
import {
  kinds,
  type MailWorld,
  nextNumber,
  nodeNames,
  numberedMessage,
  startMailWorld,
} from './mail-world.ts';

let world: MailWorld;
before(async () => {
  world = await startMailWorld({ name: 'mail', usersEach: 40 });
});
after(() => world?.end());

async function talkTo(kind: 'lmtp' | 'smtp'): Promise<MailTalk> {
  const talk = await openMailTalk({ address: '127.0.0.1', port: world.homing.ports[kind] ?? 0 });
  assert.equal((await greet(talk, kind)).code, 250);
  return talk;
}

/** MAIL, RCPT and DATA are accepted; then these bytes as they are, and the replies for `count` recipients. */
async function sendRaw(
  kind: 'lmtp' | 'smtp',
  to: readonly string[],
  bytes: string | Buffer,
): Promise<number[]> {
  const talk = await talkTo(kind);
  await talk.ask('MAIL FROM:<raw@example.net>');
  for (const each of to) assert.equal((await talk.ask(`RCPT TO:<${each}>`)).code, 250);
  assert.equal((await talk.ask('DATA')).code, 354);
  talk.write(bytes);
  const codes: number[] = [];
  for (const _ of kind === 'lmtp' ? to : ['all']) codes.push((await talk.reply()).code);
  // Nothing more was taken for a command or a message.
  talk.write('NOOP\r\n');
  assert.equal((await talk.reply()).code, 250);
  assert.equal((await talk.ask('QUIT')).code, 221);
  talk.close();
  return codes;
}

describe('a message for users of all nodes', () => {
  for (const kind of ['lmtp', 'smtp'] as const) {
    test(`by ${kind.toUpperCase()}: each user's copy is handed over by its home node, and by no other`, async () => {
      const to = nodeNames.flatMap(name => world.usersOf(name).slice(0, 2));
      const { number, receipts } = await world.send(kind, to);
      assert.deepEqual(
        kinds(receipts),
        to.map(() => 'acknowledged'),
      );
      assert.equal((await world.savedBy(number, to.length)).length, to.length);
      for (const user of to) {
        assert.equal(await world.count(user, number), 1, user);
        const saved = nodeNames.filter(name =>
          world
            .node(name)
            .logText()
            .split('\n')
            .some(line => line.includes(`lmtp(${user})`) && line.includes(`<number.${number}@`)),
        );
        assert.deepEqual(saved, [world.homeOf(user)], `${user} by the nodes' own logs`);
      }
    });

    test(`by ${kind.toUpperCase()}: a hundred recipients over three nodes all have it once`, async () => {
      const to = world.users.slice(0, 100);
      const { number, receipts } = await world.send(kind, to);
      assert.deepEqual(new Set(kinds(receipts)), new Set(['acknowledged']));
      for (const user of to) assert.equal(await world.count(user, number), 1, user);
      assert.equal((await world.savedBy(number, to.length)).length, to.length);
    });

    test(`by ${kind.toUpperCase()}: twenty megabytes arrive whole at three nodes`, async () => {
      const to = nodeNames.map(name => world.usersOf(name)[3] ?? '');
      const { number, receipts } = await world.send(kind, to, {
        bodyBytes: 20_000_000,
        replyLimitMs: 60_000,
      });
      assert.deepEqual(
        kinds(receipts),
        to.map(() => 'acknowledged'),
      );
      const sent = numberedMessage({ number, to: to[0] ?? '', bodyBytes: 20_000_000 });
      for (const user of to) {
        const text = (await world.stored(user, number)).replace(/\r?\n/g, '\r\n');
        assert.ok(text.endsWith(sent), `${user} has it to the last byte`);
      }
    });
  }

  test('is read once through IMAP where it was sent by SMTP', async () => {
    const user = world.usersOf('mail2')[5] ?? '';
    const { number } = await world.send('smtp', user);
    const found = await numbersByImap({ port: world.homing.ports.imap ?? 0, user });
    assert.equal(found.get(number), 1);
  });
});

describe('LMTP replies', () => {
  test('one for each accepted recipient, duplicates and other spellings included, and the link stays in step', async () => {
    const [one = '', two = ''] = [world.usersOf('mail1')[4], world.usersOf('mail3')[4]];
    const to = [one, two, one, one.toUpperCase(), one.replace('@', '+tag@'), two, one];
    const talk = await talkTo('lmtp');
    const first = nextNumber();
    const receipts = await send(talk, {
      ...{ kind: 'lmtp', from: 'dup@example.net', to },
      message: numberedMessage({ number: first, to: one }),
    });
    assert.deepEqual(
      kinds(receipts),
      to.map(() => 'acknowledged'),
    );
    const second = nextNumber();
    const again = await send(talk, {
      ...{ kind: 'lmtp', from: 'dup@example.net', to: [two] },
      message: numberedMessage({ number: second, to: two }),
    });
    assert.deepEqual(kinds(again), ['acknowledged']);
    talk.close();
    assert.ok((await world.count(one, first)) >= 1);
    assert.equal(await world.count(two, first), 1);
    assert.equal(await world.count(two, second), 1);
  });

  test('a recipient that the node refuses is refused at RCPT, and the others have their replies in order', async () => {
    const talk = await talkTo('lmtp');
    await talk.ask('MAIL FROM:<order@example.net>');
    const to = [
      world.usersOf('mail1')[5],
      'nobody@example.org',
      world.usersOf('mail2')[5],
      'none@example.org',
    ];
    const codes: number[] = [];
    for (const each of to) codes.push((await talk.ask(`RCPT TO:<${each}>`)).code);
    assert.deepEqual(codes, [250, 550, 250, 550]);
    assert.equal((await talk.ask('DATA')).code, 354);
    talk.write(`${numberedMessage({ number: nextNumber(), to: 'x@example.org' })}.\r\n`);
    const replies = [await talk.reply(), await talk.reply()];
    assert.deepEqual(
      replies.map(each => [each.code, /<(.*?)>/.exec(each.text)?.[1]]),
      [
        [250, to[0]],
        [250, to[2]],
      ],
    );
    assert.equal((await talk.ask('NOOP')).code, 250);
    talk.close();
  });
});

describe('who is refused', () => {
  test('a user whom no node knows: 550 at RCPT in the words of its home node', async () => {
    for (const kind of ['lmtp', 'smtp'] as const) {
      for (const address of ['stranger@example.org', 'stranger2@example.org', 'stranger5@example.org']) {
        const place = await world.placeOf(address);
        const node = world.node('node' in place ? (place.node as 'mail1') : 'mail1');
        const there = await openMailTalk({ address: node.address, port: node.ports.lmtp });
        await greet(there, 'lmtp');
        await there.ask('MAIL FROM:<a@example.net>');
        const own = await there.ask(`RCPT TO:<${address}>`);
        there.close();
        const talk = await talkTo(kind);
        await talk.ask('MAIL FROM:<a@example.net>');
        const reply = await talk.ask(`RCPT TO:<${address}>`);
        talk.close();
        assert.equal(reply.code, 550);
        assert.deepEqual(reply, own);
      }
    }
  });

  test('whoever would relay through us, whatever the address looks like: 550 5.7.1, and no node hears of it', async () => {
    const [user = ''] = world.users;
    const [local = ''] = user.split('@');
    const tricks = [
      'victim@example.com',
      'victim@EXAMPLE.COM',
      'victim@example.org.example.com',
      'victim@sub.example.org',
      'victim@xexample.org',
      `"${user}"@example.com`,
      `${local}%example.org@example.com`,
      `@example.org:victim@example.com`,
      `@example.com,@example.org:victim@example.com`,
      'victim@[127.0.0.1]',
      'victim@[IPv6:::1]',
      'victim@localhost',
      // Look-alikes: Cyrillic о and е, fullwidth letters, a zero-width joiner, a soft hyphen.
      'victim@example.оrg',
      'victim@еxample.org',
      'victim@ｅxample.org.com',
      'victim@exam\u200dple.org',
      'victim@exam\u00adple.org',
    ];
    for (const kind of ['lmtp', 'smtp'] as const) {
      for (const trick of tricks) {
        const talk = await talkTo(kind);
        assert.equal(
          (
            await talk
              .ask('MAIL FROM:<spam@example.net> SMTPUTF8')
              .then(r => (r.code === 250 ? r : talk.ask('MAIL FROM:<spam@example.net>')))
          ).code,
          250,
        );
        const reply = await talk.ask(`RCPT TO:<${trick}>`);
        talk.close();
        assert.ok(reply.code >= 500, `${kind} ${trick}: ${reply.code} ${reply.text}`);
        assert.doesNotMatch(reply.text, /OK/);
        if (/^[\x20-\x7e]*$/.test(trick)) {
          assert.match(`${reply.code} ${reply.text}`, /^550 5\.7\.1 /, `${kind} ${trick}`);
        }
      }
    }
    for (const name of nodeNames) assert.doesNotMatch(world.node(name).logText(), /victim/);
  });

  test('what only looks like relaying and is ours is taken for what it says: a quoted or percent local part is no such user', async () => {
    for (const kind of ['lmtp', 'smtp'] as const) {
      for (const trick of [
        'victim%example.com@example.org',
        '"victim@example.com"@example.org',
        'example.com!victim@example.org',
      ]) {
        const talk = await talkTo(kind);
        await talk.ask('MAIL FROM:<spam@example.net>');
        const reply = await talk.ask(`RCPT TO:<${trick}>`);
        talk.close();
        assert.ok(reply.code >= 550 && reply.code <= 553, `${kind} ${trick}: ${reply.code} ${reply.text}`);
      }
    }
  });

  test('the own domain in upper case or with a final dot is the own domain or is refused, never relayed', async () => {
    const [user = ''] = world.users;
    for (const kind of ['lmtp', 'smtp'] as const) {
      const talk = await talkTo(kind);
      await talk.ask('MAIL FROM:<a@example.net>');
      assert.equal((await talk.ask(`RCPT TO:<${user.toUpperCase()}>`)).code, 250);
      const dotted = await talk.ask(`RCPT TO:<${user}.>`);
      assert.ok(dotted.code === 250 || dotted.code >= 500, `${dotted.code} ${dotted.text}`);
      assert.equal((await talk.ask('RCPT TO:<victim@example.com.>')).code >= 500, true);
      talk.close();
    }
  });
});

describe('one message in is one message out', () => {
  const ends = {
    '\\n.\\n': '\n.\n',
    '\\n.\\r\\n': '\n.\r\n',
    '\\r.\\r': '\r.\r',
    '\\r.\\r\\n': '\r.\r\n',
    '\\r\\n.\\n': '\r\n.\n',
    '\\r\\n.\\r': '\r\n.\r',
    '\\n.\\r': '\n.\r',
    '\\r\\n\\x00.\\r\\n': '\r\n\0.\r\n',
  };
  for (const [name, end] of Object.entries(ends)) {
    test(`${name} in a message does not end it: what follows is text at a real Dovecot`, async () => {
      const user = world.usersOf('mail1')[6] ?? '';
      for (const kind of ['lmtp', 'smtp'] as const) {
        const [number, smuggled] = [nextNumber(), nextNumber()];
        const within = numberedMessage({ number: smuggled, to: user }).replace(
          'Subject:',
          'Subject: smuggled',
        );
        const bytes = `${numberedMessage({ number, to: user })}before${end}MAIL FROM:<evil@example.net>\r\nRCPT TO:<${user}>\r\nDATA\r\n${within}\r\n.\r\n`;
        assert.deepEqual(await sendRaw(kind, [user], bytes), [250]);
        const text = await world.stored(user, number);
        assert.match(text, /MAIL FROM:<evil@example.net>/);
        assert.match(text, new RegExp(`X-Number: ${smuggled}`), 'the rest is in its body');
        assert.deepEqual(await world.savedBy(number, 1), ['mail1']);
        assert.deepEqual(await world.savedBy(smuggled, 0), []);
      }
    });
  }

  test('dots at line starts, bare CR and LF, and bytes above 127 arrive as they were meant', async () => {
    const user = world.usersOf('mail3')[6] ?? '';
    const number = nextNumber();
    const head = numberedMessage({ number, to: user });
    const bytes = Buffer.concat([
      Buffer.from(`${head}..\r\n...\r\n..twice\r\na\rb\nc\r\n`),
      Buffer.from([0xff, 0xfe, 0x80, 0x0d, 0x0a]),
      Buffer.from('end\r\n.\r\n'),
    ]);
    assert.deepEqual(await sendRaw('smtp', [user], bytes), [250]);
    const text = (await world.stored(user, number)).replace(/\r\n/g, '\n');
    assert.ok(
      text.endsWith('\n.\n..\n.twice\na\nb\nc\n\xff\xfe\x80\nend\n'),
      JSON.stringify(text.slice(-60)),
    );
  });
});

describe('what is written on a message and about it', () => {
  test('by the node: Return-Path, Delivered-To and one Received of ours with the id of the log', async () => {
    const user = world.usersOf('mail2')[7] ?? '';
    for (const kind of ['lmtp', 'smtp'] as const) {
      const from = `trace-${kind}@example.net`;
      const { number } = await world.send(kind, user, { from });
      const text = (await world.stored(user, number)).replace(/\r\n/g, '\n');
      const [line] = await world.deliveries(from, 1);
      assert.equal(text.match(/^Return-Path: /gm)?.length, 1);
      assert.match(text, new RegExp(`^Return-Path: <${from}>$`, 'm'));
      assert.equal(text.match(/^Delivered-To: /gm)?.length, 1);
      assert.match(text, new RegExp(`^Delivered-To: ${user}$`, 'm'));
      const ours = text.match(
        /^Received: from drill\.invalid \(\[127\.0\.0\.1\]\)\n\tby \S+ with (\S+) id (\w+)\n\tfor <(\S+)>;\n\t.+ \+0000$/m,
      );
      assert.ok(ours, text.slice(0, 600));
      assert.deepEqual(ours.slice(1), [kind === 'lmtp' ? 'LMTP' : 'ESMTP', line?.id, user]);
    }
  });

  test('several recipients are not told of each other', async () => {
    const to = nodeNames.map(name => world.usersOf(name)[8] ?? '');
    const { number } = await world.send('smtp', to);
    for (const user of to) {
      const text = await world.stored(user, number);
      const head = text.slice(0, text.search(/\r?\nFrom: /));
      for (const other of to.slice(1).filter(each => each !== user))
        assert.ok(!head.includes(other), `${user} sees ${other}`);
    }
  });

  test('the null sender is delivered, as <> in Return-Path and in the log', async () => {
    const user = world.usersOf('mail1')[9] ?? '';
    for (const kind of ['lmtp', 'smtp'] as const) {
      const { number, receipts } = await world.send(kind, user, { from: '' });
      assert.deepEqual(kinds(receipts), ['acknowledged']);
      assert.match(await world.stored(user, number), /^Return-Path: <>\r?$/m);
    }
    assert.equal((await world.deliveries('', 2)).length, 2);
  });

  test('each recipient has one line in the log with all an operator asks for', async () => {
    const to = nodeNames.map(name => world.usersOf(name)[10] ?? '');
    for (const kind of ['lmtp', 'smtp'] as const) {
      const from = `lines-${kind}@example.net`;
      await world.send(kind, to, { from });
      const lines = await world.deliveries(from, to.length);
      assert.equal(lines.length, to.length);
      assert.equal(new Set(lines.map(line => line.id)).size, 1);
      for (const user of to) {
        const [line, ...more] = lines.filter(each => each.to === user);
        assert.ok(line && more.length === 0, `one line for ${user}`);
        assert.equal(line.user, user);
        assert.deepEqual([line.courier, line.node, line.outcome], ['node', world.homeOf(user), 'delivered']);
        assert.match(String(line.reply), /^250 2\.0\.0 /);
        assert.ok(typeof line.ms === 'number' && line.ms >= 0);
        assert.ok(typeof line.bytes === 'number' && line.bytes > 200);
      }
    }
  });
});

/** A user that nobody knows, whose home would be this node. */
async function strangerOf(home: string): Promise<string> {
  for (let n = 0; ; n += 1) {
    const user = `stranger${n}@example.org`;
    const { json } = await world.homing.admin(`/v1/explain?user=${user}`);
    if ((json as { home: string }).home === home) return user;
  }
}

describe('a node that drains', () => {
  after(async () => {
    await world.homing.admin('/v1/nodes/mail2', { body: { admin: 'ready' } });
  });

  test("its users' mail goes by LMTP to their next node, not directly, and home again when it is ready", async () => {
    const to = world.usersOf('mail2').slice(12, 16);
    assert.equal((await world.homing.admin('/v1/nodes/mail2', { body: { admin: 'drain' } })).status, 200);
    const nextOf = new Map<string, string>();
    for (const user of to) {
      const place = await waitFor(
        async () => {
          const now = await world.placeOf(user);
          return 'node' in now && now.node !== 'mail2' ? now : null;
        },
        { what: `${user} to be placed elsewhere` },
      );
      nextOf.set(user, place.node);
    }
    for (const kind of ['lmtp', 'smtp'] as const) {
      const from = `drain-${kind}@example.net`;
      const { number, receipts } = await world.send(kind, to, { from });
      assert.deepEqual(
        kinds(receipts),
        to.map(() => 'acknowledged'),
      );
      for (const user of to) assert.equal(await world.count(user, number), 1);
      const lines = await world.deliveries(from, to.length);
      assert.deepEqual(
        lines.map(line => [line.to, line.courier, line.node]).sort(),
        to.map(user => [user, 'node', nextOf.get(user)]).sort(),
      );
      assert.equal((await world.savedBy(number, to.length)).length, to.length);
      assert.ok(!(await world.savedBy(number, to.length)).includes('mail2'));
    }
    const unknown = await strangerOf('mail2');
    for (const kind of ['lmtp', 'smtp'] as const)
      assert.equal(
        (await world.send(kind, unknown)).receipts.map(each => (each.kind === 'refused' ? each.code : 0))[0],
        550,
      );
    assert.equal((await world.homing.admin('/v1/nodes/mail2', { body: { admin: 'ready' } })).status, 200);
    for (const user of to) {
      await waitFor(
        async () => {
          const now = await world.placeOf(user);
          return 'node' in now && now.node === 'mail2';
        },
        { what: `${user} to be home`, tell: () => world.homing.logText() },
      );
    }
    const { number } = await world.send('lmtp', to);
    assert.deepEqual(
      await world.savedBy(number, to.length),
      to.map(() => 'mail2'),
    );
  });
});
