import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import type { Letter } from '../../../src/delivery/courier.ts';
import { createNodeCourier } from '../../../src/delivery/to-node.ts';
import { realClock } from '../../../src/net/clock.ts';
import { type Script, silence, startPeer } from '../backend/lmtp-peer.ts';
import { fakeCluster, nodeAt, recipient } from './fake-cluster.ts';

const timeouts = {
  connectMs: 300,
  greetingMs: 300,
  commandMs: 300,
  goAheadMs: 300,
  stallMs: 300,
  finalMs: 300,
};
const memory = Buffer.from('x\r\n');
const body = { bytes: 3, memory, open: () => Readable.from([memory]), dispose: () => Promise.resolve() };
const letter: Letter = { id: 'L', from: 's@x', body, eightBit: false, smtpUtf8: false, acceptedAtMs: 0 };

async function world(t: TestContext, script: Script = {}) {
  const peer = await startPeer(script);
  const cluster = fakeCluster({ m1: peer.port });
  const courier = createNodeCourier({
    self: null,
    admitting: cluster,
    ownName: 'p',
    timeouts,
    maxPerNode: 4,
    maxWaiting: 10,
    waitMs: 300,
    idleMs: 9000,
    clock: realClock,
    check: { rememberMs: 60 },
  });
  t.after(async () => {
    courier.close();
    await peer.close();
  });
  return { peer, cluster, courier, node: nodeAt('m1', peer.port) };
}

function soon(ms = 2000): number {
  return realClock.now() + ms;
}

describe('the courier to a node', () => {
  test("passes the node's own words, and says which failures are ours", async t => {
    const { courier, node, cluster } = await world(t, {
      rcpt: line =>
        line.includes('no@')
          ? "550 5.1.1 <no@x> User doesn't exist"
          : line.includes('full')
            ? '452 4.2.2 Quota exceeded'
            : '250 OK',
    });
    const recipients = ['a@x', 'no@x', 'full@x', 'grüße@x'].map(recipient);
    const outcomes = await courier.carry({ letter, recipients, node, deadlineAtMs: soon() });
    assert.deepEqual(
      outcomes.map(each => [each.kind, each.reply.code, each.reply.enhanced, each.failure?.kind]),
      [
        ['delivered', 250, '2.0.0', undefined],
        ['rejected', 550, '5.1.1', undefined],
        ['deferred', 452, '4.2.2', undefined],
        ['rejected', 550, '5.6.7', 'no-utf8-route'],
      ],
    );
    assert.deepEqual(outcomes[1]?.reply.lines, ["<no@x> User doesn't exist"]);
    assert.deepEqual(cluster.evidence[0], { node: 'm1', evidence: 'ok' });
  });

  test('after the dot it is in doubt, before it deferred with a failure of ours', async t => {
    const quiet = await world(t, { final: () => silence });
    const [doubt] = await quiet.courier.carry({
      letter,
      recipients: [recipient('a@x')],
      node: quiet.node,
      deadlineAtMs: soon(),
    });
    assert.deepEqual([doubt?.kind, doubt?.node, doubt?.reply.code], ['in-doubt', 'm1', 451]);
    await quiet.peer.close();
    quiet.courier.nodeGone('m1');
    const [gone] = await quiet.courier.carry({
      letter,
      recipients: [recipient('a@x')],
      node: quiet.node,
      deadlineAtMs: soon(),
    });
    assert.deepEqual(
      [gone?.kind, gone?.failure?.kind, gone?.failure?.text],
      ['deferred', 'node-unreachable', 'ECONNREFUSED'],
    );
    const [portless] = await quiet.courier.carry({
      letter,
      recipients: [recipient('a@x')],
      node: nodeAt('m1', 0),
      deadlineAtMs: soon(),
    });
    assert.deepEqual([portless?.kind, portless?.failure?.kind], ['deferred', 'node-unreachable']);
  });
});

describe('asking a node about a recipient', () => {
  test('a burst is one round trip, equal questions are asked once, and only a yes is remembered for a moment', async t => {
    const { courier, node, peer } = await world(t, {
      rcpt: line => (line.includes('no@') ? '550 5.1.1 no' : '250 2.1.5 yes'),
    });
    const ask = (rcpt: string) => courier.verifyRecipient(node, 's@x', rcpt, { deadlineAtMs: soon() });
    const replies = await Promise.all(['a@x', 'no@x', 'a@x', 'b@x'].map(ask));
    assert.deepEqual(
      replies.map(each => each.code),
      [250, 550, 250, 250],
    );
    assert.deepEqual(peer.lines.slice(1), [
      'MAIL FROM:<s@x>',
      'RCPT TO:<a@x>',
      'RCPT TO:<no@x>',
      'RCPT TO:<b@x>',
      'RSET',
    ]);
    await Promise.all(['a@x', 'no@x'].map(ask));
    assert.deepEqual(peer.lines.slice(6), ['MAIL FROM:<s@x>', 'RCPT TO:<no@x>', 'RSET']);
    await new Promise(resolve => setTimeout(resolve, 80));
    await ask('a@x');
    assert.deepEqual(peer.lines.slice(9), ['MAIL FROM:<s@x>', 'RCPT TO:<a@x>', 'RSET']);
  });

  test('a node that is away is told by 4.4.x, in time', async t => {
    const { courier, node, peer } = await world(t, { mail: () => silence, rcpt: () => silence });
    const started = realClock.now();
    const reply = await courier.verifyRecipient(node, 's@x', 'a@x', { deadlineAtMs: soon(100) });
    assert.deepEqual([reply.code, reply.enhanced], [451, '4.4.1']);
    assert.ok(realClock.now() - started < 400);
    await peer.close();
    const gone = await courier.verifyRecipient(node, 's@x', 'a@x', { deadlineAtMs: soon() });
    assert.match(gone.enhanced ?? '', /^4\.4\./);
  });
});
