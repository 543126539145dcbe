import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { addressGroup, isLoopback, type Listener, openListener } from '../../../src/net/listener.ts';

async function open(
  limits: { maxConnections: number; maxPerAddress: number },
  onSocket: (socket: Socket) => void,
) {
  const lines: string[] = [];
  const log = pino({ level: 'info' }, { write: (text: string) => void lines.push(text) });
  const result = await openListener({ address: '127.0.0.1', port: 0, ...limits, onSocket, log });
  assert.ok(result.ok);
  return { listener: result.listener, lines };
}

function dial(listener: Listener, localAddress = '127.0.0.1'): Socket {
  const socket = connect({ port: listener.address().port, host: '127.0.0.1', localAddress });
  socket.on('error', () => {});
  socket.resume();
  return socket;
}

const greet = (socket: Socket) => {
  socket.on('error', () => {});
  socket.on('end', () => socket.end());
  socket.resume();
  socket.write('hello');
};

/** `hello`, or `closed` where the connection was turned away. */
async function answerOf(socket: Socket): Promise<string> {
  return Promise.race([
    once(socket, 'data').then(([bytes]) => String(bytes)),
    once(socket, 'close').then(() => 'closed'),
  ]);
}

describe('a listener', () => {
  test('turns away what is beyond the cap of one address, not of others, and takes it again when one has left', async () => {
    const { listener, lines } = await open({ maxConnections: 10, maxPerAddress: 2 }, greet);
    const [one, two] = [dial(listener), dial(listener)];
    assert.deepEqual(await Promise.all([one, two].map(answerOf)), ['hello', 'hello']);
    assert.equal(await answerOf(dial(listener)), 'closed');
    const other = dial(listener, '127.0.0.2');
    assert.equal(await answerOf(other), 'hello');
    one.destroy();
    await new Promise<void>(resolve => {
      const look = () => (listener.count() === 2 ? resolve() : setImmediate(look));
      look();
    });
    const again = dial(listener);
    assert.equal(await answerOf(again), 'hello');
    for (const socket of [two, other, again]) socket.destroy();
    await listener.close();
    assert.match(lines.join(''), /2 are open from one address/);
  });

  test('turns away what is beyond the total, and says so once, not once a connection', async () => {
    const { listener, lines } = await open({ maxConnections: 1, maxPerAddress: 10 }, greet);
    const kept = dial(listener);
    assert.equal(await answerOf(kept), 'hello');
    const surplus = Array.from({ length: 50 }, () => dial(listener));
    assert.deepEqual(new Set(await Promise.all(surplus.map(answerOf))), new Set(['closed']));
    assert.equal(lines.length, 1);
    kept.destroy();
    await listener.close();
  });

  test('that cannot be opened says why', async () => {
    const { listener } = await open({ maxConnections: 1, maxPerAddress: 1 }, greet);
    const log = pino({ level: 'silent' });
    const { port } = listener.address();
    const second = await openListener({
      address: '127.0.0.1',
      port,
      maxConnections: 1,
      maxPerAddress: 1,
      onSocket: greet,
      log,
    });
    assert.ok(!second.ok && second.why.includes('EADDRINUSE'));
    const closed = await openListener({
      fd: 9999,
      maxConnections: 1,
      maxPerAddress: 1,
      onSocket: greet,
      log,
    });
    assert.equal(closed.ok, false);
    await listener.close();
  });

  test('survives running out of descriptors, and serves again when some are free', async () => {
    const child = spawn(
      'sh',
      ['-c', `ulimit -n 60; exec "${process.execPath}" "${join(import.meta.dirname, 'few-descriptors.ts')}"`],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    );
    const text = String((await once(child.stdout, 'data'))[0]);
    const port = Number(text);
    const sockets = Array.from({ length: 100 }, () => {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      return socket;
    });
    const answers = await Promise.all(
      sockets.map(socket => {
        socket.resume();
        return answerOf(socket);
      }),
    );
    assert.ok(answers.includes('hello') && answers.includes('closed'), answers.join());
    for (const socket of sockets) socket.destroy();
    let answer = 'closed';
    for (let tries = 0; answer !== 'hello' && tries < 100; tries += 1) {
      await new Promise(resolve => setTimeout(resolve, 50));
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      answer = await answerOf(socket);
      socket.destroy();
    }
    assert.equal(answer, 'hello');
    assert.equal(child.exitCode, null);
    child.kill();
  });
});

describe('an address', () => {
  test('counts by IPv4 address or by IPv6 /64, however it is written', () => {
    const cases = [
      ['192.0.2.1', '192.0.2.1'],
      ['::ffff:192.0.2.1', '192.0.2.1'],
      ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
      ['2001:DB8:1:2::9', '2001:db8:1:2::/64'],
      ['2001:db8::9', '2001:db8:0:0::/64'],
      ['fe80::1%eth0', 'fe80:0:0:0::/64'],
      ['::1', '0:0:0:0::/64'],
    ] as const;
    for (const [address, group] of cases) assert.equal(addressGroup(address), group);
    assert.notEqual(addressGroup('2001:db8:1:2::1'), addressGroup('2001:db8:1:3::1'));
  });

  test('of the loopback is known as such', () => {
    for (const address of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1'])
      assert.ok(isLoopback(address));
    for (const address of ['192.0.2.1', '::', 'x127.0.0.1', '2001:db8::127.0.0.1'])
      assert.ok(!isLoopback(address));
  });
});
