/**
 * What a drill measured, which promises it broke, and the lines that say so to a person.
 * Pure. A promise that could not be measured counts as broken: a drill that saw nothing must not say that all was well.
 */
import type { NodeName, User } from '../core/types.ts';
import type { CanaryCount } from './canaries.ts';
import type { Overlap } from './stays.ts';

/** A held session that ended without its holder's doing. Times in ms after the node was killed. */
export interface Cut {
  readonly user: User;
  /** The user's node when it was cut. */
  readonly node: NodeName;
  readonly atMs: number;
  /** null: not back when the drill ended. */
  readonly backMs: number | null;
}

export interface RefusedLogin {
  readonly user: User;
  readonly kind: 'unavailable' | 'wrong-password' | 'no-connection' | 'other';
  readonly text: string;
}

export interface DeliveryTally {
  /** Delivered through each node's LMTP. */
  readonly byNode: Readonly<Record<NodeName, number>>;
  /** Written straight into the spool. */
  readonly direct: number;
  /** Took to the queue first. */
  readonly queued: number;
}

export interface DrillRecord {
  readonly victim: NodeName;
  /** From the kill until the cluster's view said so; null: never. */
  readonly detectedMs: number | null;
  /** From the return until the view said so; null: never. */
  readonly returnedMs: number | null;
  readonly heldSessions: number;
  readonly cuts: readonly Cut[];
  readonly refusedLogins: readonly RefusedLogin[];
  /** Users whose home is the victim, and who of them was home again. */
  readonly homeUsers: readonly User[];
  readonly homeAgain: readonly User[];
  /** From the end of their last activity elsewhere until all were home; null: not all. */
  readonly homeAgainMs: number | null;
  readonly canaries: CanaryCount;
  readonly deliveries: DeliveryTally;
  readonly overlaps: readonly Overlap[];
  /** Sessions that the nodes' own logs tell of; 0 means that nothing was watched. */
  readonly witnessedSessions: number;
}

export interface Bounds {
  /** A session has to be back this long after the detection. */
  readonly backWithinMs: number;
}

/** One sentence for each broken promise; none means that all were kept. */
export function brokenPromises(record: DrillRecord, { backWithinMs }: Bounds): string[] {
  const { victim, detectedMs, canaries, cuts, refusedLogins } = record;
  const broken: string[] = [];
  const claim = (kept: boolean, sentence: string) => {
    if (!kept) broken.push(sentence);
  };
  claim(detectedMs !== null, `${victim} was dead and nobody noticed`);
  claim(record.returnedMs !== null, `${victim} was back and nobody noticed`);
  claim(canaries.acknowledged > 0, 'no message was acknowledged at all');
  claim(canaries.lost.length === 0, `lost though acknowledged: ${some(canaries.lost)}`);
  claim(canaries.twice.length === 0, `delivered twice without doubt: ${some(canaries.twice)}`);
  claim(canaries.strange.length === 0, `in a mailbox they were never sent to: ${some(canaries.strange)}`);
  claim(
    canaries.rejected.length === 0,
    `refused for good though the user exists: ${some(canaries.rejected)}`,
  );
  claim(canaries.pending === 0, `${canaries.pending} messages were still not taken at the end`);
  claim(record.witnessedSessions > 0, 'the nodes told of no session, so nobody knows who was where');
  claim(
    record.overlaps.length === 0,
    `users on two nodes at once: ${some(record.overlaps.map(showOverlap))}`,
  );
  const wrong = refusedLogins.filter(one => one.kind === 'wrong-password');
  claim(
    wrong.length === 0,
    `the outage looked like a wrong password to ${some(unique(wrong.map(one => one.user)))}`,
  );
  const bystanders = cuts.filter(one => one.node !== victim);
  claim(
    bystanders.length === 0,
    `cut though their node lived: ${some(unique(bystanders.map(one => one.user)))}`,
  );
  const away = cuts.filter(one => one.backMs === null);
  claim(away.length === 0, `sessions that never came back: ${some(unique(away.map(one => one.user)))}`);
  const late = cuts.filter(one => one.backMs !== null && one.backMs > (detectedMs ?? 0) + backWithinMs);
  claim(
    late.length === 0,
    `back later than ${seconds(backWithinMs)} after the detection: ${some(late.map(one => one.user))}`,
  );
  const stray = record.homeUsers.filter(user => !record.homeAgain.includes(user));
  claim(stray.length === 0, `not home again: ${some(stray)}`);
  return broken;
}

/** The whole report, line by line. */
export function reportLines(record: DrillRecord, bounds: Bounds): string[] {
  const { victim, canaries, cuts, refusedLogins, deliveries } = record;
  const back = cuts.filter(one => one.backMs !== null);
  const slowestMs = Math.max(0, ...back.map(one => one.backMs ?? 0));
  const refused = (kind: RefusedLogin['kind']) => refusedLogins.filter(one => one.kind === kind).length;
  const nodes = Object.entries(deliveries.byNode).map(([node, count]) => `${node} ${count}`);
  const broken = brokenPromises(record, bounds);
  const row = (name: string, text: string) => `  ${name.padEnd(22)}${text}`;
  return [
    `Drill: ${victim} killed (kill -9) and brought back`,
    row('detected', `${orNever(record.detectedMs)} after the kill`),
    row('return noticed', `${orNever(record.returnedMs)} after its start`),
    row(
      'sessions',
      `${record.heldSessions} held, ${cuts.length} cut, ${back.length} back; the slowest ${seconds(slowestMs)} after the kill`,
    ),
    row(
      'logins refused',
      `${refused('unavailable')} unavailable, ${refused('wrong-password')} wrong password, ${refused('no-connection')} no connection, ${refused('other')} other`,
    ),
    row(
      'home again',
      `${record.homeAgain.length} of ${record.homeUsers.length} users, ${orNever(record.homeAgainMs)} after they went idle`,
    ),
    row(
      'messages',
      `${canaries.sent} sent, ${canaries.acknowledged} acknowledged (${canaries.acknowledgedAtOnce} at the first try), ${canaries.found} found`,
    ),
    row(
      '',
      `${canaries.lost.length} lost, ${canaries.twice.length + canaries.twiceInDoubt.length} twice, ${canaries.inDoubt} in doubt`,
    ),
    row(
      'delivered',
      `${nodes.join(', ')}; directly ${deliveries.direct}; through the queue ${deliveries.queued}`,
    ),
    row(
      'users on two nodes',
      `${record.overlaps.length} (of ${record.witnessedSessions} sessions in the nodes' own logs)`,
    ),
    '',
    ...(broken.length === 0 ? ['All promises were kept.'] : broken.map(sentence => `BROKEN: ${sentence}`)),
  ];
}

function showOverlap({ user, first, second, lengthMs }: Overlap): string {
  return `${user} (${first.what} at ${first.node}, ${second.what} at ${second.node}, ${Math.round(lengthMs)} ms)`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function orNever(ms: number | null): string {
  return ms === null ? 'never' : seconds(ms);
}

function unique(list: readonly string[]): string[] {
  return [...new Set(list)];
}

/** The first few of a list that may be long. */
function some(list: readonly string[]): string {
  const shown = list.slice(0, 8).join(', ');
  return list.length > 8 ? `${shown} and ${list.length - 8} more` : shown;
}
