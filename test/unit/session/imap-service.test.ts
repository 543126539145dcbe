import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { connect as connectTls, type SecureContext } from 'node:tls';
import { pino } from 'pino';
import type { UserRules } from '../../../src/core/canonical.ts';
import { realClock } from '../../../src/net/clock.ts';
import { readTls, secureContextOf } from '../../../src/net/tls.ts';
import {
  createImapService,
  type ImapService,
  type ImapServiceLimits,
} from '../../../src/session/imap-service.ts';
import { clusterNode, type OneNode, oneNode } from '../../dialog/one-node.ts';
import { waitFor } from '../../lab/wait.ts';
import { makeCertificate } from '../net/certificate.ts';

const rules: UserRules = {
  defaultDomain: 'example.org',
  domains: new Set(['example.org']),
  detail: '+',
  masterSeparator: '*',
  affinity: 'user',
  aliases: new Map(),
};

let context: SecureContext;

before(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'homing-imap-'));
  const read = await readTls(await makeCertificate(folder, 'mail', 'mail.example.org'));
  await rm(folder, { recursive: true });
  assert.ok(read.ok);
  const made = secureContextOf(read.texts);
  assert.ok(made.ok);
  context = made.context;
});

/** A node that lets everyone in and then echoes; `hold` keeps its answer to the login back. */
interface EchoNode {
  readonly port: number;
  readonly sockets: Set<Socket>;
  readonly heard: string[];
  answer(): void;
  close(): void;
}

async function startEchoNode(hold = false): Promise<EchoNode> {
  const sockets = new Set<Socket>();
  const heard: string[] = [];
  const held: (() => void)[] = [];
  const server = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.on('end', () => socket.end());
    socket.write('* OK [CAPABILITY IMAP4rev1] echo\r\n');
    let isIn = false;
    socket.on('data', bytes => {
      heard.push(String(bytes));
      if (isIn) {
        socket.write(bytes);
        return;
      }
      isIn = true;
      const welcome = () => socket.write('h OK in\r\n');
      if (hold) held.push(welcome);
      else welcome();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: portOf(server),
    sockets,
    heard,
    answer: () => {
      for (const welcome of held.splice(0)) welcome();
    },
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

interface Bench {
  readonly cluster: OneNode;
  readonly service: ImapService;
  readonly port: number;
  readonly lines: Record<string, unknown>[];
  close(): void;
}

async function bench(
  nodePort: number,
  limits: Partial<ImapServiceLimits> = {},
  mode: 'plain' | 'tls' = 'plain',
): Promise<Bench> {
  const cluster = oneNode(clusterNode('mail1', nodePort));
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'trace' }, { write: (text: string) => void lines.push(JSON.parse(text)) });
  const service = createImapService({
    admitting: cluster,
    userRules: () => rules,
    clock: realClock,
    log,
    tls: () => context,
    self: null,
    quietMs: 150,
    holdMs: 1000,
    limits,
  });
  const server = createServer({ allowHalfOpen: true, noDelay: true }, socket => service.accept(socket, mode));
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 });
  await once(server, 'listening');
  return { cluster, service, port: portOf(server), lines, close: () => server.close() };
}

class Client {
  readonly socket: Socket;
  text = '';
  ended = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', bytes => {
      this.text += String(bytes);
    });
    socket.on('error', () => {});
    for (const event of ['end', 'close']) {
      socket.on(event, () => {
        this.ended = true;
      });
    }
  }

  async hears(what: string | RegExp): Promise<void> {
    const has = () => (typeof what === 'string' ? this.text.includes(what) : what.test(this.text));
    await waitFor(has, { what: `the client to hear ${what}`, everyMs: 2, tell: () => this.text });
  }

  async isClosed(): Promise<void> {
    await waitFor(() => this.ended, { what: 'the client to be closed', everyMs: 2 });
  }
}

const dial = (port: number) => new Client(connect(port, '127.0.0.1'));

async function logIn(port: number, user = 'joe'): Promise<Client> {
  const client = dial(port);
  await client.hears('* OK');
  client.socket.write(`a LOGIN ${user} hunter2\r\n`);
  await client.hears('a OK in');
  return client;
}

const empty = (service: ImapService) =>
  waitFor(() => service.count() === 0, { what: 'all sessions to be over', everyMs: 2 });

