/**
 * Direct delivery into a Maildir: durable before it is answered, once for each name, inside the spool only, and nothing else touched.
 */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { type FileCalls, realFileCalls } from '../../../src/storage/file-calls.ts';
import type { Written } from '../../../src/storage/maildir-delivery.ts';
import { tempFolder } from '../../lab/temp-folder.ts';
import { waitFor } from '../../lab/wait.ts';
import { assertRoot, breaking, mailGid, mailUid, openSpoolWorld, wish } from './spool-world.ts';

const joe = 'joe@example.org';

before(assertRoot);

function failureOf(written: Written): string {
  return written.ok ? `delivered ${written.file}` : `${written.failure.kind}: ${written.failure.text}`;
}

describe('what is delivered', () => {
  test('stands in new/ under the fixed name with its sizes, headers on top, LF ends, right owner and mode', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const written = await world.maildirs.deliver(wish({ from: 'a@b', text: 'S: x\r\n\r\nbody\r\n' }));
    const text = 'Return-Path: <a@b>\nDelivered-To: joe@example.org\nS: x\n\nbody\n';
    const file = `1700000000.M1P2.test,S=${text.length},W=${text.length + 5}`;
    assert.deepEqual(written, { ok: true, kind: 'delivered', file });
    assert.deepEqual(world.names(joe, 'new'), [file]);
    assert.deepEqual([world.names(joe, 'tmp'), world.names(joe, 'cur')], [[], []]);
    assert.equal(readFileSync(join(path, 'new', file), 'utf8'), text);
    const { uid, gid, mode, nlink } = statSync(join(path, 'new', file));
    assert.deepEqual([uid, gid, mode & 0o7777, nlink], [mailUid, mailGid, 0o600, 1]);
    assert.deepEqual(readdirSync(path).sort(), ['cur', 'new', 'tmp']);
  });

  test('is the same whether the body comes whole or in pieces, at any split', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    const parts = fc.array(fc.constantFrom('\r', '\n', '\r\n', 'word', '.'), { maxLength: 30 });
    let count = 0;
    await fc.assert(
      fc.asyncProperty(parts, fc.integer({ min: 1, max: 9 }), async (words, step) => {
        count += 1;
        const text = `${words.join('')}\r\n`;
        const pieces = async function* () {
          for (let at = 0; at < text.length; at += step) yield Buffer.from(text.slice(at, at + step));
        };
        const whole = await world.maildirs.deliver(wish({ text, name: `${count}.whole` }));
        const split = await world.maildirs.deliver(wish({ text, name: `${count}.split`, body: pieces() }));
        assert.ok(whole.ok && split.ok);
        assert.equal(split.file.replace('split', 'whole'), whole.file);
        const [one, two] = [whole, split].map(({ file }) =>
          readFileSync(join(world.maildirOf(joe), 'new', file)),
        );
        assert.deepEqual(one, two);
      }),
      { numRuns: 40 },
    );
  });

  test('is never a body that was cut short, or is longer than announced', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    async function* cut() {
      yield Buffer.from('S: x\r\n');
      throw new Error('peer gone');
    }
    async function* short() {
      yield Buffer.from('S: x\r\n');
    }
    for (const [body, bodyBytes] of [
      [cut(), 6],
      [short(), 7],
      [short(), 5],
      [Buffer.from('abc'), 4],
    ] as const) {
      const written = await world.maildirs.deliver(wish({ body, bodyBytes }));
      assert.equal(written.ok, false);
      assert.ok(!written.ok && !written.mayBeThere);
    }
    assert.deepEqual([world.names(joe, 'tmp'), world.names(joe, 'new')], [[], []]);
  });

  test('cannot be given headers by its envelope', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    const written = await world.maildirs.deliver(
      wish({ from: 'a\r\nX-Evil: 1\n\n@b\0\x7f', to: 'joe\nBcc: x\u2028@example.org', text: '\r\n' }),
    );
    assert.ok(written.ok);
    const text = readFileSync(join(world.maildirOf(joe), 'new', written.file), 'utf8');
    assert.equal(text, 'Return-Path: <a??X-Evil: 1??@b??>\nDelivered-To: joe?Bcc: x?@example.org\n\n');
  });

  test('goes to the group and mode of a shared folder, as Dovecot would have made it', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    chownSync(path, mailUid, 777);
    chmodSync(path, 0o2770);
    const written = await world.maildirs.deliver(wish());
    assert.ok(written.ok);
    const { uid, gid, mode } = statSync(join(path, 'new', written.file));
    assert.deepEqual([uid, gid, mode & 0o7777], [mailUid, 777, 0o660]);
  });

  test('belongs to the owner of the Maildir where no account is set', async t => {
    const world = await openSpoolWorld(t, { account: null });
    const path = world.addMaildir(joe);
    chownSync(path, 4242, 4243);
    const written = await world.maildirs.deliver(wish());
    assert.ok(written.ok);
    const { uid, gid } = statSync(join(path, 'new', written.file));
    assert.deepEqual([uid, gid], [4242, 4243]);
  });

  test('is not given away by a writer that is not root: it runs as the account itself', async t => {
    const fchown = () => assert.fail('fchown by an account that may not');
    const world = await openSpoolWorld(t, { calls: { ...realFileCalls, fchown }, processUid: mailUid });
    world.addMaildir(joe);
    assert.ok((await world.maildirs.deliver(wish())).ok);
  });

  test('is counted in maildirsize where the store keeps one, once, and nothing is made where it does not', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    writeFileSync(join(path, 'maildirsize'), '1000000S\n100 1\n');
    const written = await world.maildirs.deliver(wish());
    await world.maildirs.deliver(wish());
    await world.maildirs.deliver(wish({ again: true }));
    assert.ok(written.ok);
    const size = /,S=(\d+)/.exec(written.file)?.[1];
    assert.equal(readFileSync(join(path, 'maildirsize'), 'utf8'), `1000000S\n100 1\n${size} 1\n`);
  });
});

