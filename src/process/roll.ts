/**
 * The roll of members that this parent started: which process is which member, and when each last renewed its lease.
 * A member that lapses is killed, so that its end is certain and not merely likely (barrier.md §10).
 */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import type { Clock } from '../net/clock.ts';
import type { MemberIdentity } from '../storage/store.ts';

export interface Roll {
  /** A new member for the process `pid`; those called `dead` are certainly gone, for only one serves at a time. */
  enter(pid: number): { readonly identity: MemberIdentity; readonly dead: readonly string[] };
  renewed(member: string): void;
  /** The kernel reported the end of `pid`: the member it was, or null. */
  gone(pid: number): string | null;
  pidOf(member: string): number | null;
  /** Members that have not renewed for `lapseMs`. */
  lapsed(lapseMs: number): readonly string[];
}

export function createRoll(clock: Clock): Roll {
  const members = new Map<number, { readonly member: string; renewedAtMs: number }>();
  const boot = bootId();
  let count = 0;
  return {
    enter: pid => {
      const dead = [...members.values()].map(each => each.member);
      members.clear();
      const member = `${hostname()}/${pid}/${++count}`;
      members.set(pid, { member, renewedAtMs: clock.now() });
      return { identity: { member, machine: hostname(), boot, pid }, dead };
    },
    renewed: member => {
      for (const each of members.values()) if (each.member === member) each.renewedAtMs = clock.now();
    },
    gone: pid => {
      const known = members.get(pid);
      members.delete(pid);
      return known?.member ?? null;
    },
    pidOf: member => {
      for (const [pid, each] of members) if (each.member === member) return pid;
      return null;
    },
    lapsed: lapseMs =>
      [...members.values()].filter(each => clock.now() - each.renewedAtMs > lapseMs).map(each => each.member),
  };
}

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}
