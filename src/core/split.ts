/**
 * One message, many homes: groups its recipients by the node that is to have them, so that each node gets one transaction.
 * Stands between the placed recipients and the couriers. Each user is placed once, so a view that changes meanwhile cannot send
 * two addresses of one user to two nodes. Must lose no recipient: each is in exactly one group, or listed as unplaced.
 */
import type { NodeName, Place, Recipient, User } from './types.ts';

export interface NodeGroup {
  readonly node: NodeName;
  /** In the client's order, duplicates included. */
  readonly recipients: readonly Recipient[];
}

export interface Unplaced {
  readonly recipient: Recipient;
  readonly place: Extract<Place, { readonly kind: 'held' | 'none' }>;
}

export interface Split {
  /** In the order of their first recipients; none is larger than the limit. */
  readonly groups: readonly NodeGroup[];
  readonly unplaced: readonly Unplaced[];
}

/** Recipients a transaction; RFC 5321 §4.5.3.1.8 lets any receiver stop at 100. */
const groupLimit = 100;

export function split(
  recipients: readonly Recipient[],
  placeOf: (user: User) => Place,
  limit: number = groupLimit,
): Split {
  const places = new Map<User, Place>();
  const open = new Map<NodeName, Recipient[]>();
  const groups: { readonly node: NodeName; readonly recipients: Recipient[] }[] = [];
  const unplaced: Unplaced[] = [];
  for (const recipient of recipients) {
    const place = places.get(recipient.user) ?? placeOf(recipient.user);
    places.set(recipient.user, place);
    if (place.kind === 'held' || place.kind === 'none') {
      unplaced.push({ recipient, place });
      continue;
    }
    const group = open.get(place.node);
    if (group !== undefined && group.length < limit) group.push(recipient);
    else {
      const fresh = [recipient];
      open.set(place.node, fresh);
      groups.push({ node: place.node, recipients: fresh });
    }
  }
  return { groups, unplaced };
}

/** `multiHome: pin-first`: whether a further recipient belongs elsewhere than the first one (then 452 4.5.3, `other-home`). */
export function isOtherHome(first: Place, further: Place): boolean {
  return nodeOf(first) !== nodeOf(further);
}

function nodeOf(place: Place): NodeName | null {
  return place.kind === 'none' ? null : place.node;
}
