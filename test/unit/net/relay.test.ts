import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { realClock } from '../../../src/net/clock.ts';
import { createRelay, type Relay, type RelayEnd, type RelayOptions } from '../../../src/net/relay.ts';

const nothing = Buffer.alloc(0);

/** Two connected ends over loopback. */
async function pair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const outer = connect({ port: address.port, host: '127.0.0.1', allowHalfOpen: true });
  const [inner] = (await once(server, 'connection')) as [Socket];
  server.close();
  outer.pause();
  for (const socket of [outer, inner]) socket.on('error', () => {});
  return [outer, inner];
}

interface Bench {
  /** The ends that the client and the node hold. */
  readonly client: Socket;
  readonly node: Socket;
  readonly relay: Relay;
  readonly end: Promise<RelayEnd>;
  readonly inner: readonly [Socket, Socket];
}

async function bench(options: Partial<RelayOptions> = {}): Promise<Bench> {
  const [client, fromClient] = await pair();
  const [node, fromNode] = await pair();
  const { promise, resolve } = Promise.withResolvers<RelayEnd>();
  const relay = createRelay(fromClient, fromNode, {
    clock: realClock,
    toNode: nothing,
    toClient: nothing,
    clientEnded: false,
    isLive: () => true,
    quietMs: 2000,
    onEnd: resolve,
    ...options,
  });
  return { client, node, relay, end: promise, inner: [fromClient, fromNode] };
}

async function readAll(socket: Socket, slow = false): Promise<{ bytes: number; digest: string }> {
  const hash = createHash('sha1');
  let bytes = 0;
  for await (const chunk of socket) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (slow) await new Promise(resolve => setTimeout(resolve, 1));
  }
  return { bytes, digest: hash.digest('hex') };
}

function pattern(bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 1) out[at] = (at * 31 + (at >> 8) * 7) & 0xff;
  return out;
}

const digest = (bytes: Buffer) => createHash('sha1').update(bytes).digest('hex');
const sent = pattern(6 * 1024 * 1024 + 17);

