/** What a probe reports of backends that are well, dead, silent or rude. */
import assert from 'node:assert/strict';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { probeBackend } from '../../../src/backend/probe.ts';
import type { Protocol } from '../../../src/core/types.ts';

async function probeAgainst(serve: (socket: Socket) => void, protocol: Protocol = 'imap') {
  const sockets = new Set<Socket>();
  const listening = createServer({ allowHalfOpen: false }, socket => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  await new Promise<void>(resolve => listening.listen(0, '127.0.0.1', resolve));
  const { port } = listening.address() as AddressInfo;
  const result = await probeBackend({ address: '127.0.0.1', port, protocol, timeoutMs: 300 });
  for (const socket of sockets) socket.destroy();
  await new Promise(resolve => listening.close(resolve));
  return { ...result, port };
}

test('a backend that greets is well, in every protocol', async () => {
  const greetings: ReadonlyArray<readonly [Protocol, string]> = [
    ['imap', '* OK [CAPABILITY IMAP4rev1] ready\r\n'],
    ['pop3', '+OK ready\r\n'],
    ['sieve', '"IMPLEMENTATION" "x"\r\nOK\r\n'],
    ['lmtp', '220 mail1 LMTP\r\n'],
    ['submission', '220-mail1\r\n220 ESMTP\r\n'],
  ];
  for (const [protocol, greeting] of greetings) {
    const { evidence } = await probeAgainst(socket => socket.write(greeting), protocol);
    assert.equal(evidence, 'ok', protocol);
  }
});

test('a greeting in pieces is read whole', async () => {
  const { evidence } = await probeAgainst(socket => {
    socket.write('* O');
    setImmediate(() => socket.write('K hello\r\n'));
  });
  assert.equal(evidence, 'ok');
});

test('a refused connection is evidence at once', async () => {
  const { port } = await probeAgainst(socket => socket.write('* OK\r\n'));
  const result = await probeBackend({ address: '127.0.0.1', port, protocol: 'imap', timeoutMs: 300 });
  assert.deepEqual(result, { evidence: 'connect-failed', why: 'ECONNREFUSED' });
});

test('a backend that accepts and says nothing is silent, not dead', async () => {
  const { evidence } = await probeAgainst(() => {});
  assert.equal(evidence, 'greeting-timeout');
});

test('a backend that says goodbye, or anything else, refuses explicitly', async () => {
  assert.equal((await probeAgainst(socket => socket.write('* BYE too many\r\n'))).evidence, 'explicit-error');
  assert.equal(
    (await probeAgainst(socket => socket.write('421 4.3.2 down\r\n'), 'lmtp')).evidence,
    'explicit-error',
  );
  const garbage = await probeAgainst(socket => socket.write(Buffer.alloc(5000, 0xff)));
  assert.equal(garbage.evidence, 'explicit-error');
  assert.ok(garbage.why.length <= 200);
});

test('a backend that hangs up before its greeting failed', async () => {
  assert.equal((await probeAgainst(socket => socket.destroy())).evidence, 'connect-failed');
});
