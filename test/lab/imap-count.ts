/**
 * Which numbered messages a user really has: by IMAP, by doveadm, or from the files of the Maildir.
 * Counts come from the mailbox, never from anybody's log: that is what "nothing is lost" is measured against.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ImapFlow } from 'imapflow';
import { type DovecotNode, password } from './dovecot-node.ts';

/** How often each number was found. */
export type Found = ReadonlyMap<string, number>;

function tally(numbers: Iterable<string>): Map<string, number> {
  const found = new Map<string, number>();
  for (const number of numbers) found.set(number, (found.get(number) ?? 0) + 1);
  return found;
}

export interface ImapAt {
  readonly port: number;
  readonly address?: string;
  readonly user: string;
  readonly password?: string;
}

/** Logs in as a mail client would; `tls: false` is no STARTTLS either. Log out or close it yourself. */
export async function openImap({
  port,
  address = '127.0.0.1',
  user,
  password: pass = password,
}: ImapAt): Promise<ImapFlow> {
  const client = new ImapFlow({
    ...{ host: address, port, secure: false, doSTARTTLS: false, logger: false, emitLogs: false },
    ...{
      auth: { user, pass },
      tls: { rejectUnauthorized: false },
      connectionTimeout: 10_000,
      greetingTimeout: 10_000,
    },
  });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

/** X-Number of all messages in the INBOX, over IMAP. */
export async function numbersByImap(at: ImapAt): Promise<Found> {
  const client = await openImap(at);
  try {
    const box = await client.mailboxOpen('INBOX', { readOnly: true });
    if (box.exists === 0) return new Map();
    const numbers: string[] = [];
    for await (const message of client.fetch('1:*', { uid: true, headers: ['x-number'] })) {
      numbers.push(numberIn(message.headers?.toString('utf8') ?? ''));
    }
    return tally(numbers);
  } finally {
    await client.logout().catch(() => client.close());
  }
}

/** The same through doveadm on a node. */
export async function numbersByDoveadm(node: DovecotNode, user: string): Promise<Found> {
  const text = await node.doveadm([
    '-f',
    'flow',
    'fetch',
    '-u',
    user,
    'hdr.x-number',
    'mailbox',
    'INBOX',
    'ALL',
  ]);
  return tally(
    text
      .split('\n')
      .filter(Boolean)
      .map(line => line.replace(/^hdr\.x-number=/, '').trim()),
  );
}

/** The folder of a user's mail under a shared tree. */
export function maildirOf(spoolDir: string, user: string): string {
  const at = user.lastIndexOf('@');
  return join(spoolDir, user.slice(at + 1), user.slice(0, at), 'Maildir');
}

/** The same from the files themselves, in new/ and cur/; what lies in tmp/ was never delivered. */
export async function numbersInMaildir(spoolDir: string, user: string): Promise<Found> {
  const numbers: string[] = [];
  for (const file of await maildirFiles(spoolDir, user))
    numbers.push(numberIn(await readFile(file, 'latin1')));
  return tally(numbers);
}

/** Files in new/ and cur/; none where the Maildir does not exist yet. */
export async function maildirFiles(spoolDir: string, user: string): Promise<string[]> {
  const files: string[] = [];
  for (const part of ['new', 'cur']) {
    const folder = join(maildirOf(spoolDir, user), part);
    for (const name of await readdir(folder).catch(() => [])) files.push(join(folder, name));
  }
  return files;
}

function numberIn(text: string): string {
  return /^x-number:[ \t]*(.*?)\r?$/im.exec(text)?.[1] ?? '';
}
