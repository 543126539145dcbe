/**
 * Giving up root, for good: groups, gid, uid, in this order, and a check that there is no way back.
 * A child loads its code first (which may lie where only root can read), then drops, and only then meets a stranger's byte.
 */
import assert from 'node:assert/strict';

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** To be called once, as root. Ends the process (assert) where the kernel does not let go. */
export function dropPrivileges({ uid, gid }: Account): void {
  assert(uid !== 0, 'an account that is not root');
  assert(process.setgroups && process.setgid && process.setuid && process.getuid);
  process.setgroups([gid]);
  process.setgid(gid);
  process.setuid(uid);
  assert.equal(process.getuid(), uid);
  assert.throws(() => process.setuid?.(0), 'root must not come back');
}
