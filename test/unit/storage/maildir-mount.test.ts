/**
 * Real mounts: a full file system, a read-only one, one that is unmounted, and a mount point that only looks like the spool.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { type Ending, openTempFolder } from '../../lab/temp-folder.ts';
import { assertRoot, openSpoolWorld, wish } from './spool-world.ts';

const joe = 'joe@example.org';

before(assertRoot);

/** A folder that may be mounted on: whatever is mounted there or below is unmounted before it is removed. */
async function mountPoint(ending: Ending): Promise<string> {
  const folder = await openTempFolder('mount');
  ending.after(async () => {
    for (const path of mountsIn(folder.path)) execFileSync('umount', ['-l', path]);
    await folder.remove();
  });
  return folder.path;
}

/** A small file system of its own. */
async function mounted(ending: Ending, options = 'size=512k'): Promise<string> {
  const path = await mountPoint(ending);
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'homing-test', path]);
  return path;
}

function mountsIn(path: string): readonly string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' ')[1] ?? '')
    .filter(mount => mount === path || mount.startsWith(`${path}/`))
    .reverse();
}

test('a full disk is 451 disk-full without a trace; what fitted is whole; with room again mail arrives', async t => {
  const root = await mounted(t);
  const world = await openSpoolWorld(t, { root });
  world.addMaildir(joe);
  const text = `Subject: big\r\n\r\n${`${'x'.repeat(70)}\r\n`.repeat(1000)}`;
  const delivered: string[] = [];
  const kinds = new Set<string>();
  for (let i = 0; i < 20; i += 1) {
    const written = await world.maildirs.deliver(wish({ name: `${i}.x`, text }));
    if (written.ok) delivered.push(written.file);
    else kinds.add(written.failure.kind);
  }
  assert.deepEqual([...kinds], ['disk-full']);
  assert.ok(delivered.length > 2 && delivered.length < 10);
  assert.deepEqual(world.names(joe, 'new'), delivered.sort());
  assert.deepEqual(world.names(joe, 'tmp'), []);
  for (const file of delivered) {
    const size = readFileSync(join(world.maildirOf(joe), 'new', file)).length;
    assert.match(file, new RegExp(`,S=${size},`));
  }
  rmSync(join(world.maildirOf(joe), 'new', delivered[0] ?? ''));
  assert.ok((await world.maildirs.deliver(wish({ name: '21.x', text }))).ok);
});

test('a disk without inodes is disk-full too', async t => {
  const root = await mounted(t, 'size=512k,nr_inodes=14');
  const world = await openSpoolWorld(t, { root });
  world.addMaildir(joe);
  let failure = '';
  for (let i = 0; i < 12 && failure === ''; i += 1) {
    const written = await world.maildirs.deliver(wish({ name: `${i}.x` }));
    if (!written.ok) failure = written.failure.kind;
  }
  assert.equal(failure, 'disk-full');
  assert.deepEqual(world.names(joe, 'tmp'), []);
});

test('a file system that turned read-only is mount-read-only, and works again when it is writable', async t => {
  const root = await mounted(t);
  const world = await openSpoolWorld(t, { root });
  world.addMaildir(joe);
  assert.ok((await world.maildirs.deliver(wish({ name: '1.x' }))).ok);
  execFileSync('mount', ['-o', 'remount,ro', root]);
  const written = await world.maildirs.deliver(wish({ name: '2.x' }));
  assert.ok(!written.ok && written.failure.kind === 'mount-read-only');
  // The user is there all the same.
  assert.equal(await world.maildirs.verify(joe), 'present');
  execFileSync('mount', ['-o', 'remount,rw', root]);
  assert.ok((await world.maildirs.deliver(wish({ name: '2.x' }))).ok);
});

test('an unmounted spool is mount-missing at once, even to folders opened before; mounted again, mail arrives', async t => {
  const root = await mountPoint(t);
  // The mount point itself has the user's folders, from a time when nobody watched: the worst case.
  const world = await openSpoolWorld(t, { root });
  world.addMaildir(joe);
  rmSync(world.mark);
  for (let round = 0; round < 2; round += 1) {
    execFileSync('mount', ['-t', 'tmpfs', 'homing-test', root]);
    writeFileSync(world.mark, '');
    world.addMaildir(joe);
    const there = await world.maildirs.deliver(wish({ name: `${round}.x` }));
    assert.ok(there.ok, JSON.stringify(there));
    execFileSync('umount', ['-l', root]);
    for (const name of ['1', '2', '3']) {
      const refused = await world.maildirs.deliver(wish({ name: `${round}.${name}` }));
      if (refused.ok) {
        // Within a second of the last look it may still reach the folder it holds open; never the one below the mount point.
        assert.deepEqual(world.names(joe, 'new'), []);
      } else assert.equal(refused.failure.kind, 'mount-missing');
    }
    assert.deepEqual(world.names(joe, 'new'), []);
    assert.notEqual(await world.maildirs.verify(joe), 'present');
  }
});

test('a user whose folder lies on another file system than the mark is refused: that one may be unmounted', async t => {
  const world = await openSpoolWorld(t, { create: true, root: await mountPoint(t) });
  const path = world.addMaildir(joe);
  execFileSync('mount', ['-t', 'tmpfs', 'homing-test', path]);
  for (const folder of ['tmp', 'new', 'cur']) execFileSync('mkdir', [join(path, folder)]);
  const written = await world.maildirs.deliver(wish());
  assert.ok(!written.ok && written.failure.kind === 'mount-missing');
  assert.deepEqual(readdirSync(join(path, 'new')), []);
  assert.equal(await world.maildirs.verify(joe), 'unknown');
});
