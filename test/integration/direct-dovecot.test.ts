/**
 * A real Dovecot reads what direct delivery wrote: every byte, both sizes, the Maildirs we made, and without a word of complaint in its log.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ImapFlow } from 'imapflow';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import { openImap } from '../lab/imap-count.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { assertRoot, openSpoolWorld, type SpoolWorld, wish } from '../unit/storage/spool-world.ts';

const joe = 'joe@example.org';
const eve = 'eve@example.org';
const header = 'From: a@b.c\r\nTo: joe@example.org\r\nSubject: sizes\r\n';

/** Bodies whose sizes are easy to get wrong. CRLF line ends only, as the receiver gives them; a bare CR may be among them. */
const messages: readonly (readonly [string, string])[] = [
  ['an ordinary one', `${header}\r\nHello.\r\n`],
  ['one without a body', `${header}\r\n`],
  ['one of headers only', header],
  ['one that is empty', ''],
  ['one of empty lines', `${header}\r\n${'\r\n'.repeat(5000)}`],
  ['one with dots and From', `${header}\r\n.\r\n..\r\nFrom joe\r\n>From\r\n.\r\n`],
  ['one of eight bits', `${header}\r\n${'ü€😀'.repeat(500)}\r\n`],
  ['one with bare CRs', `${header}\r\na\rb\r\r\nc\r\r\r\n`],
  ['one with NULs', `${header}\r\na\0b\r\n`],
  ['one with long lines', `${header}\r\n${`${'x'.repeat(20_000)}\r\n`.repeat(20)}`],
  ['a large one', `${header}\r\n${`${'y'.repeat(76)}\r\n`.repeat(40_000)}`],
];

async function* inPieces(text: string, step = 7919) {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
}

/** doveadm's `key: value` lines. */
async function sizesByDoveadm(node: DovecotNode, user: string): Promise<readonly (readonly string[])[]> {
  const text = await node.doveadm([
    '-f',
    'tab',
    'fetch',
    '-u',
    user,
    'uid size.physical size.virtual',
    'mailbox',
    'INBOX',
    'all',
  ]);
  return text
    .trim()
    .split('\n')
    .slice(1)
    .map(line => line.split('\t').slice(1));
}

describe('a Dovecot node', () => {
  let folder: TempFolder;
  let node: DovecotNode;
  let world: SpoolWorld;
  let imap: ImapFlow;

  before(async () => {
    assertRoot();
    folder = await openTempFolder('direct-dovecot');
    node = await startDovecotNode({
      name: 'mail1',
      address: '127.0.0.31',
      spoolDir: join(folder.path, 'spool'),
      runDir: join(folder.path, 'mail1'),
      users: [joe, eve],
    });
    world = await openSpoolWorld({ after }, { root: node.spoolDir, account: node.owner, create: true });
  });
  after(async () => {
    imap?.close();
    await node?.stop();
    await folder?.remove();
  });

  test('shows each message as it was sent, with both sizes as it would count them itself', async () => {
    const files: string[] = [];
    for (const [index, [what, text]] of messages.entries()) {
      const body = index % 2 === 0 ? Buffer.from(text) : inPieces(text);
      const bodyBytes = Buffer.byteLength(text);
      const written = await world.maildirs.deliver(wish({ name: `${index}.M.lab`, body, bodyBytes }));
      assert.ok(written.ok, what);
      files.push(written.file);
    }
    const sizes = files.map(file => /,S=(\d+),W=(\d+)$/.exec(file)?.slice(1) ?? []);
    const byUid = (await sizesByDoveadm(node, joe)).toSorted();
    assert.deepEqual(byUid, sizes.toSorted());

    imap = await openImap({ port: node.ports.imap, address: node.address, user: joe });
    await imap.mailboxOpen('INBOX');
    const seen: string[] = [];
    for await (const mail of imap.fetch('1:*', { source: true, size: true })) {
      const source = mail.source?.toString() ?? '';
      assert.equal(mail.size, mail.source?.length);
      seen.push(source);
    }
    const envelope = 'Return-Path: <sender@example.net>\r\nDelivered-To: joe@example.org\r\n';
    // IMAP can carry no NUL: Dovecot shows 0x80 in its place (RFC 9051 §4.3.1).
    // Of CR CR LF one CR is lost on the way through LF; the receiver lets no bare CR come this far.
    const expected = messages.map(([, text]) =>
      (envelope + text).replace(/\r\n/g, '\n').replace(/(?<!\r)\n/g, '\r\n'),
    );
    for (const text of expected.filter(one => !one.includes('\0')))
      assert.ok(seen.includes(text), text.slice(0, 200));
    assert.equal(seen.length, expected.length);
  });

  test('counts the same sizes when it trusts no file name', async () => {
    const trusted = await sizesByDoveadm(node, joe);
    const maildir = world.maildirOf(joe);
    for (const index of ['dovecot.index.cache', 'dovecot.index', 'dovecot.index.log'])
      rmSync(join(maildir, index), { force: true });
    const counted = await node.doveadm([
      '-o',
      'maildir_broken_filename_sizes=yes',
      '-f',
      'tab',
      'fetch',
      '-u',
      joe,
      'uid size.physical size.virtual',
      'mailbox',
      'INBOX',
      'all',
    ]);
    const rows = counted
      .trim()
      .split('\n')
      .slice(1)
      .map(line => line.split('\t').slice(1));
    assert.deepEqual(rows.toSorted(), trusted.toSorted());
  });

  test('shows a message that comes while a session is open, and a retry of one that was read brings none', async () => {
    const session = await openImap({ port: node.ports.imap, address: node.address, user: eve });
    try {
      await session.mailboxOpen('INBOX');
      const first = wish({ user: eve, to: eve, name: 'late.M.lab' });
      assert.ok((await world.maildirs.deliver(first)).ok);
      await session.noop();
      assert.deepEqual(await session.search({ all: true }), [1]);
      await session.messageFlagsAdd('1', ['\\Seen', '\\Flagged']);
      const again = await world.maildirs.deliver({ ...first, again: true });
      assert.ok(again.ok && again.kind === 'already');
      await session.noop();
      assert.deepEqual(await session.search({ all: true }), [1]);
      assert.deepEqual(world.names(eve, 'new'), []);
    } finally {
      session.close();
    }
  });

  test('complains of nothing', () => {
    const complaints = node
      .logText()
      .split('\n')
      .filter(line => /\b(Error|Warning|Fatal|Panic|corrupt|Broken|Cached message size)/i.test(line));
    assert.deepEqual(complaints, []);
  });
});
