/**
 * What a change of the view means to one user, and to whom it can mean anything at all (barrier.md §1, §4).
 * Every member computes it for its own active users and for every login during a barrier; all must come to the same answer, so it
 * reads the two views alone. Who is `same` is a bystander: never held, never closed.
 */
import { placerOf } from './place.ts';
import type { NodeName, Place, User } from './types.ts';
import type { View, ViewEvent } from './view.ts';

/** `same`: nothing happens. `close`: leaves its node now. `pin`: stays where it is active until idle. */
export type UserChange = 'same' | 'close' | 'pin';

export function change(old: View, next: View, user: User): UserChange {
  const before = placerOf(old).place(user);
  const after = placerOf(next).place(user);
  if (samePlace(before, after)) return 'same';
  if (before.kind === 'none') return 'pin';
  const node = placerOf(next).node(before.node);
  // A node that is gone from the view, like one in maintenance, takes nobody, pinned or not.
  if (node === null || node.health === 'down' || node.admin === 'maint') return 'close';
  return ordered(old, next, user) ? 'close' : 'pin';
}

/** The same node and the same admission; by which step is no difference to a session. */
export function samePlace(a: Place, b: Place): boolean {
  if (a.kind === 'none' || b.kind === 'none') return a.kind === b.kind;
  return a.node === b.node && (a.kind === 'held') === (b.kind === 'held');
}

/** An operator's order names the user: an override in the store that this change brought. */
function ordered(old: View, next: View, user: User): boolean {
  if (next.overrides === old.overrides) return false;
  const newest = next.overrides.some(override => override.since === next.epoch);
  if (!newest) return false;
  const order = placerOf(next).overrideOf(user);
  return order !== null && order.since === next.epoch;
}

/** Urgent: a node died, or a fence confirmed it. All else is planned; the two are never in one proposal. */
export function isUrgent(events: readonly ViewEvent[]): boolean {
  return events.length > 0 && events.every(isUrgentEvent);
}

export function isMixed(events: readonly ViewEvent[]): boolean {
  return events.some(isUrgentEvent) && !events.every(isUrgentEvent);
}

export function isUrgentEvent(event: ViewEvent): boolean {
  return event.kind === 'node-down' || event.kind === 'fenced';
}

/**
 * The nodes whose active users the events can concern; `all` where users of any node may be given another place.
 * Never too few: a node that dies, drains or goes into maintenance changes only places that name it.
 */
export function concernedNodes(events: readonly ViewEvent[]): ReadonlySet<NodeName> | 'all' {
  const nodes = new Set<NodeName>();
  for (const event of events) {
    switch (event.kind) {
      case 'node-down':
      case 'fenced':
        nodes.add(event.node);
        break;
      case 'admin':
        if (event.state === 'ready') return 'all';
        nodes.add(event.node);
        break;
      case 'pins-added':
        break;
      case 'node-up':
      case 'weight':
      case 'nodes':
      case 'override-set':
      case 'override-removed':
      case 'map':
      case 'pins-dropped':
        return 'all';
    }
  }
  return nodes;
}

/** Users that a change would move, by kind: for `homing map` and the like, over any list of users. */
export function countChanges(old: View, next: View, users: Iterable<User>): Record<UserChange, number> {
  const counts = { same: 0, close: 0, pin: 0 };
  for (const user of users) counts[change(old, next, user)] += 1;
  return counts;
}