describe('the relay', () => {
  for (const [way, slow] of [
    ['down', false],
    ['down', true],
    ['up', false],
    ['up', true],
  ] as const) {
    test(`carries every byte ${way} to a ${slow ? 'slow' : 'fast'} reader, holding little`, async () => {
      const { client, node, relay, end, inner } = await bench();
      const [from, to] = way === 'down' ? [node, client] : [client, node];
      from.end(sent);
      const read = readAll(to, slow);
      let mostHeld = 0;
      const watch = setInterval(() => {
        mostHeld = Math.max(mostHeld, inner[0].writableLength, inner[1].writableLength);
      }, 1);
      assert.deepEqual(await read, { bytes: sent.length, digest: digest(sent) });
      clearInterval(watch);
      to.end();
      from.resume();
      const result = await end;
      assert.equal(way === 'down' ? relay.bytesOut : relay.bytesIn, sent.length);
      assert.equal(result.why, way === 'down' ? 'node-closed' : 'client-closed');
      assert.equal(result.nodeEnded, true);
      assert.ok(mostHeld <= 256 * 1024, `${mostHeld} bytes held`);
    });
  }

  test('carries both ways at once', async () => {
    const { client, node, end } = await bench();
    client.end(sent);
    node.end(sent);
    const [down, up] = await Promise.all([readAll(client, true), readAll(node)]);
    assert.deepEqual([down.digest, up.digest], [digest(sent), digest(sent)]);
    assert.deepEqual((({ bytesIn, bytesOut }) => [bytesIn, bytesOut])(await end), [sent.length, sent.length]);
  });

  test('puts what was pipelined before what comes later', async () => {
    const { client, node } = await bench({ toNode: Buffer.from('early '), toClient: Buffer.from('a OK ') });
    client.end('late');
    node.end('more');
    assert.equal((await node.toArray()).join(''), 'early late');
    assert.equal((await client.toArray()).join(''), 'a OK more');
  });

  test('lets a client that has said all, even before the relay, read its answers', async () => {
    const { client, node, end } = await bench({ toNode: Buffer.from('a FETCH'), clientEnded: true });
    assert.equal((await node.toArray()).join(''), 'a FETCH');
    node.end('answer');
    assert.equal((await client.toArray()).join(''), 'answer');
    client.end();
    assert.equal((await end).why, 'client-closed');
  });

  test('lets a node that has said all still hear the client', async () => {
    const { client, node, end } = await bench();
    node.end('bye');
    assert.equal((await client.toArray()).join(''), 'bye');
    client.end('thanks');
    assert.equal((await node.toArray()).join(''), 'thanks');
    assert.equal((await end).why, 'node-closed');
  });

  test('ends both sides when the client is reset', async () => {
    const { client, node, end } = await bench();
    client.write('x');
    node.resume();
    await once(node, 'data');
    client.resetAndDestroy();
    await once(node, 'end');
    node.end();
    const result = await end;
    assert.deepEqual([result.why, result.nodeEnded, result.bytesIn], ['client-reset', true, 1]);
  });

  test('ends both sides when the node is reset, and gives the client what came before', async () => {
    const { client, node, end } = await bench();
    node.write('last words');
    client.resume();
    const [words] = await once(client, 'data');
    assert.equal(String(words), 'last words');
    node.resetAndDestroy();
    await once(client, 'end');
    const result = await end;
    assert.deepEqual([result.why, result.nodeEnded], ['node-reset', true]);
  });

  test('closed, gives the node its FIN and waits for the node to end', async () => {
    const { client, node, relay, end } = await bench();
    client.resume();
    node.resume();
    relay.close('moved');
    relay.close('kicked');
    await once(node, 'end');
    let ended = false;
    void end.then(() => {
      ended = true;
    });
    await new Promise(resolve => setTimeout(resolve, 30));
    assert.equal(ended, false, 'ended before the node had');
    node.end();
    assert.deepEqual([(await end).why, (await end).nodeEnded], ['moved', true]);
  });

  test('closed, resets a node that does not end within the quiet time, also one that never reads', async () => {
    const { client, node, relay, end } = await bench({ quietMs: 80 });
    client.write(sent);
    const reset = assert.rejects(once(node, 'close'), { code: 'ECONNRESET' });
    await new Promise(resolve => setTimeout(resolve, 20));
    const startedAt = performance.now();
    relay.close('node-down');
    const result = await end;
    assert.ok(performance.now() - startedAt < 1000);
    assert.deepEqual([result.why, result.nodeEnded], ['node-down', false]);
    node.resume();
    await reset;
    client.destroy();
  });

  test('cut, is gone from the node at once, also with its FIN still under way', async () => {
    const { node, relay, end, inner } = await bench({ quietMs: 60_000 });
    const seen = once(node, 'end');
    node.resume();
    relay.close('node-down');
    relay.cut();
    assert.ok(inner[1].destroyed);
    assert.deepEqual(await end, { why: 'node-down', nodeEnded: false, bytesIn: 0, bytesOut: 0 });
    await seen;
    node.destroy();
  });

  test('closed, lets go of a node that takes nothing: its descriptor too', async () => {
    const { client, node, relay, end, inner } = await bench({ quietMs: 50 });
    // More than the kernel takes, so that the FIN waits behind it.
    client.write(Buffer.alloc(32 * 1024 * 1024));
    while (!inner[1].writableNeedDrain) await new Promise(resolve => setTimeout(resolve, 1));
    const handle = (inner[1] as unknown as { _handle: { fd: number } })._handle;
    assert.ok(handle.fd > 0);
    relay.close('moved');
    assert.equal((await end).nodeEnded, false);
    const deadlineAtMs = performance.now() + 5000;
    while (handle.fd > 0 && performance.now() < deadlineAtMs)
      await new Promise(resolve => setTimeout(resolve, 5));
    assert.ok(handle.fd < 0, 'the descriptor is still open');
    client.destroy();
    node.destroy();
  });

  test('closed, sees the end of the node behind a client that does not read', async () => {
    const { node, relay, end } = await bench({ quietMs: 3000 });
    node.end(sent);
    await new Promise(resolve => setTimeout(resolve, 50));
    relay.close('kicked');
    const startedAt = performance.now();
    assert.equal((await end).nodeEnded, true);
    assert.ok(performance.now() - startedAt < 1500);
  });

  test('passes nothing on while the lease is over, and goes on where it was when the lease is renewed', async () => {
    let live = true;
    const { client, node, end } = await bench({ isLive: () => live });
    client.write('yes ');
    const heard: string[] = [];
    node.on('data', chunk => heard.push(String(chunk)));
    node.resume();
    await once(node, 'data');
    live = false;
    client.end('late');
    node.write('answer');
    await new Promise(resolve => setTimeout(resolve, 120));
    assert.deepEqual([heard.join(''), client.readableLength], ['yes ', 0]);
    live = true;
    await once(node, 'end');
    assert.equal(heard.join(''), 'yes late');
    node.end();
    assert.equal((await client.toArray()).join(''), 'answer');
    assert.deepEqual((({ why, bytesIn, bytesOut }) => [why, bytesIn, bytesOut])(await end), [
      'client-closed',
      8,
      6,
    ]);
  });

  test('drops what it held back when it is closed for good', async () => {
    const { client, node, relay, end } = await bench({ isLive: () => false, toNode: Buffer.from('never') });
    client.write('neither');
    await new Promise(resolve => setTimeout(resolve, 20));
    relay.close('node-down');
    assert.equal((await node.toArray()).join(''), '');
    node.end();
    const result = await end;
    assert.deepEqual([result.why, result.nodeEnded, result.bytesIn], ['node-down', true, 0]);
  });

  test('is not kept for ever by a side that never ends after the other has', async () => {
    const one = await bench({ lingerMs: 40 });
    one.node.end();
    assert.equal((await one.end).why, 'node-closed');
    const two = await bench({ lingerMs: 40, quietMs: 40 });
    two.client.end();
    const result = await two.end;
    assert.deepEqual([result.why, result.nodeEnded], ['client-closed', false]);
  });
});
