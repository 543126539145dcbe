/** Map files on disk: all or nothing, and the last good map outlives every mishap. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rename, rm, rmdir, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import type { UserRules } from '../../../src/core/canonical.ts';
import { lookUp } from '../../../src/core/user-map.ts';
import { digestOf, type LoadedMaps, loadMaps } from '../../../src/directory/map-file.ts';
import { watchMaps } from '../../../src/directory/map-watch.ts';

const rules: UserRules = {
  defaultDomain: 'example.org',
  domains: new Set(),
  detail: '+',
  masterSeparator: '',
  affinity: 'user',
  aliases: new Map(),
};

const folder = await mkdtemp(join(tmpdir(), 'homing-map-'));
after(() => rm(folder, { recursive: true }));
let files = 0;

async function file(text: string | Uint8Array): Promise<string> {
  files += 1;
  const path = join(folder, `m${files}.map`);
  await writeFile(path, text);
  return path;
}

function messages(loaded: LoadedMaps): string[] {
  return loaded.ok ? [] : loaded.errors.map(error => `${error.line} ${error.message}`);
}

describe('loading maps', () => {
  test('several files are one map, in their order, and why names file and line', async () => {
    const one = await file('/^a/ -> mail1\n');
    const two = await file('# c\nann -> mail2\n/^./ -> mail3\n');
    const loaded = await loadMaps([one, two], rules);
    assert.ok(loaded.ok);
    assert.match(lookUp(loaded.map, 'ann@example.org')?.why ?? '', /^m\d+\.map:2$/);
    assert.match(lookUp(loaded.map, 'amy@example.org')?.why ?? '', /^m\d+\.map:1$/);
    assert.equal(loaded.map.digest, digestOf(loaded.lines));
  });

  test('no files, and files of comments, are the empty map', async () => {
    for (const list of [[], [await file('# nothing yet\n')]]) {
      const loaded = await loadMaps(list, rules);
      assert.ok(loaded.ok && loaded.map.digest === '');
    }
  });

  test('equal files at different paths have the same digest; another target or line number another', async () => {
    const digests = await Promise.all(
      ['joe -> a\n', 'joe -> a\n# more\n', 'joe -> b\n', '\njoe -> a\n'].map(async (text, i) => {
        const path = join(folder, `d${i}`);
        await mkdir(path);
        await writeFile(join(path, 'users.map'), text);
        const loaded = await loadMaps([join(path, 'users.map')], rules);
        return loaded.ok ? loaded.map.digest : assert.fail();
      }),
    );
    assert.equal(digests[0], digests[1]);
    assert.equal(new Set(digests).size, 3);
  });

  test('a FIFO in place of a file is named, and holds nobody up', async () => {
    const path = join(folder, 'fifo.map');
    execFileSync('mkfifo', [path]);
    assert.deepEqual(messages(await loadMaps([path], rules)), ['0 is not a plain file']);
  });

  test('a missing file, a folder, bad UTF-8 and a duplicate across files are named; nothing is taken', async () => {
    const one = await file('joe -> mail1\n');
    const two = await file('joe -> mail2\n');
    const latin = await file(Uint8Array.from([0x6a, 0xf6, 0x20, 0x2d, 0x3e, 0x20, 0x61]));
    assert.deepEqual(messages(await loadMaps([one, join(folder, 'none.map')], rules)), [
      '0 there is no such file',
    ]);
    assert.deepEqual(messages(await loadMaps([folder], rules)), ['0 is not a plain file']);
    assert.match(messages(await loadMaps([latin], rules))[0] ?? '', /not UTF-8/);
    assert.match(
      messages(await loadMaps([one, two], rules))[0] ?? '',
      /^1 joe@example.org stands already at m\d+\.map:1/,
    );
  });
});

/** A clock whose time stands still until told; `turn` runs what is due and waits until the next poll is armed. */
function manualClock(): {
  now(): number;
  after(ms: number, then: () => void): () => void;
  turn(ms: number): Promise<void>;
  jump(ms: number): void;
} {
  let nowMs = 0;
  const timers = new Set<{ readonly atMs: number; readonly then: () => void }>();
  const jump = (ms: number): void => {
    nowMs += ms;
    for (const timer of [...timers]) {
      if (timer.atMs > nowMs) continue;
      timers.delete(timer);
      timer.then();
    }
  };
  return {
    now: () => nowMs,
    after: (ms, then) => {
      const timer = { atMs: nowMs + ms, then };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    jump,
    turn: async ms => {
      jump(ms);
      // One timer left: the next poll. While a poll runs, only its alarm is there, at 30 s.
      const isIdle = (): boolean =>
        timers.size === 1 && [...timers].every(timer => timer.atMs - nowMs <= 2000);
      while (!isIdle()) await new Promise(resolve => setImmediate(resolve));
    },
  };
}

async function watched(text: string) {
  const path = await file(text);
  const loaded = await loadMaps([path], rules);
  const news: LoadedMaps[] = [];
  const clock = manualClock();
  const digest = loaded.ok ? loaded.map.digest : '';
  const watch = watchMaps({ files: [path], rules, digest, clock, onChange: each => news.push(each) });
  const polls = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i += 1) await clock.turn(2000);
  };
  /** Who joe is placed at by the last news, or its errors. */
  const last = (): string => {
    const each = news.at(-1);
    if (each === undefined) return 'no news';
    return each.ok
      ? JSON.stringify(lookUp(each.map, 'joe@example.org')?.target ?? null)
      : messages(each).join();
  };
  return { path, news, watch, polls, last, clock };
}

