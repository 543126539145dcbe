import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { type LoginResult, logInToImap, writeLogin } from '../../../src/backend/session-login.ts';
import { realClock } from '../../../src/net/clock.ts';
import { type Credentials, Secret } from '../../../src/wire/sasl.ts';
import { waitFor } from '../../lab/wait.ts';

function credentials(form: 'login' | 'plain', name: string, secret: string, authzid = ''): Credentials {
  const bytes = (text: string) => Buffer.from(text, 'latin1');
  return { form, name: bytes(name), secret: new Secret(bytes(secret)), authzid: bytes(authzid) };
}

const joe = credentials('login', 'joe', 'pw');
const times = { connectMs: 300, greetingMs: 300, replyMs: 300 };

async function logIn(port: number, signal = new AbortController().signal): Promise<LoginResult> {
  return logInToImap({ address: '127.0.0.1', port, credentials: joe, times, clock: realClock, signal });
}

/** Connections of this process, as the event loop knows them. */
const openSockets = () =>
  process.getActiveResourcesInfo().filter(kind => /TCPSocketWrap|TCPWRAP/.test(kind)).length;

async function withNode<T>(
  onSocket: (socket: Socket) => void,
  use: (port: number) => Promise<T>,
): Promise<T> {
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.resume();
    onSocket(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  try {
    return await use(address.port);
  } finally {
    server.close();
  }
}

describe('a login at a node', () => {
  test('to a port where nobody listens is evidence at once', async () => {
    const port = await withNode(
      () => {},
      async used => used,
    );
    const result = await logIn(port);
    assert.ok(result.kind === 'failed');
    assert.deepEqual(
      [result.failure, result.evidence, result.why],
      ['node-unreachable', 'connect-failed', 'ECONNREFUSED'],
    );
  });

  test('to a machine that answers no SYN ends at the connect deadline, and leaves no socket behind', async () => {
    // A listener whose queue is full drops further SYNs, as a dead machine would.
    const script =
      'import socket,sys;s=socket.socket();s.bind(("127.0.0.1",0));s.listen(0);print(s.getsockname()[1],flush=True);sys.stdin.read()';
    const deaf = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
    const port = Number(String((await once(deaf.stdout, 'data'))[0]));
    const fillers = [1, 2, 3].map(() => {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      return socket;
    });
    await once(fillers[0] as Socket, 'connect');
    await new Promise(resolve => setTimeout(resolve, 50));
    const before = openSockets();
    const result = await logIn(port);
    assert.ok(result.kind === 'failed');
    assert.deepEqual([result.failure, result.evidence], ['node-unreachable', 'connect-failed']);
    await waitFor(() => openSockets() <= before, { what: 'the socket to be gone', limitMs: 1000 });
    for (const socket of fillers) socket.destroy();
    deaf.kill();
  });

  test('tells a missing greeting from a missing answer: different evidence, and neither is a refusal', async () => {
    const silent = await withNode(
      () => {},
      port => logIn(port),
    );
    assert.ok(silent.kind === 'failed' && silent.evidence === 'greeting-timeout');
    const mute = await withNode(
      socket => socket.write('* OK [CAPABILITY IMAP4rev1] hi\r\n'),
      port => logIn(port),
    );
    assert.ok(mute.kind === 'failed' && mute.evidence === 'reply-timeout');
    const drip = await withNode(
      socket => {
        const timer = setInterval(() => socket.write('x'), 20);
        socket.on('close', () => clearInterval(timer));
      },
      port => logIn(port),
    );
    assert.ok(
      drip.kind === 'failed' && drip.evidence === 'greeting-timeout',
      'each byte must not prolong the wait',
    );
  });

  test('that is broken off says nothing about the node, and resets the connection', async () => {
    const breakOff = new AbortController();
    const closed = Promise.withResolvers<void>();
    const onSocket = (socket: Socket) => {
      socket.on('close', () => closed.resolve());
      breakOff.abort();
    };
    const result = await withNode(onSocket, port => logIn(port, breakOff.signal));
    assert.ok(result.kind === 'failed');
    assert.deepEqual([result.failure, result.evidence], ['aborted', null]);
    await closed.promise;
    const late = await logIn(1, breakOff.signal);
    assert.ok(late.kind === 'failed' && late.failure === 'aborted');
  });

  test('is not held up by a node that floods: what it says is bounded', async () => {
    const flood = (text: string) => (socket: Socket) => {
      socket.write('* OK [CAPABILITY IMAP4rev1] hi\r\n');
      socket.once('data', () => {
        for (let index = 0; index < 200; index += 1) socket.write(text);
      });
    };
    for (const text of ['* OK still here\r\n', 'x'.repeat(4000), '* X {99999999}\r\n']) {
      const result = await withNode(flood(text), port => logIn(port));
      assert.ok(result.kind === 'failed' && result.failure === 'node-refused', text.slice(0, 20));
    }
  });
});

describe('the login command', () => {
  const written = (given: Credentials, offered: string) => {
    const command = writeLogin(given, new Set(offered.split(' ')));
    return command.ok ? command.parts.map(part => part.toString('latin1')) : command.why;
  };

  test('is chosen by what the node offers', () => {
    const plain = credentials('plain', 'joe', 'pw');
    const master = credentials('plain', 'admin', 'pw', 'joe');
    const cases = [
      [joe, 'IMAP4REV1', ['h LOGIN "joe" "pw"\r\n']],
      [joe, 'LOGINDISABLED AUTH=PLAIN SASL-IR', ['h AUTHENTICATE PLAIN AGpvZQBwdw==\r\n']],
      [joe, 'LOGINDISABLED', 'the node allows no login without TLS (LOGINDISABLED)'],
      [plain, 'AUTH=PLAIN', ['h AUTHENTICATE PLAIN\r\n', 'AGpvZQBwdw==\r\n']],
      [plain, 'IMAP4REV1', ['h LOGIN "joe" "pw"\r\n']],
      [master, 'AUTH=PLAIN SASL-IR', ['h AUTHENTICATE PLAIN am9lAGFkbWluAHB3\r\n']],
      [master, 'IMAP4REV1', 'the node offers no AUTH=PLAIN, which an authorization identity needs'],
      [credentials('login', 'j\r\nx', 'pw'), 'LITERAL+', ['h LOGIN {4+}\r\nj\r\nx "pw"\r\n']],
      [credentials('login', 'joe', '\xe9'), 'IMAP4REV1', ['h LOGIN "joe" {1}\r\n', '\xe9\r\n']],
      [credentials('login', '\xe9', '\xe8'), 'IMAP4REV1', ['h LOGIN {1}\r\n', '\xe9 {1}\r\n', '\xe8\r\n']],
      [
        credentials('login', 'joe', 'x'.repeat(5000)),
        'LITERAL-',
        ['h LOGIN "joe" {5000}\r\n', `${'x'.repeat(5000)}\r\n`],
      ],
    ] as const;
    for (const [given, offered, expected] of cases) assert.deepEqual(written(given, offered), expected);
  });
});
