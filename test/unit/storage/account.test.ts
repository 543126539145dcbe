/**
 * The account that owns the mail is the one the machine's name service knows.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { findAccount, parsePasswd } from '../../../src/storage/account.ts';
import { tempFolder } from '../../lab/temp-folder.ts';

test('an existing account is found by name and by number', async () => {
  const { username, uid, gid, homedir } = userInfo();
  assert.deepEqual(await findAccount(username), { uid, gid, home: homedir });
  assert.deepEqual(await findAccount(String(uid)), { uid, gid, home: homedir });
});

test('an unknown account, or a name that is none, is null', async () => {
  for (const name of ['no-such-account-here', '', '-s', 'a b', 'a:b', 'a\0b', '../x', '--help']) {
    assert.equal(await findAccount(name), null, JSON.stringify(name));
  }
});

test('a name service that does not answer, or never ends its answer, is null by its deadline', async t => {
  const program = join(await tempFolder(t, 'account'), 'getent');
  writeFileSync(program, '#!/bin/sh\nexec sleep 30\n', { mode: 0o755 });
  const startedAtMs = performance.now();
  assert.equal(await findAccount('root', { timeoutMs: 100, program }), null);
  assert.equal(await findAccount('root', { timeoutMs: 5000, program: '/usr/bin/yes' }), null);
  assert.ok(performance.now() - startedAtMs < 3000);
});

test('without getent, /etc/passwd is read', async () => {
  assert.equal((await findAccount('root', { program: '/nowhere/getent' }))?.uid, 0);
});

test('lines that are not of passwd(5) name nobody', () => {
  const text = 'a:x:1:2:::\nb:x:-1:2::/h:/s\nc:x:1::/h:/s\n\nd:x:3:4:D:/home/d:/bin/sh\n';
  assert.equal(parsePasswd(text, 'b'), null);
  assert.equal(parsePasswd(text, 'c'), null);
  assert.deepEqual(parsePasswd(text, 'd'), { uid: 3, gid: 4, home: '/home/d' });
});