describe('TLS', () => {
  test('by STARTTLS: what an attacker slipped in behind it before the handshake is never obeyed', async () => {
    const node = await startEchoNode();
    const { service, port, lines, close } = await bench(node.port, { plaintextAuth: 'tls' });
    const plain = dial(port);
    await plain.hears('LOGINDISABLED');
    plain.socket.write('a STARTTLS\r\nevil LOGIN joe hunter2\r\nevil2 NOOP\r\n');
    await plain.hears('a OK');
    plain.socket.removeAllListeners('data');
    const client = new Client(connectTls({ socket: plain.socket, rejectUnauthorized: false }));
    await once(client.socket, 'secureConnect');
    client.socket.write('b CAPABILITY\r\nc LOGIN joe hunter2\r\n');
    await client.hears('c OK in');
    assert.ok(
      !client.text.includes('evil') && !client.text.includes('STARTTLS') && !client.text.includes('* OK'),
    );
    assert.match(client.text, /CAPABILITY IMAP4rev1 SASL-IR LITERAL\+ ID AUTH=PLAIN/);
    assert.equal(node.heard.length, 1);
    client.socket.write('d NOOP\r\n');
    await client.hears('d NOOP');
    client.socket.end();
    await empty(service);
    const line = lines.find(one => one.msg === 'session');
    assert.deepEqual(
      [line?.tls, line?.user, line?.node, line?.end, line?.bytesIn],
      [true, 'joe@example.org', 'mail1', 'client-closed', 8],
    );
    close();
    node.close();
  });

  test('from the first byte: greets after the handshake, offers no STARTTLS, relays large answers whole', async () => {
    const node = await startEchoNode();
    const { service, port, close } = await bench(node.port, { plaintextAuth: 'tls' }, 'tls');
    const client = new Client(connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false }));
    await client.hears('* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN]');
    client.socket.write('a LOGIN joe hunter2\r\n');
    await client.hears('a OK in');
    client.text = '';
    const sent = 'x'.repeat(3_000_000);
    client.socket.write(sent);
    await waitFor(() => client.text.length === sent.length, { what: 'the whole echo' });
    client.socket.end();
    await empty(service);
    close();
    node.close();
  });

  test('meets a client that speaks plain, or breaks the handshake off: the session ends and says so', async () => {
    const node = await startEchoNode();
    const { service, port, lines, close } = await bench(node.port, {}, 'tls');
    const plain = dial(port);
    plain.socket.write('a LOGIN joe hunter2\r\n');
    await plain.isClosed();
    const gone = dial(port);
    gone.socket.end('\x16\x03\x01');
    await gone.isClosed();
    await empty(service);
    assert.deepEqual(lines.map(line => line.end).sort(), ['client-closed', 'tls-failed']);
    assert.ok(!JSON.stringify(lines).includes('hunter2'));
    close();
    node.close();
  });
});

describe('the barrier', () => {
  test('closes a relayed session: FIN to the node, its end awaited, the entry released as quiet', async () => {
    const node = await startEchoNode();
    const { cluster, service, port, lines, close } = await bench(node.port);
    const client = await logIn(port);
    cluster.closeAll('moved');
    await client.isClosed();
    await empty(service);
    assert.deepEqual(cluster.releases, [true]);
    assert.deepEqual(
      lines.map(line => line.end),
      ['moved'],
    );
    assert.ok(!client.text.includes('BYE'), 'nothing is injected into a relay');
    close();
    node.close();
  });

  test('takes a login under way: broken off at the old node, made at the new one, unseen by the client', async () => {
    const old = await startEchoNode(true);
    const next = await startEchoNode();
    const { cluster, service, port, close } = await bench(old.port);
    const client = dial(port);
    client.socket.write('a LOGIN joe hunter2\r\nb NOOP\r\n');
    await waitFor(() => old.heard.length === 1, { what: 'the login at the old node' });
    cluster.moveTo(clusterNode('mail2', next.port));
    cluster.closeAll('node-down');
    await client.hears('b NOOP');
    old.answer();
    await waitFor(() => old.sockets.size === 0, { what: 'the old node to be left' });
    assert.deepEqual(
      service.list().map(row => [row.node, row.state]),
      [['mail2', 'relaying']],
    );
    assert.equal(client.text.match(/OK in/g)?.length, 1);
    client.socket.destroy();
    await empty(service);
    assert.equal(cluster.live.size, 0);
    close();
    old.close();
    next.close();
  });

  test('finds no session whose client left while its node was thinking', async () => {
    const node = await startEchoNode(true);
    const { cluster, service, port, lines, close } = await bench(node.port);
    const client = dial(port);
    client.socket.write('a LOGIN joe hunter2\r\n');
    await waitFor(() => node.heard.length === 1, { what: 'the login at the node' });
    client.socket.resetAndDestroy();
    await empty(service);
    await waitFor(() => cluster.live.size === 0 && node.sockets.size === 0, {
      what: 'entry and connection to be gone',
    });
    assert.equal(lines.at(-1)?.end, 'client-reset');
    close();
    node.close();
  });
});

