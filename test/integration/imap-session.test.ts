/**
 * IMAP sessions through the real service to real Dovecot nodes, with the clients that people use: imapflow, Python's imaplib, and
 * raw sockets for what clients do seldom. The cluster is a stand-in that sends everyone to one node; the node is not.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { ImapFlow } from 'imapflow';
import { pino } from 'pino';
import { realClock } from '../../src/net/clock.ts';
import { type Listener, openListener } from '../../src/net/listener.ts';
import { readTls, secureContextOf } from '../../src/net/tls.ts';
import { createImapService, type ImapService } from '../../src/session/imap-service.ts';
import { clusterNode, type OneNode, oneNode } from '../dialog/one-node.ts';
import { type DovecotNode, password, startDovecotNode } from '../lab/dovecot-node.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { waitFor } from '../lab/wait.ts';
import { makeCertificate } from '../unit/net/certificate.ts';

const run = promisify(execFile);
const alice = 'alice@example.org';
const bob = 'bob@example.org';

let folder: TempFolder;
let first: DovecotNode;
let second: DovecotNode;
let cluster: OneNode;
let service: ImapService;
let plain: Listener;
let secure: Listener;
const lines: string[] = [];

const asNode = (node: DovecotNode) => clusterNode(node.name, node.ports.imap, node.address);

before(async () => {
  folder = await openTempFolder('imap-session');
  const spoolDir = join(folder.path, 'spool');
  const start = (name: string, address: string) =>
    startDovecotNode({ name, address, spoolDir, runDir: join(folder.path, name), users: [alice, bob] });
  first = await start('mail1', '127.0.0.31');
  second = await start('mail2', '127.0.0.32');
  const read = await readTls(await makeCertificate(folder.path, 'proxy', 'mail.example.org'));
  assert.ok(read.ok);
  const made = secureContextOf(read.texts);
  assert.ok(made.ok);
  cluster = oneNode(asNode(first));
  const log = pino({ level: 'trace' }, { write: (text: string) => void lines.push(text) });
  service = createImapService({
    admitting: cluster,
    userRules: () => ({
      ...{
        defaultDomain: 'example.org',
        domains: new Set(['example.org']),
        detail: '+',
        masterSeparator: '*',
      },
      ...{ affinity: 'user', aliases: new Map() },
    }),
    clock: realClock,
    log,
    tls: () => made.context,
    self: null,
    holdMs: 1000,
  });
  const open = async (mode: 'plain' | 'tls') => {
    const onSocket = (socket: Socket) => service.accept(socket, mode);
    const result = await openListener({ port: 0, maxConnections: 500, maxPerAddress: 500, onSocket, log });
    assert.ok(result.ok);
    return result.listener;
  };
  plain = await open('plain');
  secure = await open('tls');
});

after(async () => {
  await service?.drain(100);
  await Promise.all([plain?.close(), secure?.close(), first?.stop(), second?.stop()]);
  await folder?.remove();
});

class Raw {
  readonly socket: Socket;
  text = '';
  ended = false;

  constructor() {
    this.socket = connect({ port: plain.address().port, host: '127.0.0.1', allowHalfOpen: true });
    this.socket.on('error', () => {});
    this.socket.on('data', bytes => {
      this.text += bytes.toString('latin1');
    });
    for (const event of ['end', 'close']) {
      this.socket.on(event, () => {
        this.ended = true;
      });
    }
  }

  async hears(what: RegExp): Promise<void> {
    await waitFor(() => what.test(this.text), {
      what: `the client to hear ${what}`,
      tell: () => this.text.slice(-500),
    });
  }
}

async function quiet(): Promise<void> {
  const left = () => [service.count(), cluster.live.size, plain.count(), secure.count()];
  await waitFor(() => left().every(count => count === 0), {
    what: 'all to be over',
    tell: () => left().join(),
  });
}

function flow(user: string, secureFromStart: boolean): ImapFlow {
  const port = (secureFromStart ? secure : plain).address().port;
  return new ImapFlow({
    ...{
      host: '127.0.0.1',
      port,
      secure: secureFromStart,
      logger: false,
      tls: { rejectUnauthorized: false },
    },
    ...{ auth: { user, pass: password }, disableAutoIdle: true },
  });
}

describe('IMAP through Homing to a real Dovecot', () => {
  test('imapflow, over STARTTLS and over TLS: writes, reads back, idles', async () => {
    for (const secureFromStart of [false, true]) {
      const client = flow(bob, secureFromStart);
      await client.connect();
      assert.ok(client.capabilities.has('IDLE') && !client.capabilities.has('LOGIN-REFERRALS'));
      const lock = await client.getMailboxLock('INBOX');
      const text = `Subject: by flow\r\n\r\n${'0123456789\r\n'.repeat(30_000)}`;
      const appended = await client.append('INBOX', text);
      assert.ok(appended !== false && appended.uid !== undefined);
      const message = await client.fetchOne(String(appended.uid), { source: true }, { uid: true });
      assert.ok(message && message.source?.toString() === text);
      const idling = client.idle();
      await client.noop();
      await idling;
      lock.release();
      await client.logout();
    }
    await quiet();
  });

  test("Python's imaplib: LOGIN, STARTTLS with PLAIN, TLS, a large message, a wrong password and then the right one", async () => {
    const script = join(import.meta.dirname, 'imaplib-client.py');
    const ports = [plain, secure].map(one => String(one.address().port));
    const { stdout } = await run('python3', [script, '127.0.0.1', ...ports, alice, password]);
    const seen = JSON.parse(stdout);
    assert.deepEqual(
      [seen.size, seen.starttls, seen.tls, seen.second],
      ['Subject: large\r\n\r\n'.length + 70 + 400_000, 'OK', 'OK', 'OK'],
    );
    assert.match(seen.refused, /AUTHENTICATIONFAILED/);
    assert.ok(seen.before.includes('STARTTLS') && seen.after.includes('IDLE'));
    assert.ok(!seen.after.includes('LOGIN-REFERRALS'));
    await quiet();
    const ours = lines
      .map(line => JSON.parse(line))
      .filter(line => line.msg === 'session' && line.user === alice);
    assert.ok(ours.some(line => line.bytesIn > 400_000 && line.bytesOut > 400_000 && line.node === 'mail1'));
  });

  test('a whole session in one write, FIN and all, is answered whole', async () => {
    const raw = new Raw();
    raw.socket.end(`a LOGIN {17+}\r\n${alice} {4+}\r\n${password}\r\nb EXAMINE INBOX\r\nc LOGOUT\r\n`);
    await raw.hears(/^a OK \[CAPABILITY [^\]]+\] Logged in/m);
    await raw.hears(/^b OK/m);
    await raw.hears(/^c OK/m);
    await waitFor(() => raw.ended, { what: 'the end' });
    assert.equal(raw.text.match(/LOGIN-REFERRALS/g), null);
    await quiet();
  });

  test('a node that is killed ends its sessions; logins then wait for the view, and go where it says', async () => {
    const client = new Raw();
    await client.hears(/^\* OK/);
    client.socket.write(`a LOGIN ${alice} ${password}\r\n`);
    await client.hears(/^a OK/m);
    await first.kill();
    await waitFor(() => client.ended, { what: 'the session to be closed' });
    client.socket.destroy();
    await quiet();

    const refused = new Raw();
    refused.socket.write(`a LOGIN ${alice} ${password}\r\nb LOGOUT\r\n`);
    await refused.hears(/^a NO \[UNAVAILABLE\]/m);
    await refused.hears(/^b OK/m);
    refused.socket.destroy();

    const moved = new Raw();
    moved.socket.write(`a LOGIN ${alice} ${password}\r\n`);
    await waitFor(() => service.list().some(row => row.state === 'attaching'), {
      what: 'the login to be under way',
    });
    cluster.moveTo(asNode(second));
    await moved.hears(/^a OK/m);
    assert.equal(service.list().find(row => row.state === 'relaying')?.node, 'mail2');
    moved.socket.destroy();
    await quiet();
    assert.ok(cluster.evidence.includes('connect-failed'));
    await first.restart();
    cluster.moveTo(asNode(first));
  });

  test('a node that is frozen is closed within the quiet time, and reset', async () => {
    const client = new Raw();
    client.socket.write(`a LOGIN ${alice} ${password}\r\n`);
    await client.hears(/^a OK/m);
    first.freeze();
    try {
      const startedAt = performance.now();
      cluster.closeAll('node-down');
      await waitFor(() => client.ended, { what: 'the client to be closed', limitMs: 1000 });
      client.socket.destroy();
      await quiet();
      const tookMs = performance.now() - startedAt;
      assert.ok(tookMs > 1900 && tookMs < 4000, `${tookMs} ms`);
      assert.equal(cluster.releases.at(-1), false);
    } finally {
      first.thaw();
    }
  });

  test('100 users at once, each over a connection of its own, each sees its own mailbox', async () => {
    const clients = Array.from({ length: 100 }, () => new Raw());
    for (const [index, raw] of clients.entries()) {
      const user = index % 2 === 0 ? alice : bob;
      raw.socket.write(`a LOGIN ${user} ${password}\r\nb STATUS INBOX (MESSAGES)\r\nc NOOP\r\n`);
    }
    for (const [index, raw] of clients.entries()) {
      await raw.hears(/^c OK/m);
      assert.ok(raw.text.includes(`MESSAGES ${index % 2 === 0 ? 1 : 2}`), raw.text);
    }
    assert.equal(service.count(), 100);
    for (const raw of clients) raw.socket.write('d LOGOUT\r\n');
    for (const raw of clients) {
      await waitFor(() => raw.ended, { what: 'the end after LOGOUT' });
      raw.socket.end();
    }
    await quiet();
  });

  test('no password was logged, at any level, through all of this', () => {
    assert.ok(lines.length > 100);
    const forms = [
      `"${password}"`,
      ` ${password}`,
      `\\u0000${password}`,
      Buffer.from(`\0${alice}\0${password}`).toString('base64'),
    ];
    for (const line of lines) for (const form of forms) assert.ok(!line.includes(form), line);
  });
});
