import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { type Journal, openJournal } from '../../../src/storage/journal.ts';

let folder = '';
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'homing-journal-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true }));

const file = (): string => path.join(folder, 'j');
function open(maxRecordBytes?: number): { journal: Journal; records: readonly unknown[]; tornBytes: number } {
  const opened = openJournal({
    folder,
    name: 'j',
    ...(maxRecordBytes === undefined ? {} : { maxRecordBytes }),
  });
  assert.ok(opened.ok, JSON.stringify(opened));
  return opened;
}
function write(...records: readonly unknown[]): number[] {
  const { journal } = open();
  const ends = records.map(record => {
    assert.ok(journal.append(record).ok);
    return journal.bytes;
  });
  journal.close();
  return ends;
}
function read(): readonly unknown[] {
  const { journal, records } = open();
  journal.close();
  return records;
}

describe('the journal', () => {
  test('gives back what was kept, in order', () => {
    write({ a: 1 }, ['zwei', 'ü'], 3);
    write('more');
    assert.deepEqual(read(), [{ a: 1 }, ['zwei', 'ü'], 3, 'more']);
  });

  test('a file that never was a journal is refused as it is; zeros that a crash left are a torn tail', () => {
    fs.writeFileSync(file(), 'nodes: []\n');
    const opened = openJournal({ folder, name: 'j' });
    assert.ok(!opened.ok);
    assert.match(opened.why, /j is no journal/);
    assert.equal(fs.readFileSync(file(), 'utf8'), 'nodes: []\n');
    fs.writeFileSync(file(), Buffer.alloc(4096));
    assert.deepEqual(read(), []);
  });

  test('torn at any byte: every record that was whole is there, and it can be written on', () => {
    const ends = write({ first: 'x' }, { second: 'HJ01 yy' }, { third: 'zzz' });
    const content = fs.readFileSync(file());
    for (let cut = 0; cut <= content.length; cut += 1) {
      fs.writeFileSync(file(), content.subarray(0, cut));
      const whole = ends.filter(end => end <= cut).length;
      const { journal, records, tornBytes } = open();
      assert.equal(records.length, whole, `cut at ${cut}`);
      assert.equal(tornBytes, cut - (ends[whole - 1] ?? 0));
      assert.ok(journal.append('after').ok);
      journal.close();
      assert.equal(read().at(-1), 'after');
    }
  });

  test('a tail of zeros or garbage, as a power cut leaves it, is cut off', () => {
    for (const tail of [
      Buffer.alloc(100),
      Buffer.from('HJ01garbage that is no record'),
      Buffer.alloc(5000, 0xff),
    ]) {
      fs.rmSync(file(), { force: true });
      write('kept');
      fs.appendFileSync(file(), tail);
      assert.deepEqual(read(), ['kept']);
      assert.equal(fs.readFileSync(file()).includes(tail), false);
    }
  });

  test('any changed byte in the middle is reported with its place, and the file is left alone', () => {
    const [first = 0] = write({ first: 1 }, { second: 2 }, { third: 3 });
    const content = fs.readFileSync(file());
    const second = content.indexOf('HJ01', first + 1);
    for (let at = 0; at < second; at += 1) {
      const damaged = Buffer.from(content);
      damaged[at] = (damaged[at] ?? 0) ^ 0x41;
      fs.writeFileSync(file(), damaged);
      const opened = openJournal({ folder, name: 'j' });
      assert.ok(!opened.ok, `byte ${at} was not noticed`);
      assert.match(opened.why, new RegExp(`damaged at byte ${at < first ? 0 : first} of ${content.length}`));
      assert.deepEqual(fs.readFileSync(file()), damaged);
    }
  });

  test('a missing record in the middle is damage too', () => {
    const [first = 0, second = 0] = write('one', 'two', 'three');
    const content = fs.readFileSync(file());
    fs.writeFileSync(file(), Buffer.concat([content.subarray(0, first), content.subarray(second)]));
    assert.equal(openJournal({ folder, name: 'j' }).ok, false);
  });

  test('a record over the limit is refused, and the journal goes on', () => {
    const { journal } = open(100);
    const refused = journal.append('x'.repeat(101));
    assert.ok(!refused.ok && /over the limit of 100/.test(refused.why));
    assert.ok(journal.append('small').ok);
    journal.close();
    assert.deepEqual(read(), ['small']);
  });

  test('rewriting replaces all; what a crash left of another rewriting is no matter', () => {
    write(1, 2, 3);
    fs.writeFileSync(`${file()}.new`, 'half');
    const { journal } = open();
    assert.ok(journal.rewrite(['all']).ok);
    assert.ok(journal.append('more').ok);
    journal.close();
    assert.deepEqual(read(), ['all', 'more']);
    assert.deepEqual(fs.readdirSync(folder), ['j']);
  });

  test('a rewriting that fails leaves the old file, and says why', () => {
    write('old');
    const { journal } = open();
    fs.mkdirSync(`${file()}.new`);
    const failed = journal.rewrite(['new']);
    assert.ok(!failed.ok && failed.why.includes('j.new'));
    assert.ok(journal.append('still').ok);
    journal.close();
    fs.rmdirSync(`${file()}.new`);
    assert.deepEqual(read(), ['old', 'still']);
  });

  test('a disk that fills up within a record: refused, cut back, and written on when there is room', () => {
    // A file size limit stands in for a full disk: the write comes short, then fails.
    const script = `
      import { openJournal } from ${JSON.stringify(path.resolve(import.meta.dirname, '../../../src/storage/journal.ts'))};
      process.on('SIGXFSZ', () => undefined);
      const { journal } = openJournal({ folder: ${JSON.stringify(folder)}, name: 'j' });
      const replies = ['a', 'x'.repeat(9000), 'b'].map(record => journal.append(record));
      console.log(JSON.stringify(replies));`;
    const node = `"$0" --input-type=module -e "$1"`;
    const out = spawnSync('sh', ['-c', `ulimit -f 8; ${node}`, process.execPath, script], {
      encoding: 'utf8',
    });
    const replies = JSON.parse(out.stdout) as { ok: boolean; why?: string }[];
    assert.deepEqual(
      replies.map(reply => reply.ok),
      [true, false, true],
      out.stdout,
    );
    assert.match(replies[1]?.why ?? '', /EFBIG/);
    assert.deepEqual(read(), ['a', 'b']);
  });

  test('kill -9 at any moment: no number that was told is missing, none is twice', async () => {
    let told = -1;
    for (let round = 0; round < 5; round += 1) {
      const writer = spawn(process.execPath, [path.join(import.meta.dirname, 'journal-writer.ts'), folder]);
      let out = '';
      writer.stdout.on('data', (chunk: Buffer) => {
        out += chunk.toString();
        if (out.length > 300 + round * 97) writer.kill('SIGKILL');
      });
      await new Promise(resolve => writer.on('close', resolve));
      const lines = out.split('\n').slice(0, -1).map(Number);
      assert.ok(lines.length > 10, out);
      assert.ok((lines[0] ?? -1) > told, 'a told number was given again: it was forgotten');
      told = lines.at(-1) ?? told;
      const records = read() as { n: number }[];
      const last = records.at(-1)?.n ?? -1;
      assert.ok(last >= told, `told ${told}, kept ${last}`);
      for (const [i, record] of records.entries()) assert.equal(record.n, (records[0]?.n ?? 0) + i);
    }
  });
});