describe('a node that cannot be reached', () => {
  test('is tried again, then reported, and the login goes where the view then says, within the hold', async () => {
    const next = await startEchoNode();
    const dead = createServer();
    dead.listen(0, '127.0.0.1');
    await once(dead, 'listening');
    const deadPort = portOf(dead);
    dead.close();
    await once(dead, 'close');
    const { cluster, service, port, close } = await bench(deadPort);
    const client = dial(port);
    client.socket.write('a LOGIN joe hunter2\r\n');
    await waitFor(() => cluster.evidence.length === 1, { what: 'evidence' });
    assert.deepEqual([cluster.evidence[0], cluster.users.length], ['connect-failed', 2]);
    cluster.moveTo(clusterNode('mail2', next.port));
    await client.hears('a OK in');
    assert.deepEqual(cluster.evidence, ['connect-failed', 'ok']);
    client.socket.destroy();
    await empty(service);
    close();
    next.close();
  });
});

describe('the service', () => {
  test('drains: who is not logged in is told at once, sessions are closed spread over the limit, new ones are turned away', async () => {
    const node = await startEchoNode();
    const { service, port, lines, close } = await bench(node.port);
    const idle = dial(port);
    await idle.hears('* OK');
    const clients = await Promise.all(Array.from({ length: 20 }, (_, index) => logIn(port, `user${index}`)));
    const startedAt = performance.now();
    const drained = service.drain(400);
    await idle.hears('* BYE [UNAVAILABLE]');
    assert.ok(service.count() > 10, 'not all at once');
    const late = dial(port);
    await late.isClosed();
    await drained;
    const tookMs = performance.now() - startedAt;
    assert.ok(tookMs > 250 && tookMs < 2000, `${tookMs} ms`);
    for (const client of clients) await client.isClosed();
    assert.equal(lines.filter(line => line.msg === 'session' && line.end === 'shutdown').length, 21);
    close();
    node.close();
  });

  test('kicks by any field of its list, and holds no more sessions than its limit', async () => {
    const node = await startEchoNode();
    const { service, port, close } = await bench(node.port, { maxSessions: 2 });
    const [joe, ann] = [await logIn(port, 'joe'), await logIn(port, 'Ann+tag')];
    await dial(port).isClosed();
    assert.deepEqual(
      service.list().map(row => row.user),
      ['joe@example.org', 'ann@example.org'],
    );
    assert.equal(
      service.kick(row => row.user === 'joe@example.org'),
      1,
    );
    await joe.isClosed();
    await waitFor(() => service.count() === 1, { what: 'one session left' });
    assert.equal(service.list(0).length, 0);
    ann.socket.destroy();
    await empty(service);
    close();
    node.close();
  });

  test('does not read on from a client that does not read its answers', async () => {
    const node = await startEchoNode();
    const { service, port, close } = await bench(node.port, { commands: 1e9 });
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.pause();
    const block = 'a CAPABILITY\r\n'.repeat(5000);
    let sent = 0;
    let stalledFor = 0;
    while (stalledFor < 10 && sent < 200e6) {
      if (socket.writableLength < 1e6) {
        socket.write(block);
        sent += block.length;
        stalledFor = 0;
      } else stalledFor += 1;
      await new Promise(resolve => setTimeout(resolve, 10));
    }
    assert.ok(sent < 50e6, `${sent} bytes were taken`);
    socket.destroy();
    await empty(service);
    close();
    node.close();
  });

  const many = process.env.HOMING_LONG ? 10_000 : 2000;
  test(`bounds ${many} idle connections: each is greeted, and closed at its deadline, with little memory`, async () => {
    const { service, port, lines, close } = await bench(1, { preAuthMs: many * 0.75 });
    const memory = process.memoryUsage().rss;
    const script = join(import.meta.dirname, 'idle-clients.ts');
    const clients = spawn(process.execPath, [script, String(port), String(many)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await waitFor(() => service.count() === many, { what: `${many} sessions`, limitMs: 30_000 });
    const perSession = (process.memoryUsage().rss - memory) / many;
    assert.ok(perSession < 50_000, `${perSession} bytes each`);
    const [report] = await once(clients.stdout, 'data');
    assert.deepEqual(JSON.parse(String(report)), { greeted: many, dismissed: many });
    await empty(service);
    const ends = lines.filter(line => line.msg === 'session').map(line => line.end);
    assert.deepEqual([ends.length, new Set(ends)], [many, new Set(['timeout'])]);
    close();
  });
});
