/**
 * The drill's numbered messages, and what became of them: pure counting of what was sent against what was found.
 * A canary is one message for one user. It is lost when it was acknowledged and is not in that user's mailbox; nothing
 * that any log says can make a lost one found. Must never be lenient: a wrong mailbox is lost there and strange here.
 */
import type { User } from '../core/types.ts';

export type Way = 'smtp' | 'lmtp';

export interface Canary {
  readonly number: number;
  readonly user: User;
  readonly way: Way;
  /** How the last try ended. `pending`: the drill ended while a try was under way or due. */
  readonly end: 'acknowledged' | 'rejected' | 'pending';
  readonly tries: number;
  /** The sender itself lost the link after a final dot at least once: the message may be there twice. */
  readonly doubtful: boolean;
}

/** One message seen in a mailbox. */
export interface Sighting {
  readonly number: number;
  readonly user: User;
}

export interface CanaryCount {
  readonly sent: number;
  readonly acknowledged: number;
  readonly acknowledgedAtOnce: number;
  /** Refused for good (5xx), though every user exists. */
  readonly rejected: readonly string[];
  readonly pending: number;
  /** Acknowledged ones that are in their mailbox. */
  readonly found: number;
  readonly lost: readonly string[];
  /** There more than once, and nobody had named it in doubt. */
  readonly twice: readonly string[];
  /** There more than once, after a link broke between final dot and reply: what the promise leaves open. */
  readonly twiceInDoubt: readonly string[];
  /** Named in doubt by the log or by the sender's own broken link. */
  readonly inDoubt: number;
  /** Seen, but never sent to this user. */
  readonly strange: readonly string[];
}

/** `12 → alice@example.org`: how a canary is named in reports. */
export function canaryName({ number, user }: Sighting): string {
  return `${number} → ${user}`;
}

/**
 * @param inDoubt names of canaries (`canaryName`) that the delivery log called in doubt
 */
export function countCanaries(
  canaries: readonly Canary[],
  sightings: readonly Sighting[],
  inDoubt: ReadonlySet<string>,
): CanaryCount {
  const seen = new Map<string, number>();
  for (const sighting of sightings) {
    const name = canaryName(sighting);
    seen.set(name, (seen.get(name) ?? 0) + 1);
  }
  const sent = new Set(canaries.map(canaryName));
  const acknowledged = canaries.filter(one => one.end === 'acknowledged');
  const doubtful = new Set(
    canaries.filter(one => one.doubtful || inDoubt.has(canaryName(one))).map(canaryName),
  );
  const repeated = [...sent].filter(name => (seen.get(name) ?? 0) > 1);
  const lost = acknowledged.map(canaryName).filter(name => !seen.has(name));
  return {
    sent: canaries.length,
    acknowledged: acknowledged.length,
    acknowledgedAtOnce: acknowledged.filter(one => one.tries === 1).length,
    rejected: canaries.filter(one => one.end === 'rejected').map(canaryName),
    pending: canaries.filter(one => one.end === 'pending').length,
    found: acknowledged.length - lost.length,
    lost,
    twice: repeated.filter(name => !doubtful.has(name)),
    twiceInDoubt: repeated.filter(name => doubtful.has(name)),
    inDoubt: doubtful.size,
    strange: [...seen.keys()].filter(name => !sent.has(name)),
  };
}
