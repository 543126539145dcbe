/**
 * A body between socket and disk: bounded, in order, and never taken for whole when it was cut.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createBodyFeed } from '../../../src/delivery/body-feed.ts';

async function readAll(feed: AsyncIterable<Buffer>): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of feed) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

test('all that was pushed comes out in order, whoever is faster', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string({ minLength: 1, maxLength: 5 })),
      fc.boolean(),
      async (pieces, first) => {
        const feed = createBodyFeed(4, () => undefined);
        const early = first ? readAll(feed) : null;
        for (const piece of pieces) {
          feed.push(Buffer.from(piece));
          if (first) await Promise.resolve();
        }
        feed.end();
        assert.equal(await (early ?? readAll(feed)), pieces.join(''));
      },
    ),
  );
});

test('a full feed asks for a pause, and for more once there is room', async () => {
  let rooms = 0;
  const feed = createBodyFeed(10, () => {
    rooms += 1;
  });
  assert.equal(feed.push(Buffer.alloc(9)), true);
  assert.equal(feed.push(Buffer.alloc(9)), false);
  assert.equal(rooms, 0);
  const reading = feed[Symbol.asyncIterator]();
  await reading.next();
  assert.equal(rooms, 1);
});

test('a cut body makes its reader fail, also one that waits already; an end after the cut changes nothing', async () => {
  for (const waits of [true, false]) {
    const feed = createBodyFeed(10, () => undefined);
    feed.push(Buffer.from('a'));
    const early = waits ? readAll(feed) : null;
    early?.catch(() => undefined);
    await Promise.resolve();
    feed.cut();
    feed.end();
    await assert.rejects(early ?? readAll(feed), /broke off/);
  }
});

test('once its reader has stopped, a feed takes everything and holds nothing', () => {
  let rooms = 0;
  const feed = createBodyFeed(10, () => {
    rooms += 1;
  });
  feed.push(Buffer.alloc(20));
  feed.drop();
  assert.equal(rooms, 1, 'the socket that was paused goes on');
  assert.equal(feed.push(Buffer.alloc(20)), true);
});
