import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { appendFile, chmod, mkdir, readFile, symlink, truncate, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { type FileCalls, realFileCalls } from '../../../src/storage/file-calls.ts';
import { type QueueEnvelope, readEnvelope, writeEnvelope } from '../../../src/storage/queue-envelope.ts';
import { openQueueFolder, type QueueBody, type QueueFolder } from '../../../src/storage/queue-folder.ts';

function folderFor(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'queue-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function open(path: string, calls: FileCalls = realFileCalls): Promise<QueueFolder> {
  const opened = await openQueueFolder(path, calls);
  assert.ok(opened.ok);
  return opened.queue;
}

function bodyOf(text: string, streamed = false): QueueBody {
  const bytes = Buffer.from(text);
  return {
    bytes: bytes.length,
    memory: streamed ? null : bytes,
    open: () => Readable.from([bytes], { objectMode: false }),
  };
}

function envelope(id: string, bodyBytes: number): QueueEnvelope {
  const recipient = {
    index: 0,
    address: 'a+x@y',
    user: 'a@y',
    detail: 'x',
    maildirName: '1.M2.host',
    doubt: null,
    last: null,
    refused: false,
  };
  return {
    version: 1,
    id,
    from: 's@z',
    eightBit: true,
    smtpUtf8: false,
    acceptedAtMs: 5,
    bodyBytes,
    attempts: 1,
    nextAtMs: 9,
    recipients: [recipient],
  };
}

async function load(queue: QueueFolder) {
  const entries = new Map<string, QueueEnvelope>();
  const report = await queue.load((key, each) => entries.set(key, each));
  return { entries, report };
}

const chance = 'abc123';

describe('the queue folder', () => {
  test('gives back after a restart what was added, changed and not removed', async t => {
    const path = folderFor(t);
    const queue = await open(path);
    for (const [id, streamed] of [
      ['one', false],
      ['two', true],
      ['three', false],
    ] as const) {
      assert.deepEqual(await queue.add(envelope(id, 7), bodyOf('hello\r\n', streamed), chance), {
        ok: true,
        key: id,
      });
    }
    assert.equal(await queue.update('one', { ...envelope('one', 7), attempts: 4 }), null);
    assert.equal(await queue.remove('three'), null);
    await queue.close();

    const again = await open(path);
    const { entries, report } = await load(again);
    assert.deepEqual([...entries.keys()].sort(), ['one', 'two']);
    assert.equal(entries.get('one')?.attempts, 4);
    assert.deepEqual(entries.get('two'), envelope('two', 7));
    assert.deepEqual(
      { ...report, damaged: [] },
      { entries: 2, damaged: [], damagedCount: 0, leftovers: 0, failure: null },
    );
    for (const memoryBytes of [0, 100]) {
      const body = await again.body('two', 7, memoryBytes);
      assert.ok(body.ok);
      assert.equal(body.body.memory === null, memoryBytes === 0);
      assert.equal(Buffer.concat(await body.body.open().toArray()).toString(), 'hello\r\n');
    }
    await again.close();
  });

  test('a second message with the same id gets a name of its own', async t => {
    const path = folderFor(t);
    const queue = await open(path);
    await queue.add(envelope('same', 3), bodyOf('a\r\n'), chance);
    assert.deepEqual(await queue.add(envelope('same', 3), bodyOf('b\r\n'), chance), {
      ok: true,
      key: 'samexabc123',
    });
    const { entries } = await load(await open(path));
    assert.equal(entries.size, 2);
    await queue.close();
  });

  test('an id that is no plain name never becomes a path', async t => {
    const queue = await open(folderFor(t));
    for (const id of ['../x', '', 'a/b', 'a.b', 'x\0']) {
      assert.equal((await queue.add(envelope(id, 3), bodyOf('a\r\n'), chance)).ok, false);
    }
    await queue.close();
  });

  test('what is torn, foreign or unreadable is put aside and named, and the rest is served', async t => {
    const path = folderFor(t);
    const queue = await open(path);
    for (const id of ['good', 'torn', 'short', 'bodyless', 'newer', 'nobody'])
      await queue.add(envelope(id, 7), bodyOf('hello\r\n'), chance);
    await queue.close();
    await truncate(join(path, 'torn.json'), 40);
    await appendFile(join(path, 'short.body'), 'x');
    await unlink(join(path, 'bodyless.body'));
    await writeFile(join(path, 'newer.json'), JSON.stringify({ ...envelope('newer', 7), version: 2 }));
    await writeFile(join(path, 'nobody.json'), JSON.stringify({ ...envelope('nobody', 7), recipients: [] }));
    await writeFile(join(path, 'README'), 'foreign');
    await writeFile(join(path, 'halfway.body'), 'never acknowledged');
    await writeFile(join(path, 'halfway.json.tmp'), '{"ver');
    await symlink('/etc/passwd', join(path, 'link.json'));
    await mkdir(join(path, 'folder.json'));

    const again = await open(path);
    const { entries, report } = await load(again);
    assert.deepEqual([...entries.keys()], ['good']);
    assert.deepEqual(report.damaged.map(each => each.name).sort(), [
      'README',
      'bodyless.json',
      'folder.json',
      'link.json',
      'newer.json',
      'nobody.json',
      'short.json',
      'torn.json',
    ]);
    assert.equal(report.leftovers, 2);
    assert.deepEqual(readdirSync(path).sort(), ['damaged', 'good.body', 'good.json']);
    assert.ok(readdirSync(join(path, 'damaged')).includes('torn.body'), 'the body is kept with its envelope');
    const third = await load(again);
    assert.equal(third.report.damagedCount, 0, 'and is not reported for ever');
    await again.close();
  });

  test('an entry that is added while the folder is read is never taken for a leftover', async t => {
    const path = folderFor(t);
    const before = await open(path);
    for (let i = 0; i < 200; i += 1) await before.add(envelope(`old${i}`, 3), bodyOf('a\r\n'), chance);
    const queue = await open(path);
    const loading = load(queue);
    const added = await Promise.all(
      Array.from({ length: 50 }, (_, i) => queue.add(envelope(`new${i}`, 3), bodyOf('a\r\n'), chance)),
    );
    const { entries } = await loading;
    assert.ok(added.every(each => each.ok));
    assert.equal([...entries.keys()].filter(key => key.startsWith('old')).length, 200);
    for (let i = 0; i < 50; i += 1) assert.ok((await queue.read(`new${i}`)).ok);
    await Promise.all([before.close(), queue.close()]);
  });

  test('a full or read-only disk at any step is a value, and leaves nothing that comes to life later', async t => {
    for (const errno of ['ENOSPC', 'EROFS', 'EIO']) {
      for (let broken = 1; broken < 12; broken += 1) {
        const path = folderFor(t);
        let count = 0;
        const fail =
          <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
          (...args: A): Promise<R> => {
            count += 1;
            return count === broken
              ? Promise.reject(Object.assign(new Error(errno), { code: errno, syscall: 'x' }))
              : call(...args);
          };
        const calls: FileCalls = { ...realFileCalls };
        const queue = await open(path, calls);
        calls.open = fail(realFileCalls.open);
        calls.write = fail(realFileCalls.write);
        calls.fsync = fail(realFileCalls.fsync);
        calls.rename = fail(realFileCalls.rename);
        const added = await queue.add(envelope('one', 7), bodyOf('hello\r\n'), chance);
        await queue.close();
        const again = await open(path);
        const { entries } = await load(again);
        assert.equal(entries.size, added.ok ? 1 : 0, `${errno} at ${broken}`);
        assert.equal(added.ok, count < broken, `${errno} at ${broken}: told as it is`);
        if (!added.ok)
          assert.equal(
            added.failure.kind,
            { ENOSPC: 'disk-full', EROFS: 'mount-read-only', EIO: 'io-error' }[errno],
          );
        await again.close();
      }
    }
  });

  test('a body that comes shorter than it is said to be is not queued', async t => {
    const queue = await open(folderFor(t));
    const short: QueueBody = { ...bodyOf('abc\r\n', true), bytes: 9 };
    assert.equal((await queue.add(envelope('one', 9), short, chance)).ok, false);
    assert.equal((await load(queue)).entries.size, 0);
    await queue.close();
  });

  test('a missing or forbidden folder is a value', async t => {
    const path = folderFor(t);
    assert.equal((await openQueueFolder(join(path, 'no', 'such'))).ok, false);
    await writeFile(join(path, 'file'), '');
    assert.equal((await openQueueFolder(join(path, 'file'))).ok, false);
    await chmod(path, 0o700);
  });

  test('property: an envelope read back is the one written, and no garbage is taken for one', () => {
    const reply = fc.record({
      code: fc.integer({ min: 200, max: 599 }),
      enhanced: fc.option(fc.constant('4.2.2')),
      lines: fc.array(fc.string()),
    });
    const recipient = fc.record({
      index: fc.nat(),
      address: fc.string({ minLength: 1, unit: 'binary' }),
      user: fc.string({ minLength: 1 }),
      detail: fc.string(),
      maildirName: fc.constantFrom('17.M2P3.host', 'x'),
      doubt: fc.constantFrom(
        null,
        { courier: 'direct' as const },
        { courier: 'node' as const, node: 'mail1' },
      ),
      last: fc.option(fc.record({ node: fc.option(fc.string()), reply })),
      refused: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(recipient, { minLength: 1, maxLength: 4 }),
        fc.string(),
        fc.nat(200),
        (recipients, from, cut) => {
          const whole = { ...envelope('id1', 3), from, recipients };
          const bytes = writeEnvelope(whole);
          // JSON cannot carry a lone surrogate through UTF-8; everything else comes back.
          if (JSON.stringify(whole).isWellFormed()) {
            assert.deepEqual(readEnvelope(bytes), { ok: true, envelope: JSON.parse(JSON.stringify(whole)) });
          }
          assert.equal(readEnvelope(bytes.subarray(0, Math.max(0, bytes.length - 2 - cut))).ok, false);
        },
      ),
    );
    fc.assert(fc.property(fc.json(), text => void readEnvelope(Buffer.from(text))));
    for (const bad of ['../../x', 'a/b', '.hidden', '', 'a:2,S']) {
      const envelopes = {
        ...envelope('i', 1),
        recipients: [{ ...envelope('i', 1).recipients[0], maildirName: bad }],
      };
      assert.equal(readEnvelope(Buffer.from(JSON.stringify(envelopes))).ok, false, bad);
    }
  });
});

describe('kill -9 of a process that queues', () => {
  test('at random instants: every id it acknowledged is there, whole', async t => {
    const path = folderFor(t);
    let acknowledged = 0;
    for (let round = 0; round < 6; round += 1) {
      const child = spawn(
        process.execPath,
        [join(import.meta.dirname, 'queue-child.ts'), path, `r${round}`],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      const ids: string[] = [];
      const enough = 20 + Math.floor(Math.random() * 150);
      for await (const line of createInterface({ input: child.stdout })) {
        ids.push(line);
        if (ids.length === enough) child.kill('SIGKILL');
      }
      assert.ok(ids.length >= enough);
      acknowledged += ids.length;
      const queue = await open(path);
      const { entries, report } = await load(queue);
      assert.equal(report.damagedCount, 0, JSON.stringify(report.damaged));
      for (const id of ids) {
        const entry = entries.get(id);
        assert.ok(entry, id);
        const text = await readFile(join(path, `${id}.body`), 'latin1');
        assert.equal(
          text,
          `Subject: ${id}\r\n\r\n`.concat('x'.repeat(entry.bodyBytes - id.length - 15), '\r\n'),
        );
      }
      await queue.close();
    }
    const queue = await open(path);
    assert.ok((await load(queue)).entries.size >= acknowledged, 'also those of earlier lives');
    await queue.close();
  });
});
