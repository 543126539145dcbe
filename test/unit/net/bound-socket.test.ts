/** Sockets bound by one process and served by another. */
import assert from 'node:assert/strict';
import { type AddressInfo, createServer } from 'node:net';
import { test } from 'node:test';
import { bindSocket } from '../../../src/net/bound-socket.ts';

test('a free port is bound and tells its number', () => {
  const bound = bindSocket('127.0.0.1', 0);
  assert.ok(bound.ok);
  assert.ok(bound.socket.port > 0);
  bound.socket.close();
});

test('a port that somebody listens on is named as in use', async () => {
  const listening = createServer();
  await new Promise<void>(resolve => listening.listen(0, '127.0.0.1', resolve));
  const { port } = listening.address() as AddressInfo;
  const bound = bindSocket('127.0.0.1', port);
  assert.ok(!bound.ok);
  assert.match(bound.why, /EADDRINUSE: the port is in use/);
  await new Promise(resolve => listening.close(resolve));
});

test('an address this machine has not is named', () => {
  const bound = bindSocket('192.0.2.1', 0);
  assert.ok(!bound.ok);
  assert.match(bound.why, /EADDRNOTAVAIL/);
});
