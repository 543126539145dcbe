/**
 * Direct delivery into users' Maildirs, durable when it is answered (promises 1-3): the front door of Maildir storage.
 *
 *     user → path → mark there? → folder borrowed (opened, checked, perhaps made) → same device as the mark? → maildir-delivery.ts
 *
 * Idempotent: the name is fixed by the caller; its EEXIST, or the same base name in new/ or cur/, is `already`.
 * Must never touch indexes, dovecot-uidlist or anything else of Dovecot's; adds a file to new/ by way of tmp/, and a line to maildirsize.
 */
import type { Failure } from '../core/failure.ts';
import type { User } from '../core/types.ts';
import { errnoOf, fileFailure } from './file-failure.ts';
import { type Borrowed, createFolderCache } from './folder-cache.ts';
import { createMaildir } from './maildir-creation.ts';
import {
  Delivery,
  failed,
  isPlainName,
  type MaildirTools,
  type MaildirWish,
  type Written,
} from './maildir-delivery.ts';
import {
  type FolderQuestion,
  folderFlags,
  type MaildirFolder,
  notDirect,
  openMaildirFolder,
} from './maildir-folder.ts';
import { createSpoolMarks, type MarkLook, otherDevice } from './spool-mark.ts';
import { type SpoolTemplate, spoolPath } from './spool-path.ts';

export interface MaildirOptions {
  readonly path: SpoolTemplate;
  /** May name {domain} too: a mark for each mounted file system. */
  readonly mark: SpoolTemplate;
  /** The user's home; null: the Maildir's parent. */
  readonly home: SpoolTemplate | null;
  /** Active Sieve scripts, relative to home or absolute; see maildir-folder.ts. */
  readonly sieve: readonly string[];
  /** Who owns the mail; null: the owner of the user's Maildir. */
  readonly account: { readonly uid: number; readonly gid: number } | null;
  /** Whether a missing Maildir is made. */
  readonly create: boolean;
}

export type Presence = 'present' | 'absent' | 'unknown';

export interface Maildirs {
  deliver(wish: MaildirWish): Promise<Written>;
  /** Whether the user's Maildir stands under a present mark (design §5). */
  verify(user: User): Promise<Presence>;
  close(): void;
}

/** Checks of a folder, and the look at the mark, are this old at most. */
const keepMs = 1000;
const openFoldersLimit = 256;
const marksLimit = 1024;

interface Spot {
  readonly question: FolderQuestion;
  readonly look: MarkLook & { readonly ok: true };
  readonly folders: readonly string[];
}

type Refusal = { readonly failure: Failure };

export function createMaildirs(options: MaildirOptions, tools: MaildirTools): Maildirs {
  const { calls, now, after, log } = tools;
  const marks = createSpoolMarks({ calls, now, keepMs, limit: marksLimit });
  const cache = createFolderCache<MaildirFolder, Refusal>({ now, after, keepMs, limit: openFoldersLimit });

  /** Where the user's Maildir is, once the mark was seen. */
  async function locate(user: User, fresh: boolean): Promise<Spot | Refusal> {
    const path = spoolPath(options.path, user);
    const mark = spoolPath(options.mark, user);
    const home = options.home === null ? null : spoolPath(options.home, user);
    if (!path.ok) return { failure: notDirect(path.why) };
    if (!mark.ok) return { failure: notDirect(mark.why) };
    if (home !== null && !home.ok) return { failure: notDirect(home.why) };
    const look = await marks.look(mark.path, path.root, fresh);
    if (!look.ok) return { failure: look.failure };
    const realPath = [look.root === '/' ? '' : look.root, ...path.folders].join('/');
    const question: FolderQuestion = {
      path: path.path,
      realPath,
      home: home?.path ?? null,
      sieve: options.sieve,
      account: options.account,
    };
    return { question, look, folders: path.folders };
  }

  async function open(spot: Spot): Promise<{ ok: true; folder: MaildirFolder } | ({ ok: false } & Refusal)> {
    const first = await openMaildirFolder(calls, spot.question);
    if (first.ok || !first.absent || !options.create) return first;
    const { root } = spot.look;
    const wish = { ...options, ...tools, root, folders: spot.folders };
    const refused = (await onDevice(root, spot.look.device)) ?? (await createMaildir(calls, wish));
    if (refused !== null) return { ok: false, failure: refused };
    log.info({ path: spot.question.path }, 'maildir created');
    return openMaildirFolder(calls, spot.question);
  }

  /** Before anything is made: the root itself must be on the mark's file system. */
  async function onDevice(root: string, device: number): Promise<Failure | null> {
    try {
      return (await calls.stat(root)).dev === device ? null : otherDevice;
    } catch (error) {
      return fileFailure(error);
    }
  }

  async function borrow(user: User): Promise<Borrowed<MaildirFolder> | Refusal> {
    for (let attempt = 0; ; attempt += 1) {
      const spot = await locate(user, attempt > 0);
      if ('failure' in spot) return spot;
      const lent = await cache.borrow(spot.question.path, () => open(spot));
      if (!lent.ok) return lent;
      if (lent.borrowed.folder.device === spot.look.device) return lent.borrowed;
      // Unmounted or mounted anew since one of the two was looked at: once more with both fresh.
      lent.borrowed.giveBack({ spoiled: true });
      if (attempt > 0) return { failure: otherDevice };
    }
  }

  async function deliver(wish: MaildirWish): Promise<Written> {
    if (!isPlainName(wish.name)) return failed({ kind: 'internal', text: 'not a Maildir name' });
    for (let attempt = 0; ; attempt += 1) {
      const borrowed = await borrow(wish.user);
      if ('failure' in borrowed) return failed(borrowed.failure);
      const delivery = new Delivery(tools, borrowed.folder, wish);
      const written = await delivery.run();
      borrowed.giveBack({ spoiled: !written.ok });
      // Its folder went away before a byte was read: perhaps only this descriptor is old (removed and made anew, ESTALE of NFS).
      if (!written.ok && !delivery.begun && !borrowed.fresh && attempt === 0) continue;
      return written;
    }
  }

  async function verify(user: User): Promise<Presence> {
    const spot = await locate(user, false);
    if ('failure' in spot) return 'unknown';
    try {
      const fd = await calls.open(spot.question.path, folderFlags);
      try {
        const [real, stat] = await Promise.all([calls.readlink(`/proc/self/fd/${fd}`), calls.fstat(fd)]);
        return real === spot.question.realPath && stat.dev === spot.look.device ? 'present' : 'unknown';
      } finally {
        await calls.close(fd);
      }
    } catch (error) {
      return errnoOf(error) === 'ENOENT' ? 'absent' : 'unknown';
    }
  }

  return { deliver, verify, close: () => cache.close() };
}