describe('promise 2, durable before it is answered:', () => {
  test('owner, write, sync of the file, link, sync of the folder - in this order, and then the answer', async t => {
    const seen: string[] = [];
    const fds = new Map<number, string>();
    const record =
      (name: keyof FileCalls) =>
      async (...args: unknown[]) => {
        const [first] = args;
        const place = typeof first === 'number' ? (fds.get(first) ?? '?') : '';
        const result: unknown = await (realFileCalls[name] as (...args: unknown[]) => unknown)(...args);
        if (name === 'open') fds.set(result as number, String(first).split('/').at(-1) ?? '');
        // Recorded at their end: what matters is that the next began after it.
        seen.push(place.startsWith('1700000000') ? `${name} file` : `${name} ${place}`.trim());
        return result;
      };
    const calls = Object.fromEntries(
      Object.keys(realFileCalls).map(name => [name, record(name as keyof FileCalls)]),
    ) as unknown as FileCalls;
    const world = await openSpoolWorld(t, { calls });
    world.addMaildir(joe);
    const written = await world.maildirs.deliver(wish());
    seen.push('answer');
    assert.ok(written.ok);
    const order = seen.filter(one =>
      ['fchown file', 'write file', 'fsync file', 'link', 'fsync new', 'answer'].includes(one),
    );
    assert.deepEqual(order, ['fchown file', 'write file', 'fsync file', 'link', 'fsync new', 'answer']);
    assert.equal(seen.indexOf('unlink') > seen.indexOf('link'), true);
  });

  test('a folder that cannot be synced is no delivery, though the message may be there', async t => {
    let fsyncs = 0;
    const calls: FileCalls = {
      ...realFileCalls,
      fsync: fd => {
        fsyncs += 1;
        return fsyncs === 2
          ? Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'fsync' }))
          : realFileCalls.fsync(fd);
      },
    };
    const world = await openSpoolWorld(t, { calls });
    world.addMaildir(joe);
    const first = await world.maildirs.deliver(wish());
    assert.deepEqual(first, {
      ok: false,
      failure: { kind: 'io-error', text: 'EIO fsync' },
      mayBeThere: true,
    });
    const second = await world.maildirs.deliver(wish({ again: true }));
    assert.ok(second.ok && second.kind === 'already');
    assert.equal(fsyncs, 3, 'the folder is synced before "already" is answered');
  });

  test('many deliveries into one folder share its syncs', async t => {
    let folderSyncs = 0;
    const newFds = new Set<number>();
    const calls: FileCalls = {
      ...realFileCalls,
      open: async (path, flags, mode) => {
        const fd = await realFileCalls.open(path, flags, mode);
        if (path.endsWith('/new')) newFds.add(fd);
        return fd;
      },
      fsync: fd => {
        if (newFds.has(fd)) folderSyncs += 1;
        return realFileCalls.fsync(fd);
      },
    };
    const world = await openSpoolWorld(t, { calls });
    world.addMaildir(joe);
    const all = Array.from({ length: 60 }, (_, i) => world.maildirs.deliver(wish({ name: `${i}.x` })));
    assert.ok((await Promise.all(all)).every(one => one.ok));
    assert.equal(world.names(joe, 'new').length, 60);
    assert.ok(folderSyncs < 45, `${folderSyncs} folder syncs for 60 deliveries`);
  });
});

