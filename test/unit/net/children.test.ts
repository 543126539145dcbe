/** A new parent ends what an earlier one left behind, and nobody else. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  endRecorded,
  recordChildren,
  recordedChildren,
  restartDelayMs,
  startTicksOf,
} from '../../../src/net/children.ts';
import { realClock } from '../../../src/net/clock.ts';

test('recorded children are killed, and a process that only has a reused pid is left alone', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'homing-children-'));
  const path = join(folder, 'children.json');
  const left = spawn('sleep', ['60']);
  const stranger = spawn('sleep', ['60']);
  try {
    const pid = left.pid ?? 0;
    const strangerPid = stranger.pid ?? 0;
    recordChildren(path, [
      { pid, startTicks: startTicksOf(pid) ?? '' },
      { pid: strangerPid, startTicks: '1' },
    ]);
    const ended = new Promise(resolve => left.on('exit', (_code, signal) => resolve(signal)));
    const { found, allGone } = await endRecorded(path, realClock, 5000);
    assert.deepEqual([found.map(one => one.pid), allGone], [[pid], true]);
    assert.equal(await ended, 'SIGKILL');
    assert.notEqual(startTicksOf(strangerPid), null);
  } finally {
    stranger.kill('SIGKILL');
    left.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  }
});

test('a missing or broken record names nobody', () => {
  assert.deepEqual(recordedChildren('/nonexistent/children.json'), []);
  assert.deepEqual(recordedChildren('/proc/version'), []);
});

test('a child that keeps dying is started ever more slowly, up to five seconds', () => {
  assert.deepEqual([0, 1, 2, 5, 50].map(restartDelayMs), [0, 200, 400, 3200, 5000]);
});
