/** The log's promises: it outlives rotations and full disks, and costs lines at most. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { openLog } from '../../../src/observe/log.ts';
import { waitFor, within } from '../../lab/wait.ts';

const folder = mkdtempSync(join(tmpdir(), 'homing-log-'));
after(() => rmSync(folder, { recursive: true }));

const options = { level: 'info', role: 'parent' };
const messages = (file: string) =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map(line => (JSON.parse(line) as { msg: string }).msg);

describe('the log', () => {
  test('is written on in a new file after mv and reopen', () => {
    const file = join(folder, 'new/rotated.log');
    const { log, reopen } = openLog({ ...options, file });
    log.info('one');
    renameSync(file, `${file}.1`);
    log.info('two');
    reopen();
    log.info('three');
    assert.deepEqual(messages(`${file}.1`), ['one', 'two']);
    assert.deepEqual(messages(file), ['three']);
  });

  test('goes on in the old file where a new one cannot be made, says why, and takes the next chance', () => {
    const inside = join(folder, 'inside');
    const file = join(inside, 'a.log');
    const { log, reopen } = openLog({ ...options, file });
    renameSync(inside, `${inside}.old`);
    writeFileSync(inside, 'in the way');
    reopen();
    log.info('still here');
    assert.deepEqual(messages(join(`${inside}.old`, 'a.log')), [
      'the log goes on in the old file',
      'still here',
    ]);
    rmSync(inside);
    reopen();
    log.info('here');
    assert.deepEqual(messages(file), ['here']);
  });

  test('a full disk throws at nobody', () => {
    const { log } = openLog({ ...options, file: '/dev/full' });
    for (let line = 0; line < 10_000; line += 1) log.info({ line }, 'to nowhere');
  });

  test('what was lost is counted, and told of once there is room', () => {
    const file = join(folder, 'link.log');
    symlinkSync('/dev/full', file);
    const { log, reopen } = openLog({ ...options, file });
    log.info('lost');
    log.info('lost too');
    rmSync(file);
    reopen();
    log.info('kept');
    assert.deepEqual(messages(file), ['kept', 'lines of this log were lost']);
    const told = JSON.parse(readFileSync(file, 'utf8').split('\n')[1] ?? '') as {
      lines: number;
      why: string;
    };
    assert.equal(told.lines, 2);
    assert.match(told.why, /ENOSPC/);
  });

  test('a reader that is stuck costs lines and a second, not the process; one that is slow costs nothing', async () => {
    const script = `const { openLog } = await import(${JSON.stringify(join(import.meta.dirname, '../../../src/observe/log.ts'))});
      process.stdout.on('error', () => {});
      const { log } = openLog({ level: 'info', role: 'x', file: '-' });
      for (let line = 0; line < 5000; line += 1) log.info({ line, pad: 'x'.repeat(200) }, 'a line');
      process.stderr.write('done');`;
    for (const isStuck of [false, true]) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let lines = 0;
      if (!isStuck) {
        child.stdout.on('data', (chunk: Buffer) => {
          lines += chunk.toString('latin1').split('\n').length - 1;
        });
      }
      await within(
        new Promise(resolve => child.stderr.once('data', resolve)),
        4000,
        'the logging process to go on',
      );
      if (!isStuck) await waitFor(() => lines === 5000, { what: 'all lines', tell: () => `${lines}` });
      child.kill('SIGKILL');
    }
  });

  test('a device is never given away', () => {
    const before = statSync('/dev/null');
    openLog({ ...options, file: '/dev/null', owner: { uid: 65_534, gid: 65_534 } }).reopen();
    const now = statSync('/dev/null');
    assert.deepEqual([now.uid, now.gid, now.mode], [before.uid, before.gid, before.mode]);
  });
});
