/**
 * From a client's socket to real Dovecot nodes: receiver, dispatch and LMTP client together. What Debian's Dovecot 2.3 would take for two
 * messages stays one; its refusals reach the client in its words; recipients at two homes are two deliveries and one transaction.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { lmtpTimeouts } from '../../src/backend/lmtp-client.ts';
import { lmtpPoolDefaults } from '../../src/backend/lmtp-pool.ts';
import type { Admitting } from '../../src/cluster/admission.ts';
import type { ClusterNode } from '../../src/core/types.ts';
import { createBodySpool } from '../../src/delivery/body.ts';
import { createDispatch } from '../../src/delivery/dispatch.ts';
import { createReceiver, type Receiver } from '../../src/delivery/receiver.ts';
import { createNodeCourier, type NodeCourier } from '../../src/delivery/to-node.ts';
import { realClock } from '../../src/net/clock.ts';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { type Client, greeted } from '../unit/delivery/receiving.ts';

const users = ['joe@example.org', 'ann@example.org'];
const homes: Readonly<Record<string, string>> = { 'joe@example.org': 'mail1', 'ann@example.org': 'mail2' };

describe('mail received for real Dovecot nodes', () => {
  let folder: TempFolder;
  let nodes: DovecotNode[] = [];
  let receiver: Receiver;
  let courier: NodeCourier;
  let server: net.Server;
  let port = 0;

  before(async () => {
    folder = await openTempFolder('receive');
    const spoolDir = join(folder.path, 'spool');
    const start = (name: string, address: string) =>
      startDovecotNode({ name, address, spoolDir, runDir: join(folder.path, name), users });
    nodes = [await start('mail1', '127.0.0.41'), await start('mail2', '127.0.0.42')];
    mkdirSync(join(folder.path, 'bodies'));
    ({ receiver, courier } = wire(join(folder.path, 'bodies')));
    server = net.createServer(socket => receiver.accept(socket)).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    port = address.port;
  });

  after(async () => {
    await receiver?.drain(100);
    courier?.close();
    server?.close();
    for (const node of nodes) await node.kill();
    await folder?.remove();
  });

  function nodeOf(name: string): ClusterNode | null {
    const node = nodes.find(each => each.name === name);
    if (node === undefined) return null;
    const ports = { lmtp: node.ports.lmtp };
    return {
      name,
      address: node.address,
      weight: 100,
      pool: 'default',
      ports,
      admin: 'ready',
      health: 'up',
      incident: 0,
      fenced: false,
    };
  }

  function wire(bodies: string): { receiver: Receiver; courier: NodeCourier } {
    const log = pino({ level: 'silent' });
    const peek: Admitting['peek'] = user => ({ kind: 'home', node: homes[user] ?? 'mail1', why: 'test' });
    const admitting: Admitting = {
      peek,
      node: nodeOf,
      report: () => undefined,
      async admit({ user }) {
        const place = peek(user);
        const node = place.kind === 'none' ? null : nodeOf(place.node);
        assert.ok(node !== null);
        return { ok: true, entry: { user, node, place, isLive: () => true, release: () => undefined } };
      },
    };
    const clock = realClock;
    const toNodes = createNodeCourier({
      self: null,
      ...lmtpPoolDefaults,
      ownName: 'homing.test',
      timeouts: lmtpTimeouts,
      admitting,
      clock,
    });
    const made = createReceiver({
      kind: 'lmtp',
      name: 'homing.test',
      admitting,
      userRules: () => ({
        defaultDomain: 'example.org',
        domains: new Set(['example.org']),
        detail: '+',
        masterSeparator: '',
        affinity: 'user',
        aliases: new Map(),
      }),
      verifyAtNode: toNodes.verifyRecipient,
      verifyInSpool: async () => 'unknown',
      dispatch: createDispatch({ admitting, couriers: [toNodes], settleMs: 5000, clock, log }),
      keep: null,
      spool: createBodySpool({ folder: bodies, memoryBytes: 64 * 1024 }),
      whenHomeDown: [],
      multiHome: 'split',
      clock,
      log,
    });
    return { receiver: made, courier: toNodes };
  }

  /** What is in a user's new/, as LF text as Dovecot stores it. */
  function mailOf(user: string): string[] {
    const [local = '', domain = ''] = user.split('@');
    const fresh = join(folder.path, 'spool', domain, local, 'Maildir/new');
    return readdirSync(fresh)
      .sort()
      .map(name => readFileSync(join(fresh, name), 'latin1').replaceAll('\r\n', '\n'));
  }

  async function deliver(to: readonly string[], body: string): Promise<string[]> {
    const client: Client = await greeted(port);
    client.write(
      `MAIL FROM:<sue@example.com>\r\n${to.map(each => `RCPT TO:<${each}>\r\n`).join('')}DATA\r\n`,
    );
    const before = await client.replies(2 + to.length);
    assert.match(before.at(-1) ?? '', /^354/, before.join(' | '));
    client.write(body);
    const replies = await client.replies(to.length);
    assert.match(await client.say('NOOP'), /^250/);
    client.close();
    return replies;
  }

  test('a message that smuggles another by bare newlines arrives as one', async () => {
    const ends = ['\n.\n', '\n.\r\n', '\r\n.\n', '\r.\r', '\r\n.\r', '\n..\r\n', '\n..\n', '\r\n..\n'];
    for (const [n, end] of ends.entries()) {
      const inner =
        'MAIL FROM:<evil@example.com>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n';
      const replies = await deliver(
        ['joe@example.org'],
        `Subject: outer ${n}\r\n\r\nfirst${end}${inner}.\r\n`,
      );
      assert.match(replies[0] ?? '', /^250 2\.0\.0 /, JSON.stringify(end));
    }
    const mails = mailOf('joe@example.org');
    assert.equal(mails.length, ends.length);
    for (const mail of mails) assert.match(mail, /RCPT TO:<ann@example\.org>\nDATA\nSubject: smuggled/);
    assert.throws(() => mailOf('ann@example.org'), /ENOENT/);
  });

  test('recipients at two homes are each delivered by their own node, with our trace in both', async () => {
    const count = mailOf('joe@example.org').length;
    const replies = await deliver(
      ['joe@example.org', 'ann@example.org', 'joe@example.org'],
      'Subject: both\r\n\r\n..\r\n.\r\n',
    );
    assert.deepEqual(
      replies.map(reply => reply.slice(0, 10)),
      ['250 2.0.0 ', '250 2.0.0 ', '250 2.0.0 '],
    );
    const [mail] = mailOf('ann@example.org');
    assert.match(
      mail ?? '',
      /\nReceived: from client\.test \(\[127\.0\.0\.1\]\)\n\tby homing\.test with LMTP id [0-9a-z]+;/,
    );
    assert.match(mail ?? '', /\n\n\.\n$/);
    assert.equal(mailOf('joe@example.org').length, count + 1, 'named twice, delivered once');
  });

  test('five megabytes arrive whole', async () => {
    const body = `${'z'.repeat(76)}\r\n`.repeat(65_000);
    const [reply] = await deliver(['ann@example.org'], `Subject: large\r\n\r\n${body}.\r\n`);
    assert.match(reply ?? '', /^250/);
    assert.ok(mailOf('ann@example.org').some(mail => mail.endsWith(`\n\n${body.replaceAll('\r\n', '\n')}`)));
  });

  test('a user that the node does not know is refused at RCPT, in its words', async () => {
    const client = await greeted(port);
    await client.say('MAIL FROM:<sue@example.com>');
    assert.match(
      await client.say('RCPT TO:<nobody@example.org>'),
      /^550 5\.1\.1 <nobody@example\.org> User doesn't exist/,
    );
    client.close();
  });

  test("a dead node is 451 for its users at RCPT, and nobody else's trouble", async () => {
    await nodes[1]?.kill();
    const client = await greeted(port);
    await client.say('MAIL FROM:<sue@example.com>');
    assert.match(await client.say('RCPT TO:<fresh+x@example.org>'), /^550/);
    assert.match(await client.say('RCPT TO:<ann+new@example.org>'), /^451 4\.4\.3/);
    assert.match(await client.say('RCPT TO:<joe@example.org>'), /^250/);
    client.close();
    await nodes[1]?.restart();
    const [reply] = await deliver(['ann@example.org'], 'Subject: again\r\n\r\nx\r\n.\r\n');
    assert.match(reply ?? '', /^250/);
  });
});