describe('promise 3, nothing is delivered twice:', () => {
  test('the same name again is already delivered', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    const first = await world.maildirs.deliver(wish());
    const second = await world.maildirs.deliver(wish());
    assert.ok(first.ok && second.ok);
    assert.deepEqual([first.kind, second.kind], ['delivered', 'already']);
    assert.equal(world.names(joe, 'new').length, 1);
    assert.deepEqual(world.names(joe, 'tmp'), []);
  });

  test('two at once under one name make one file', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    for (let round = 0; round < 20; round += 1) {
      const both = await Promise.all([1, 2].map(() => world.maildirs.deliver(wish({ name: `${round}.x` }))));
      assert.deepEqual(both.map(one => (one.ok ? one.kind : 'failed')).sort(), ['already', 'delivered']);
    }
    assert.equal(world.names(joe, 'new').length, 20);
  });

  for (const found of [
    'new/NAME',
    'new/NAME,S=1,W=2',
    'cur/NAME:2,S',
    'cur/NAME,S=99,W=101:2,FRS',
    'cur/NAME,S=1,W=2',
  ]) {
    test(`a retry finds ${found}`, async t => {
      const world = await openSpoolWorld(t);
      const path = world.addMaildir(joe);
      const { name } = wish();
      writeFileSync(join(path, found.replace('NAME', name)), 'x');
      const written = await world.maildirs.deliver(wish({ again: true }));
      assert.ok(written.ok && written.kind === 'already', failureOf(written));
      assert.equal(world.names(joe, 'new').length + world.names(joe, 'cur').length, 1);
    });
  }

  test('a retry is not fooled by names that only begin alike', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const { name } = wish();
    for (const other of [`${name}2,S=1,W=2`, `${name}.more`, name.slice(0, -1), `x${name}`]) {
      writeFileSync(join(path, 'cur', other), 'x');
    }
    const written = await world.maildirs.deliver(wish({ again: true }));
    assert.ok(written.ok && written.kind === 'delivered');
  });

  test('a message that was read is not delivered again by a retry', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const first = await world.maildirs.deliver(wish());
    assert.ok(first.ok);
    renameSync(join(path, 'new', first.file), join(path, 'cur', `${first.file}:2,S`));
    const second = await world.maildirs.deliver(wish({ again: true }));
    assert.ok(second.ok && second.kind === 'already');
    assert.deepEqual(world.names(joe, 'new'), []);
  });

  test('where the file system has no hard links, the file is renamed into place', async t => {
    const world = await openSpoolWorld(t, { calls: breaking('link', 'EOPNOTSUPP').calls });
    world.addMaildir(joe);
    const first = await world.maildirs.deliver(wish());
    assert.ok(first.ok && first.kind === 'delivered');
    assert.deepEqual(world.names(joe, 'new'), [first.file]);
    assert.deepEqual(world.names(joe, 'tmp'), []);
  });
});