describe('watching maps', () => {
  test('a changed file is a new map once it has come to rest; an untouched one is no news', async () => {
    const { path, news, watch, polls, last } = await watched('joe -> mail1\n');
    await polls(3);
    assert.equal(news.length, 0);
    await writeFile(path, 'joe -> mail2\n');
    await polls(1);
    assert.equal(news.length, 0);
    await polls(1);
    assert.equal(last(), '{"node":"mail2"}');
    await polls(5);
    assert.equal(news.length, 1);
    watch.stop();
  });

  test('a rename over the file is seen, and a comment alone is no news', async () => {
    const { path, news, watch, polls, last } = await watched('joe -> mail1\n');
    await writeFile(`${path}.new`, 'joe -> mail3\n');
    await rename(`${path}.new`, path);
    await polls(3);
    assert.equal(last(), '{"node":"mail3"}');
    await writeFile(path, 'joe -> mail3\n# thanks\n');
    await polls(3);
    assert.equal(news.length, 1);
    watch.stop();
  });

  test('an error is told once, and the cure is told', async () => {
    const { path, news, watch, polls, last } = await watched('joe -> mail1\n');
    await writeFile(path, 'joe mail1\n');
    await polls(6);
    assert.match(last(), /^1 has no ->/);
    assert.equal(news.length, 1);
    await writeFile(path, 'joe -> mail1\n');
    await polls(3);
    assert.equal(last(), '{"node":"mail1"}');
    assert.equal(news.length, 2);
    watch.stop();
  });

  test('a file that is gone for a moment is no news; gone for long it is, and so is its return', async () => {
    const { path, news, watch, polls, last } = await watched('joe -> mail1\n');
    await polls(2);
    await unlink(path);
    await polls(3);
    await writeFile(path, 'joe -> mail1\n');
    await polls(3);
    assert.equal(news.length, 0);
    await unlink(path);
    await polls(9);
    assert.equal(last(), '0 there is no such file');
    assert.equal(news.length, 1);
    await writeFile(path, 'joe -> mail2\n');
    await polls(3);
    assert.equal(last(), '{"node":"mail2"}');
    watch.stop();
  });

  test('a file that cannot be read for one poll is no news; for two it is', async () => {
    const { path, news, watch, polls, last } = await watched('joe -> mail1\n');
    await polls(2);
    await rename(path, `${path}.old`);
    await mkdir(path);
    await polls(2);
    await rmdir(path);
    await rename(`${path}.old`, path);
    await polls(3);
    assert.equal(news.length, 0);
    await rename(path, `${path}.old`);
    await mkdir(path);
    await polls(3);
    assert.equal(last(), '0 is not a plain file');
    await polls(30);
    assert.equal(news.length, 1);
    watch.stop();
  });

  test('a file system that hangs is told while it hangs, and so is its return', async () => {
    const { news, watch, polls, last, clock } = await watched('joe -> mail1\n');
    await polls(3);
    clock.jump(2000);
    clock.jump(30_000);
    assert.equal(last(), '0 has not answered for 30 s');
    await polls(3);
    assert.equal(last(), '{"node":"mail1"}');
    assert.equal(news.length, 2);
    watch.stop();
  });

  test('SIGHUP reads at once, tells errors at once, and two in a row do not meet', async () => {
    const { path, news, watch, last } = await watched('joe -> mail1\n');
    await writeFile(path, 'joe -> mail2\n');
    await Promise.all([watch.check(), watch.check()]);
    assert.equal(last(), '{"node":"mail2"}');
    assert.equal(news.length, 1);
    await unlink(path);
    await watch.check();
    assert.equal(last(), '0 there is no such file');
    watch.stop();
  });

  test('after stop there is no news and no timer', async () => {
    const { path, news, watch } = await watched('joe -> mail1\n');
    watch.stop();
    await writeFile(path, 'joe -> mail2\n');
    await watch.check();
    assert.equal(news.length, 0);
  });
});
