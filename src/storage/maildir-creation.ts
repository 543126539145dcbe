/**
 * Makes a missing Maildir (and the folders above it, below the spool root) where the setting allows it.
 * Each folder is made under a passing name, owned and synced, and only then renamed into place: whoever looks sees none or a whole one,
 * also after a crash. Never follows a link, never makes anything in a folder that strangers may write, never guesses an owner:
 * it is the configured account, or else the owner of the folder above.
 */
import type { Failure } from '../core/failure.ts';
import type { FileCalls, FileStat } from './file-calls.ts';
import { errnoOf, fileFailure } from './file-failure.ts';
import { fdPath, folderFlags, notDirect } from './maildir-folder.ts';

export interface CreationWish {
  /** The spool root, links resolved. */
  readonly root: string;
  readonly folders: readonly string[];
  readonly account: { readonly uid: number; readonly gid: number } | null;
  /** The user id this process works as. 0 may give folders away. */
  readonly processUid: number;
  /** Makes the passing names unique. */
  readonly token: () => string;
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

interface Maker {
  readonly calls: FileCalls;
  readonly wish: CreationWish;
}

/** A rename takes the place of an empty folder: who was inside finds it gone, and begins again. Each time somebody else got further. */
const attemptsMax = 20;

/** Null where the Maildir stands now, whoever made it. */
export async function createMaildir(calls: FileCalls, wish: CreationWish): Promise<Failure | null> {
  for (let attempt = 1; ; attempt += 1) {
    const result = await tryCreation({ calls, wish });
    if (result !== 'replaced') return result;
    if (attempt === attemptsMax) return { kind: 'io-error', text: 'the folder was replaced again and again' };
  }
}

async function tryCreation(maker: Maker): Promise<Failure | null | 'replaced'> {
  const { calls, wish } = maker;
  const fds: number[] = [];
  try {
    let fd = await calls.open(wish.root, folderFlags);
    fds.push(fd);
    for (const [index, name] of wish.folders.entries()) {
      const step = await enter(maker, fd, name, index === wish.folders.length - 1);
      if (typeof step !== 'number') return step;
      fd = step;
      fds.push(fd);
    }
    return await addSubfolders(maker, fd);
  } catch (error) {
    return fds.length > 0 && errnoOf(error) === 'ENOENT' ? 'replaced' : fileFailure(error);
  } finally {
    await Promise.allSettled(fds.map(one => calls.close(one)));
  }
}

/** Opens `name` below the open folder; makes it first where it is missing. */
async function enter(
  maker: Maker,
  parent: number,
  name: string,
  isMaildir: boolean,
): Promise<number | Failure> {
  const path = `${fdPath(parent)}/${name}`;
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await maker.calls.open(path, folderFlags);
    } catch (error) {
      const code = errnoOf(error);
      if (code === 'ENOTDIR' || code === 'ELOOP') return notDirect('a link or file is in the way');
      if (code !== 'ENOENT' || attempt > 0) throw error;
    }
    const refused = await makeFolder(maker, parent, name, isMaildir);
    if (refused !== null) return refused;
  }
}

/** A Maildir that lacks some of its three folders: one that a crash of somebody else's left half made. */
async function addSubfolders(maker: Maker, maildir: number): Promise<Failure | null> {
  for (const name of ['tmp', 'new', 'cur']) {
    const step = await enter(maker, maildir, name, false);
    if (typeof step !== 'number') return step;
    await maker.calls.close(step);
  }
  return null;
}

async function makeFolder(
  { calls, wish }: Maker,
  parent: number,
  name: string,
  isMaildir: boolean,
): Promise<Failure | null> {
  const above = await calls.fstat(parent);
  const owner = ownerBelow(above, wish);
  if (owner === null) return notDirect('the folder above does not allow it');
  // Group rights only where the folder above is shared on purpose: a home that its group may merely read must not open the mail to it.
  const isShared = above.uid === owner.uid && (above.mode & 0o020) !== 0;
  const mode = 0o700 | (isShared ? above.mode & 0o2070 : 0);
  const passing = `${fdPath(parent)}/.homing-${wish.token()}`;
  const subfolders = isMaildir ? ['tmp', 'new', 'cur'] : [];
  try {
    for (const path of [passing, ...subfolders.map(one => `${passing}/${one}`)]) {
      await calls.mkdir(path, 0o700);
      await settle(calls, path, owner, mode, wish.processUid === 0);
    }
    await calls.rename(passing, `${fdPath(parent)}/${name}`);
    await calls.fsync(parent);
    return null;
  } catch (error) {
    await removePassing(calls, passing, subfolders);
    const code = errnoOf(error);
    // Somebody else made it meanwhile.
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return null;
    throw error;
  }
}

async function settle(
  calls: FileCalls,
  path: string,
  owner: Owner,
  mode: number,
  mayGive: boolean,
): Promise<void> {
  const fd = await calls.open(path, folderFlags);
  try {
    // Before the mode: a change of owner takes set-group-id away.
    if (mayGive) await calls.fchown(fd, owner.uid, owner.gid);
    await calls.fchmod(fd, mode);
    await calls.fsync(fd);
  } finally {
    await calls.close(fd);
  }
}

async function removePassing(
  calls: FileCalls,
  passing: string,
  subfolders: readonly string[],
): Promise<void> {
  for (const path of [...subfolders.map(one => `${passing}/${one}`), passing]) {
    await calls.rmdir(path).catch(() => undefined);
  }
}

/** Who will own a folder made here, or null: nobody may be made to own what stands where strangers can swap it. */
function ownerBelow(above: FileStat, wish: CreationWish): Owner | null {
  const owner = wish.account ?? (above.uid === 0 ? null : { uid: above.uid, gid: above.gid });
  if (owner === null) return null;
  if (above.uid !== 0 && above.uid !== owner.uid) return null;
  const sticky = (above.mode & 0o1000) !== 0;
  return (above.mode & 0o002) !== 0 && !sticky ? null : owner;
}
