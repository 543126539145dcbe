/** Delivery lines as the drill reads them: only its own canaries, each way counted, doubt remembered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { canarySender, readDeliveries } from '../../../src/drill/deliveries.ts';

const line = {
  msg: 'delivery',
  user: 'alice@example.org',
  courier: 'node',
  node: 'mail1',
  outcome: 'delivered',
};

test('delivery lines are counted by node, direct and queue, and those in doubt are remembered by name', () => {
  const { tally, inDoubt } = readDeliveries([
    { ...line, from: canarySender(1) },
    { ...line, from: canarySender(2), node: 'mail2' },
    { ...line, from: canarySender(3), courier: 'direct', node: null },
    { ...line, from: canarySender(4), courier: 'queue', node: null, outcome: 'queued' },
    { ...line, from: canarySender(5), outcome: 'deferred' },
    { ...line, from: canarySender(6), outcome: 'in-doubt' },
  ]);
  assert.deepEqual(tally, { byNode: { mail1: 1, mail2: 1 }, direct: 1, queued: 1 });
  assert.deepEqual([...inDoubt], ['6 → alice@example.org']);
});

test("other people's mail and other lines are not the drill's", () => {
  const { tally } = readDeliveries([
    { ...line, from: 'someone@example.net' },
    { ...line, msg: 'session', from: canarySender(1) },
    { text: 'drill-1@ was here' },
    {},
  ]);
  assert.deepEqual(tally, { byNode: {}, direct: 0, queued: 0 });
});
