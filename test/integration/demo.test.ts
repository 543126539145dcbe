/**
 * `npm run demo` and its drill as a visitor runs them, down to Ctrl-C: what is printed, how it ends, and that nothing stays.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { projectDir } from '../lab/homing.ts';
import { allProcesses, killSession, sessionProcesses } from '../lab/processes.ts';
import { waitFor } from '../lab/wait.ts';

interface Demo {
  readonly child: ChildProcess;
  text(): string;
  readonly ended: Promise<number | null>;
}

function startDemo(args: readonly string[]): Demo {
  const child = spawn(process.execPath, [join(projectDir, 'test/demo/demo.ts'), '--free-ports', ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
  });
  let text = '';
  const keep = (bytes: Buffer) => {
    text += bytes.toString('utf8');
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const ended = new Promise<number | null>(resolve => child.once('close', code => resolve(code)));
  process.once('exit', () => killSession(child.pid ?? 0));
  return { child, text: () => text, ended };
}

/** Sessions of what the demo started: each leader's command line names a file in its folder. */
function sessionsIn(folder: string): number[] {
  const ours = allProcesses().filter(row => commandLine(row.pid).includes(folder));
  return [...new Set(ours.map(row => row.session))];
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}

describe('the demo', () => {
  test('prints who lives where and how to connect, obeys orders, and ends with Ctrl-C, leaving nothing', async () => {
    const demo = startDemo([]);
    const shows = (what: RegExp) =>
      waitFor(() => what.exec(demo.text()), {
        what: `the demo to print ${what}`,
        limitMs: 40_000,
        tell: demo.text,
      });
    await shows(/alice@example\.org +mail\d +first in the ranking/);
    await shows(/Ctrl-C ends it all/);
    const [, folder = ''] = await shows(/Mail, settings and logs: (\S+)/);
    const [, imaps = ''] = await shows(/127\.0\.0\.1, port (\d+) SSL\/TLS/);
    assert.match(imaps, /^\d+$/);
    demo.child.stdin?.write('kill mail2\n');
    await shows(/mail2 is dead/);
    demo.child.stdin?.write('start mail2\n');
    await shows(/mail2 runs again/);
    const sessions = sessionsIn(folder);
    assert.equal(sessions.length, 4, 'three nodes and Homing');
    demo.child.kill('SIGINT');
    assert.equal(await demo.ended, 0, demo.text());
    assert.match(demo.text(), /nothing is left running/);
    assert.deepEqual(sessions.flatMap(sessionProcesses), []);
    assert.equal(existsSync(folder), false, `${folder} is still there`);
  });

  test('an unknown option is named, with what there is', async () => {
    const demo = startDemo(['--dril']);
    assert.equal(await demo.ended, 64);
    assert.match(demo.text(), /--dril[\s\S]*--drill/);
  });

  test('the drill kills a node and brings it back, and every promise is kept', async () => {
    const demo = startDemo(['--drill']);
    const code = await demo.ended;
    assert.equal(code, 0, demo.text());
    assert.match(demo.text(), /All promises were kept\./);
    assert.match(demo.text(), / 0 lost, 0 twice/);
    const [, acknowledged = '0'] = /(\d+) acknowledged/.exec(demo.text()) ?? [];
    assert.ok(Number(acknowledged) > 200, `${acknowledged} acknowledged`);
  });
});
