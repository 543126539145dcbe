/**
 * A delivery is durable only if a folder sync that started after its link has ended.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createJoinedSync } from '../../../src/storage/joined-sync.ts';

interface Running {
  readonly started: number;
  end(error?: Error): void;
}

function world() {
  let time = 0;
  const running: Running[] = [];
  const joined = createJoinedSync(
    () =>
      new Promise((resolve, reject) => {
        time += 1;
        const started = time;
        running.push({ started, end: error => (error === undefined ? resolve() : reject(error)) });
      }),
  );
  return {
    joined,
    running,
    now: () => {
      time += 1;
      return time;
    },
    count: () => running.length,
  };
}

const settled = () => new Promise<void>(resolve => setImmediate(resolve));

test('who asks while a sync runs waits for the next one, and all of them share it', async () => {
  const { joined, running } = world();
  let done = 0;
  const ask = () => joined.sync().then(() => (done += 1));
  void ask();
  void ask();
  void ask();
  running[0]?.end();
  await settled();
  assert.equal(done, 1);
  assert.equal(running.length, 2);
  running[1]?.end();
  await settled();
  assert.equal(done, 3);
});

test('a failed sync fails those who waited for it, and the next one is a new try', async () => {
  const { joined, running } = world();
  const first = joined.sync();
  const second = joined.sync();
  running[0]?.end(new Error('EIO'));
  await assert.rejects(first, /EIO/);
  await settled();
  running[1]?.end();
  await second;
});

test('no answer ever comes from a sync that started before the question', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom('ask', 'end', 'turn'), { minLength: 3, maxLength: 40 }),
      async steps => {
        const { joined, running, now } = world();
        let ended = 0;
        let answers = 0;
        const waits: Promise<void>[] = [];
        for (const step of [...steps, ...steps.map(() => 'end'), 'end']) {
          if (step === 'ask') {
            const askedAt = now();
            const wait = joined.sync().then(() => {
              answers += 1;
              const latest = running
                .slice(0, ended)
                .map(one => one.started)
                .at(-1);
              assert.ok(latest !== undefined && latest > askedAt);
            });
            waits.push(wait);
          } else if (step === 'end' && running[ended] !== undefined) {
            running[ended]?.end();
            ended += 1;
            await settled();
          } else await settled();
        }
        while (running[ended] !== undefined) {
          running[ended]?.end();
          ended += 1;
          await settled();
        }
        await Promise.all(waits);
        assert.equal(answers, steps.filter(step => step === 'ask').length);
      },
    ),
    { numRuns: 200 },
  );
});
