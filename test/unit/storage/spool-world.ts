/**
 * A spool on a temporary folder for the tests of Maildir storage: a mark, users' Maildirs, and file calls that can be watched and broken.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pino } from 'pino';
import { realClock } from '../../../src/net/clock.ts';
import { type FileCalls, realFileCalls } from '../../../src/storage/file-calls.ts';
import { createMaildirs, type MaildirOptions, type Maildirs } from '../../../src/storage/maildir.ts';
import type { MaildirWish } from '../../../src/storage/maildir-delivery.ts';
import { parseSpoolTemplate, type SpoolTemplate } from '../../../src/storage/spool-path.ts';
import { type Ending, tempFolder } from '../../lab/temp-folder.ts';

/** Nobody's uid and gid here, so that a wrong owner shows. */
export const mailUid = 12_345;
export const mailGid = 12_346;

export function template(text: string): SpoolTemplate {
  const parsed = parseSpoolTemplate(text);
  assert.ok(parsed.ok, text);
  return parsed.template;
}

/** These tests give files away, mount and remount: a machine that can't must fail them, not pass them. */
export function assertRoot(): void {
  assert.equal(process.getuid?.(), 0, 'run these tests as root: they mount file systems and change owners');
}

export interface SpoolWorld {
  readonly root: string;
  readonly mark: string;
  readonly maildirs: Maildirs;
  /** Made whole, owned by the mail account. */
  addMaildir(user: string): string;
  maildirOf(user: string): string;
  /** Names in one of its folders. */
  names(user: string, folder: 'tmp' | 'new' | 'cur'): readonly string[];
}

export interface WorldOptions extends Partial<MaildirOptions> {
  readonly calls?: FileCalls;
  readonly root?: string;
  readonly now?: () => number;
  readonly processUid?: number;
}

export async function openSpoolWorld(ending: Ending, options: WorldOptions = {}): Promise<SpoolWorld> {
  const root = options.root ?? (await tempFolder(ending, 'spool'));
  const mark = join(root, '.homing');
  writeFileSync(mark, '');
  const maildirs = createMaildirs(
    {
      path: template(`${root}/{domain}/{local}/Maildir`),
      mark: template(mark),
      home: null,
      sieve: ['.dovecot.sieve', 'sieve'],
      account: { uid: mailUid, gid: mailGid },
      create: false,
      ...options,
    },
    {
      calls: options.calls ?? realFileCalls,
      log: pino({ level: 'silent' }),
      now: options.now ?? realClock.now,
      after: realClock.after,
      token: () => randomBytes(8).toString('hex'),
      processUid: options.processUid ?? 0,
    },
  );
  ending.after(() => maildirs.close());
  const maildirOf = (user: string): string => {
    const [local = '', domain = ''] = user.split('@');
    return join(root, domain, local, 'Maildir');
  };
  return {
    root,
    mark,
    maildirs,
    maildirOf,
    addMaildir(user) {
      const path = maildirOf(user);
      for (const folder of [join(path, '..'), path, ...['tmp', 'new', 'cur'].map(one => join(path, one))]) {
        mkdirSync(folder, { recursive: true, mode: 0o700 });
        chownSync(folder, mailUid, mailGid);
      }
      return path;
    },
    names: (user, folder) => readdirSync(join(maildirOf(user), folder)).sort(),
  };
}

export function wish(changes: Partial<MaildirWish> & { readonly text?: string } = {}): MaildirWish {
  const body = Buffer.from(changes.text ?? 'Subject: hi\r\n\r\nHello.\r\n');
  return {
    user: 'joe@example.org',
    name: '1700000000.M1P2.test',
    from: 'sender@example.net',
    to: 'joe@example.org',
    again: false,
    body,
    bodyBytes: body.length,
    ...changes,
  };
}

/** Breaks the first call of this name after `skip` others, with this errno. */
export function breaking(
  name: keyof FileCalls,
  errno: string,
  matches: (path: unknown) => boolean = () => true,
) {
  let broken = 0;
  const error = () => Object.assign(new Error(errno), { code: errno, syscall: name });
  const calls = {
    ...realFileCalls,
    [name]: (...args: unknown[]) => {
      if (broken === 0 && matches(args[0])) {
        broken += 1;
        return Promise.reject(error());
      }
      return (realFileCalls[name] as (...args: unknown[]) => unknown)(...args);
    },
  } as FileCalls;
  return { calls, broken: () => broken };
}
