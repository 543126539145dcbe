/**
 * Drains a queue folder to a node that is a file: each recipient that it accepts is a line in it, written before its reply.
 * Prints how many recipients the folder calls in doubt at the start, and `empty` at the end. Ended by kill -9 (queue-runner.test.ts).
 */
import { appendFileSync, writeSync } from 'node:fs';
import type { Courier } from '../../../src/delivery/courier.ts';
import { createDispatch } from '../../../src/delivery/dispatch.ts';
import { createQueueRunner, queueRunnerDefaults } from '../../../src/delivery/queue-runner.ts';
import { realClock } from '../../../src/net/clock.ts';
import { openQueueFolder } from '../../../src/storage/queue-folder.ts';
import { fakeCluster, quietLog } from './fake-cluster.ts';

const [path = '', record = ''] = process.argv.slice(2);
const opened = await openQueueFolder(path);
if (!opened.ok) throw new Error('no queue');
const cluster = fakeCluster({ m1: 1 });
const node: Courier = {
  name: 'node',
  carry: async ({ recipients }) => {
    await new Promise(resolve => setTimeout(resolve, Math.random() * 6));
    return recipients.map(({ address }) => {
      if (Math.random() < 0.3)
        return {
          kind: 'deferred',
          courier: 'node',
          node: 'm1',
          reply: { code: 451, enhanced: null, lines: ['later'] },
        };
      appendFileSync(record, `${address}\n`);
      return {
        kind: 'delivered',
        courier: 'node',
        node: 'm1',
        reply: { code: 250, enhanced: null, lines: ['ok'] },
      };
    });
  },
};
const dispatch = createDispatch({
  admitting: cluster,
  couriers: [node],
  settleMs: 100,
  clock: realClock,
  log: quietLog(),
});
const runner = createQueueRunner({
  ...queueRunnerDefaults,
  queue: opened.queue,
  dispatch,
  admitting: cluster,
  bounce: async () => ({ kind: 'kept' }),
  whenHomeDown: [],
  startsPerSecond: 2000,
  schedule: { firstMs: 5, factor: 1, longestMs: 5, lifeMs: 3_600_000, jitter: 0 },
  clock: realClock,
  log: quietLog(),
});
let doubts = 0;
const counting = await openQueueFolder(path);
if (counting.ok)
  await counting.queue.load(
    (_, envelope) => (doubts += envelope.recipients.filter(each => each.doubt !== null).length),
  );
await runner.start();
runner.flush();
writeSync(1, `doubts ${doubts}\n`);
while (runner.counts().entries > 0) await new Promise(resolve => setTimeout(resolve, 5));
writeSync(1, 'empty\n');
process.exit(0);
