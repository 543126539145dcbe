/**
 * What a user's place means for mail: whether the node there takes it as the home would, and whether two recipients share a node.
 * Stands between `place` and the couriers; asked at RCPT time and again when the message is handed over.
 */
import type { NodeName, Place } from './types.ts';

/**
 * Whether the user's place is a node that mail is handed to as to the home itself. Not where it stands in for one that is down: there
 * `delivery.whenHomeDown` says how mail goes, and that node's 5xx about the user is not believed.
 */
export function isNodeForMail(place: Place): boolean {
  switch (place.kind) {
    case 'home':
    case 'override':
    case 'pin':
      return true;
    case 'failover':
      return !place.homeDown;
    case 'held':
    case 'none':
      return false;
  }
}

/** `multiHome: pin-first`: whether a further recipient belongs elsewhere than the first one (then 452 4.5.3, `other-home`). */
export function isOtherHome(first: Place, further: Place): boolean {
  return nodeOf(first) !== nodeOf(further);
}

function nodeOf(place: Place): NodeName | null {
  return place.kind === 'none' ? null : place.node;
}
