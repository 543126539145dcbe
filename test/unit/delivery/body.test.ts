/** Spooled bodies: what goes in comes out, memory and files are bounded and given back, and a broken disk is a value. */
import assert from 'node:assert/strict';
import { mkdtempSync, openSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import fc from 'fast-check';
import { type BodySpool, createBodySpool } from '../../../src/delivery/body.ts';

const folder = mkdtempSync(join(tmpdir(), 'homing-body-'));
after(() => rmSync(folder, { recursive: true, force: true }));

async function spooled(spool: BodySpool, pieces: readonly Buffer[]) {
  const writer = spool.begin(`t${Math.round(performance.now() * 1000)}`);
  for (const piece of pieces) await writer.write(piece);
  const finished = await writer.finish();
  assert.ok(finished.ok);
  return finished.body;
}

async function bytesOf(reader: AsyncIterable<unknown>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of reader) pieces.push(Buffer.from(piece as Uint8Array));
  return Buffer.concat(pieces);
}

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

/** Descriptors of this process that are open on unlinked files of the folder. */
function openFiles(): number {
  return readdirSync('/proc/self/fd').filter(fd => linkOf(fd).startsWith(folder)).length;
}

describe('a spooled body', () => {
  test('in memory or in a file, it reads back as it was written, as often as wanted and at once', async () => {
    const spool = createBodySpool({ folder, memoryBytes: 1000 });
    const pieces = fc.array(fc.uint8Array({ maxLength: 700 }), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(pieces, async parts => {
        const wanted = Buffer.concat(parts);
        const body = await spooled(
          spool,
          parts.map(part => Buffer.from(part)),
        );
        assert.equal(body.bytes, wanted.length);
        assert.equal(body.memory === null, wanted.length > 1000);
        if (body.memory !== null) assert.deepEqual(body.memory, wanted);
        const read = await Promise.all([bytesOf(body.open()), bytesOf(body.open()), bytesOf(body.open())]);
        for (const each of read) assert.deepEqual(each, wanted);
        await body.dispose();
        await body.dispose();
      }),
      { numRuns: 200 },
    );
    assert.equal(spool.memoryInUseBytes(), 0);
    assert.equal(openFiles(), 0);
  });

  test('a large one costs little memory, leaves no name in the folder, and gives its file back', async () => {
    const spool = createBodySpool({ folder });
    const writer = spool.begin('large');
    const piece = Buffer.alloc(64 * 1024, 'x');
    let most = 0;
    for (let n = 0; n < 200; n++) {
      await writer.write(piece);
      most = Math.max(most, spool.memoryInUseBytes());
    }
    assert.ok(most <= 512 * 1024, `held ${most} bytes`);
    const finished = await writer.finish();
    assert.ok(finished.ok);
    assert.equal(spool.memoryInUseBytes(), 0);
    assert.deepEqual(readdirSync(folder), []);
    assert.equal(openFiles(), 1);
    assert.equal((await bytesOf(finished.body.open())).length, 200 * 64 * 1024);
    await finished.body.dispose();
    assert.equal(openFiles(), 0);
  });

  test('past the limit of the process even small messages go to files', async () => {
    const spool = createBodySpool({ folder, memoryBytes: 1000, totalMemoryBytes: 2500 });
    const bodies = [];
    for (let n = 0; n < 4; n++) bodies.push(await spooled(spool, [Buffer.alloc(900, 'x')]));
    assert.deepEqual(
      bodies.map(body => body.memory !== null),
      [true, true, false, false],
    );
    assert.equal(spool.memoryInUseBytes(), 1800);
    for (const body of bodies) await body.dispose();
    assert.equal(spool.memoryInUseBytes(), 0);
  });

  test('a writer that nobody waits for makes its client wait instead of growing', async () => {
    const spool = createBodySpool({ folder, memoryBytes: 1000 });
    const writer = spool.begin('hasty');
    let told = 0;
    const waits: Promise<void>[] = [];
    for (let n = 0; n < 20; n++) {
      const wait = writer.write(Buffer.alloc(64 * 1024));
      if (wait !== null) {
        told++;
        waits.push(wait);
      }
    }
    assert.ok(told >= 18);
    await Promise.all(waits);
    const finished = await writer.finish();
    assert.ok(finished.ok);
    assert.equal(finished.body.bytes, 20 * 64 * 1024);
    await finished.body.dispose();
  });

  test('a folder that is not there is an outage, not a crash, and costs nothing', async () => {
    const spool = createBodySpool({ folder: join(folder, 'gone'), memoryBytes: 10 });
    const writer = spool.begin('none');
    await writer.write(Buffer.alloc(100));
    await writer.write(Buffer.alloc(100));
    const finished = await writer.finish();
    assert.deepEqual(finished, { ok: false, failure: { kind: 'io-error', text: 'ENOENT open' } });
    assert.equal(spool.memoryInUseBytes(), 0);
  });

  test('a full disk is the failure disk-full', async () => {
    const openFile = async () => openSync('/dev/full', 'w');
    const spool = createBodySpool({ folder, memoryBytes: 10, openFile });
    const writer = spool.begin('full');
    for (let n = 0; n < 8; n++) await writer.write(Buffer.alloc(65536));
    const finished = await writer.finish();
    assert.deepEqual(finished, { ok: false, failure: { kind: 'disk-full', text: 'ENOSPC write' } });
    assert.equal(spool.memoryInUseBytes(), 0);
    assert.equal(
      readdirSync('/proc/self/fd').some(fd => linkOf(fd) === '/dev/full'),
      false,
    );
  });

  test('one that is given up midway leaves neither memory nor a file', async () => {
    const spool = createBodySpool({ folder, memoryBytes: 1000 });
    const small = spool.begin('small');
    await small.write(Buffer.alloc(10));
    await small.abort();
    const large = spool.begin('large');
    const wait = large.write(Buffer.alloc(100_000));
    await large.abort();
    await wait;
    await large.abort();
    assert.equal(large.write(Buffer.alloc(10)), null);
    assert.equal(spool.memoryInUseBytes(), 0);
    assert.equal(openFiles(), 0);
  });

  test('a reader that is still open when the body goes ends with an error, never with bytes of another file', async () => {
    const spool = createBodySpool({ folder, memoryBytes: 1000 });
    const body = await spooled(spool, [Buffer.alloc(500_000, 'x')]);
    const reader = body.open();
    const late = new Promise<Error>(resolve => reader.once('error', resolve));
    await new Promise<void>(resolve => reader.once('readable', resolve));
    await body.dispose();
    assert.match((await late).message, /disposed/);
    await assert.rejects(bytesOf(body.open()), /disposed/);
    assert.equal(openFiles(), 0);
  });
});