describe('trouble with the file system is a value, and leaves nothing behind:', () => {
  const inTmp = (path: unknown) =>
    typeof path === 'number' || /^\/proc.*test\.[0-9a-f]{16}$/.test(String(path));
  for (const [call, errno, kind, matches] of [
    ['write', 'ENOSPC', 'disk-full', undefined],
    ['write', 'EDQUOT', 'disk-quota', undefined],
    ['fsync', 'EIO', 'io-error', undefined],
    ['fsync', 'ENOSPC', 'disk-full', undefined],
    ['fchown', 'EDQUOT', 'disk-quota', undefined],
    ['link', 'ENOSPC', 'disk-full', undefined],
    ['link', 'EROFS', 'mount-read-only', undefined],
    ['close', 'EDQUOT', 'disk-quota', undefined],
    ['open', 'EROFS', 'mount-read-only', inTmp],
    ['open', 'ENOSPC', 'disk-full', inTmp],
    ['stat', 'EIO', 'io-error', undefined],
    ['stat', 'ENOTCONN', 'io-error', undefined],
    ['readlink', 'ESTALE', 'io-error', undefined],
  ] as const) {
    test(`${errno} of ${call} is ${kind}; once it is over, mail arrives`, async t => {
      const { calls, broken } = breaking(call, errno, matches);
      const world = await openSpoolWorld(t, { calls });
      world.addMaildir(joe);
      const written = await world.maildirs.deliver(wish());
      assert.equal(broken(), 1);
      assert.ok(!written.ok, failureOf(written));
      assert.equal(written.failure.kind, kind);
      assert.equal(written.failure.text, `${errno} ${call}`);
      assert.equal(written.mayBeThere, false);
      assert.deepEqual([world.names(joe, 'tmp'), world.names(joe, 'new')], [[], []]);
      assert.ok((await world.maildirs.deliver(wish())).ok);
    });
  }

  test('a link that may have been made, though its answer was lost, is in doubt', async t => {
    const world = await openSpoolWorld(t, { calls: breaking('link', 'ESTALE').calls });
    world.addMaildir(joe);
    const written = await world.maildirs.deliver(wish());
    assert.ok(!written.ok && written.mayBeThere);
  });

  test('a folder that was removed and made anew is found at once', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    assert.ok((await world.maildirs.deliver(wish())).ok);
    rmSync(path, { recursive: true });
    world.addMaildir(joe);
    const written = await world.maildirs.deliver(wish({ name: '2.x' }));
    assert.ok(written.ok, failureOf(written));
    assert.deepEqual(world.names(joe, 'new'), [written.file]);
  });

  test('no descriptor is lost, and an idle proxy lets go of the file system', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    const inSpool = () =>
      readdirSync('/proc/self/fd').filter(fd => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`).startsWith(world.root);
        } catch {
          return false;
        }
      }).length;
    for (let i = 0; i < 20; i += 1) {
      await world.maildirs.deliver(wish({ name: `${i}.x`, again: i % 2 === 0 }));
      await world.maildirs.deliver(wish({ user: `nobody${i}@example.org` }));
      await world.maildirs.verify(i % 2 === 0 ? joe : 'nobody@example.org');
    }
    await waitFor(() => inSpool() === 0, {
      what: 'all descriptors in the spool to be closed',
      limitMs: 5000,
    });
  });

  test('a name that is no Maildir name is refused', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    for (const name of ['', '../x', '.x', 'a/b', 'a:2,S', 'a,S=1', 'a b', 'a\n', 'ü', 'x'.repeat(181)]) {
      const written = await world.maildirs.deliver(wish({ name }));
      assert.ok(!written.ok, name);
    }
  });
});

describe('the spool is used only under its mark:', () => {
  test('without it, mail is refused as mount-missing, and accepted again once it is back', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    unlinkSync(world.mark);
    assert.match(failureOf(await world.maildirs.deliver(wish())), /^mount-missing/);
    assert.equal(await world.maildirs.verify(joe), 'unknown');
    assert.deepEqual(world.names(joe, 'new'), []);
    writeFileSync(world.mark, '');
    assert.ok((await world.maildirs.deliver(wish())).ok);
  });

  test('a mark that goes away is noticed within a second of the last look', async t => {
    let nowMs = 0;
    const world = await openSpoolWorld(t, { now: () => nowMs });
    world.addMaildir(joe);
    assert.ok((await world.maildirs.deliver(wish({ name: '1.x' }))).ok);
    unlinkSync(world.mark);
    nowMs = 1000;
    assert.match(failureOf(await world.maildirs.deliver(wish({ name: '2.x' }))), /^mount-missing/);
  });
});

describe('nothing leads out of the spool:', () => {
  for (const at of ['Maildir', 'joe', 'example.org', 'tmp', 'new'] as const) {
    test(`a link in place of ${at} is refused, and nothing is written behind it`, async t => {
      const world = await openSpoolWorld(t);
      const path = world.addMaildir(joe);
      const elsewhere = await tempFolder(t, 'elsewhere');
      const victim = {
        Maildir: path,
        joe: join(path, '..'),
        'example.org': join(path, '..', '..'),
        tmp: join(path, 'tmp'),
        new: join(path, 'new'),
      }[at];
      renameSync(victim, join(elsewhere, at));
      symlinkSync(join(elsewhere, at), victim);
      for (const again of [false, true]) {
        const written = await world.maildirs.deliver(wish({ again }));
        assert.match(failureOf(written), /^not-direct-capable: .*link/);
      }
      const files = readdirSync(elsewhere, { recursive: true, withFileTypes: true });
      assert.deepEqual(
        files.filter(one => one.isFile()),
        [],
      );
      if (at === 'Maildir' || at === 'joe' || at === 'example.org') {
        assert.equal(await world.maildirs.verify(joe), 'unknown');
      }
    });
  }

  test('a link in place of cur is not read', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const elsewhere = await tempFolder(t, 'elsewhere');
    writeFileSync(join(elsewhere, wish().name), 'x');
    rmSync(join(path, 'cur'), { recursive: true });
    symlinkSync(elsewhere, join(path, 'cur'));
    assert.equal((await world.maildirs.deliver(wish({ again: true }))).ok, false);
  });

  test('a maildirsize that is a link is not written through', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const victim = join(await tempFolder(t, 'elsewhere'), 'victim');
    writeFileSync(victim, 'kept');
    symlinkSync(victim, join(path, 'maildirsize'));
    assert.ok((await world.maildirs.deliver(wish())).ok);
    assert.equal(readFileSync(victim, 'utf8'), 'kept');
  });

  test('folders swapped for links while mail is delivered never take it out', async t => {
    const world = await openSpoolWorld(t);
    const path = world.addMaildir(joe);
    const elsewhere = await tempFolder(t, 'elsewhere');
    for (const folder of ['tmp', 'new', 'cur']) mkdirSync(join(elsewhere, folder));
    const swap = (): void => {
      renameSync(path, `${path}.away`);
      symlinkSync(elsewhere, path);
    };
    const back = (): void => {
      unlinkSync(path);
      renameSync(`${path}.away`, path);
    };
    for (let round = 0; round < 40; round += 1) {
      const sent = [1, 2, 3].map(i => world.maildirs.deliver(wish({ name: `${round}.${i}` })));
      await new Promise(resolve => setImmediate(resolve));
      swap();
      await Promise.all(sent);
      back();
    }
    const files = readdirSync(elsewhere, { recursive: true, withFileTypes: true });
    assert.deepEqual(
      files.filter(one => one.isFile()),
      [],
    );
  });

  test('a root that is itself a link of the administrator is followed', async t => {
    const real = await tempFolder(t, 'real');
    const folder = await tempFolder(t, 'spool');
    symlinkSync(real, join(folder, 'mail'));
    const world = await openSpoolWorld(t, { root: join(folder, 'mail') });
    world.addMaildir(joe);
    const written = await world.maildirs.deliver(wish());
    assert.ok(written.ok, failureOf(written));
    assert.equal(await world.maildirs.verify(joe), 'present');
  });
});

describe('what direct delivery cannot do is said, not done:', () => {
  for (const [what, make] of [
    ['an active script', (home: string) => writeFileSync(join(home, '.dovecot.sieve'), 'keep;')],
    [
      'an active script by link',
      (home: string) => symlinkSync('sieve/a.sieve', join(home, '.dovecot.sieve')),
    ],
    ['a script called sieve', (home: string) => writeFileSync(join(home, 'sieve'), 'keep;')],
    ['an sdbox store', (home: string) => mkdirSync(join(home, 'Maildir', 'mailboxes'))],
    ['an mdbox store', (home: string) => mkdirSync(join(home, 'Maildir', 'storage'))],
    ['a dbox mailbox', (home: string) => mkdirSync(join(home, 'Maildir', 'dbox-Mails'))],
    ['an mdbox beside it', (home: string) => mkdirSync(join(home, 'mdbox'))],
  ] as const) {
    test(`${what} makes the user not direct-capable`, async t => {
      const world = await openSpoolWorld(t);
      const path = world.addMaildir(joe);
      make(join(path, '..'));
      assert.match(failureOf(await world.maildirs.deliver(wish())), /^not-direct-capable/);
      assert.deepEqual([world.names(joe, 'tmp'), world.names(joe, 'new')], [[], []]);
    });
  }

  test('a folder of scripts that are not active does not', async t => {
    const world = await openSpoolWorld(t);
    mkdirSync(join(world.addMaildir(joe), '..', 'sieve'));
    assert.ok((await world.maildirs.deliver(wish())).ok);
  });

  test('a script elsewhere is found where the settings say so', async t => {
    const world = await openSpoolWorld(t, { sieve: ['scripts/on'] });
    const home = join(world.addMaildir(joe), '..');
    mkdirSync(join(home, 'scripts'));
    assert.ok((await world.maildirs.deliver(wish({ name: '1.x' }))).ok);
    writeFileSync(join(home, 'scripts', 'on'), '');
    const world2 = await openSpoolWorld(t, { root: world.root, sieve: ['scripts/on'] });
    assert.match(failureOf(await world2.maildirs.deliver(wish({ name: '2.x' }))), /Sieve/);
  });

  test('a script that is activated is noticed within a second', async t => {
    let nowMs = 0;
    const world = await openSpoolWorld(t, { now: () => nowMs });
    const path = world.addMaildir(joe);
    assert.ok((await world.maildirs.deliver(wish({ name: '1.x' }))).ok);
    writeFileSync(join(path, '..', '.dovecot.sieve'), 'discard;');
    nowMs = 1000;
    assert.match(failureOf(await world.maildirs.deliver(wish({ name: '2.x' }))), /Sieve/);
  });

  test('a missing Maildir, and one without its folders', async t => {
    const world = await openSpoolWorld(t);
    assert.match(failureOf(await world.maildirs.deliver(wish())), /^not-direct-capable: .*no Maildir/);
    assert.equal(existsSync(join(world.root, 'example.org')), false);
    mkdirSync(world.maildirOf(joe), { recursive: true });
    assert.match(failureOf(await world.maildirs.deliver(wish())), /^not-direct-capable: .*lacks/);
    assert.deepEqual(readdirSync(world.maildirOf(joe)), []);
  });
});

describe('whether a user exists:', () => {
  test('present, absent, or unknown where a name can have no folder here', async t => {
    const world = await openSpoolWorld(t);
    world.addMaildir(joe);
    assert.equal(await world.maildirs.verify(joe), 'present');
    assert.equal(await world.maildirs.verify('eve@example.org'), 'absent');
    assert.equal(await world.maildirs.verify('joe@example.com'), 'absent');
    assert.equal(await world.maildirs.verify('../joe@example.org'), 'unknown');
  });

  test('trouble is unknown, never absent', async t => {
    for (const errno of ['EIO', 'ESTALE', 'EACCES', 'ENOTCONN']) {
      const world = await openSpoolWorld(t, { calls: breaking('open', errno).calls });
      assert.equal(await world.maildirs.verify(joe), 'unknown', errno);
    }
  });
});
