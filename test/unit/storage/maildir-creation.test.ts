/**
 * A missing Maildir is made only where the settings say so, whole, owned by the right account, and never where strangers could swap it.
 */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { realFileCalls } from '../../../src/storage/file-calls.ts';
import { tempFolder } from '../../lab/temp-folder.ts';
import { assertRoot, breaking, mailGid, mailUid, openSpoolWorld, wish } from './spool-world.ts';

const joe = 'joe@example.org';

before(assertRoot);

function ownerOf(path: string): readonly number[] {
  const { uid, gid, mode } = statSync(path);
  return [uid, gid, mode & 0o7777];
}

test('the whole way is made, each folder owned by the account and closed to others', async t => {
  const world = await openSpoolWorld(t, { create: true });
  const written = await world.maildirs.deliver(wish());
  assert.ok(written.ok);
  const maildir = world.maildirOf(joe);
  for (const path of ['../..', '..', '.', 'tmp', 'new', 'cur']) {
    assert.deepEqual(ownerOf(join(maildir, path)), [mailUid, mailGid, 0o700], path);
  }
  assert.deepEqual(readdirSync(maildir).sort(), ['cur', 'new', 'tmp']);
  assert.deepEqual(world.names(joe, 'new'), [written.file]);
  assert.deepEqual(readdirSync(join(world.root, 'example.org')), ['joe']);
});

test('many first messages at once make one Maildir', async t => {
  const world = await openSpoolWorld(t, { create: true });
  const other = await openSpoolWorld(t, { create: true, root: world.root });
  const all = Array.from({ length: 20 }, (_, i) =>
    (i % 2 ? world : other).maildirs.deliver(wish({ name: `${i}.x`, user: i % 3 ? joe : 'eve@example.org' })),
  );
  assert.ok((await Promise.all(all)).every(one => one.ok));
  assert.equal(world.names(joe, 'new').length + world.names('eve@example.org', 'new').length, 20);
  assert.deepEqual(readdirSync(join(world.root, 'example.org')).sort(), ['eve', 'joe']);
});

test('in a home with group rights, the Maildir has them too', async t => {
  const world = await openSpoolWorld(t, { create: true });
  const home = join(world.maildirOf(joe), '..');
  mkdirSync(home, { recursive: true });
  chownSync(home, mailUid, 777);
  chmodSync(home, 0o2770);
  assert.ok((await world.maildirs.deliver(wish())).ok);
  assert.equal(ownerOf(world.maildirOf(joe))[2], 0o2770);
});

test('without an account, the owner of the home owns the Maildir; in the hands of root alone nothing is made', async t => {
  const world = await openSpoolWorld(t, { create: true, account: null });
  const home = join(world.maildirOf(joe), '..');
  mkdirSync(home, { recursive: true });
  const refused = await world.maildirs.deliver(wish());
  assert.ok(!refused.ok && refused.failure.kind === 'not-direct-capable');
  assert.deepEqual(readdirSync(home), []);
  chownSync(home, 4242, 4243);
  assert.ok((await world.maildirs.deliver(wish())).ok);
  assert.deepEqual(ownerOf(world.maildirOf(joe)), [4242, 4243, 0o700]);
});

test("nothing is made in a stranger's folder, nor where anybody may write, nor behind a link", async t => {
  const elsewhere = await tempFolder(t, 'elsewhere');
  for (const spoil of [
    (home: string) => chownSync(home, 4242, 4242),
    (home: string) => chmodSync(home, 0o777),
    (home: string) => {
      rmSync(home, { recursive: true });
      symlinkSync(elsewhere, home);
    },
    (home: string) => symlinkSync(elsewhere, join(home, 'Maildir')),
    (home: string) => symlinkSync('/nowhere', join(home, 'Maildir')),
  ]) {
    const world = await openSpoolWorld(t, { create: true });
    const home = join(world.maildirOf(joe), '..');
    mkdirSync(home, { recursive: true });
    chownSync(home, mailUid, mailGid);
    spoil(home);
    const written = await world.maildirs.deliver(wish());
    assert.ok(!written.ok && written.failure.kind === 'not-direct-capable');
    assert.equal(existsSync(join(home, 'Maildir', 'new')), false);
  }
  assert.deepEqual(readdirSync(elsewhere), []);
});

test('a Maildir that lacks a folder gets it; a dbox store gets none', async t => {
  const world = await openSpoolWorld(t, { create: true });
  rmSync(join(world.addMaildir(joe), 'new'), { recursive: true });
  assert.ok((await world.maildirs.deliver(wish())).ok);
  const dbox = world.addMaildir('eve@example.org');
  rmSync(join(dbox, 'new'), { recursive: true });
  mkdirSync(join(dbox, 'mailboxes'));
  assert.equal((await world.maildirs.deliver(wish({ user: 'eve@example.org' }))).ok, false);
  assert.equal(existsSync(join(dbox, 'new')), false);
});

for (const [call, errno, kind] of [
  ['mkdir', 'ENOSPC', 'disk-full'],
  ['mkdir', 'EROFS', 'mount-read-only'],
  ['fchown', 'EPERM', 'io-error'],
  ['rename', 'EIO', 'io-error'],
] as const) {
  test(`${errno} of ${call} is ${kind}, leaves nothing, and the next message makes it`, async t => {
    const world = await openSpoolWorld(t, { create: true, calls: breaking(call, errno).calls });
    const written = await world.maildirs.deliver(wish());
    assert.ok(!written.ok && written.failure.kind === kind);
    assert.deepEqual(readdirSync(world.root), ['.homing']);
    assert.ok((await world.maildirs.deliver(wish())).ok);
  });
}

test('somebody else made it first: theirs stays', async t => {
  let raced = false;
  const root = await tempFolder(t, 'spool');
  const calls = {
    ...realFileCalls,
    rename: (from: string, to: string) => {
      if (!raced && to.endsWith('/Maildir')) {
        raced = true;
        for (const folder of ['new', 'cur', 'tmp', '.Sent']) {
          mkdirSync(join(root, 'example.org/joe/Maildir', folder), { recursive: true });
        }
      }
      return realFileCalls.rename(from, to);
    },
  };
  const world = await openSpoolWorld(t, { create: true, calls, root });
  assert.ok((await world.maildirs.deliver(wish())).ok);
  assert.deepEqual(readdirSync(join(world.maildirOf(joe), '..')), ['Maildir']);
  assert.ok(existsSync(join(world.maildirOf(joe), '.Sent')));
});
