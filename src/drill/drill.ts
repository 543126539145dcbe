/**
 * A drill: a steady stream of mail and held sessions, a node killed and brought back, then the count.
 *
 *   warm up → kill → noticed → sessions back → a while without it → revive → noticed → idle users go home → drain → count
 *
 * It acts on the world through a `Stage` alone and believes nobody's summary: mail is counted in the mailboxes, and who
 * was where comes from the nodes themselves. Every wait has a limit; a limit that passes ends in the report, not in a throw.
 */
import type { NodeName, User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { type Canary, countCanaries, type Sighting } from './canaries.ts';
import { type LogLine, readDeliveries } from './deliveries.ts';
import { type Account, type Holder, holdSession, type ImapAt, openClient } from './holder.ts';
import type { TalkOptions } from './mail-talk.ts';
import type { Cut, DrillRecord } from './report.ts';
import { canaryHeader, lmtpSender, smtpSender } from './senders.ts';
import { lastNodeOf, overlaps, type Stay } from './stays.ts';
import { startStream } from './stream.ts';
import { pause, until } from './wait.ts';

/** The world that the drill is played in. */
export interface Stage {
  readonly clock: Clock;
  readonly accounts: readonly Account[];
  readonly imap: ImapAt;
  readonly smtp: TalkOptions;
  readonly lmtp: TalkOptions;
  readonly victim: NodeName;
  kill(): Promise<void>;
  revive(): Promise<void>;
  /** Whether the cluster's view says the victim is up. */
  isUp(): Promise<boolean>;
  /** The user's home node, whatever its state. */
  homeOf(user: User): Promise<NodeName>;
  /** Where the view would send the user now. */
  placeOf(user: User): Promise<NodeName | null>;
  /** Messages in Homing's own queue. */
  queued(): Promise<number>;
  /** All log lines so far. */
  logLines(): Iterable<LogLine>;
  /** What the nodes saw since the drill began. */
  stays(): Promise<readonly Stay[]>;
  /** One line for the person who watches. */
  tell(line: string): void;
}

export interface DrillOptions {
  readonly perSecond: number;
  readonly warmUpMs: number;
  /** How long the node stays away after everybody is back. */
  readonly awayMs: number;
  /** Of each single wait. */
  readonly limitMs: number;
  /** Overlaps shorter than this are the difference between two logs. */
  readonly toleranceMs: number;
}

export const usualDrill: DrillOptions = {
  perSecond: 25,
  warmUpMs: 4000,
  awayMs: 6000,
  limitMs: 60_000,
  toleranceMs: 100,
};

export async function runDrill(stage: Stage, options: DrillOptions): Promise<DrillRecord> {
  const { accounts, victim, tell, clock } = stage;
  const { limitMs } = options;
  const run = clock.token(4);
  const users = accounts.map(one => one.user);
  const homes = new Map<User, NodeName>();
  for (const user of users) homes.set(user, await stage.homeOf(user));
  const homeUsers = users.filter(user => homes.get(user) === victim);

  const holders = accounts.map(account => holdSession(clock, stage.imap, account));
  const stream = startStream({
    clock,
    users,
    senders: { smtp: smtpSender(clock, stage.smtp, run), lmtp: lmtpSender(clock, stage.lmtp, run) },
    ...{ perSecond: options.perSecond, retryAfterMs: 1000, mostUnderWay: 200 },
  });
  tell(
    `${users.length} sessions, ${options.perSecond} messages a second; ${victim} is home to ${homeUsers.length} users`,
  );
  await until(clock, () => holders.every(one => one.isIn()), { limitMs });
  await pause(clock, options.warmUpMs);

  tell(`killing ${victim} (kill -9)`);
  const killedAtMs = clock.now();
  await stage.kill();
  const detectedMs = await until(clock, async () => !(await stage.isUp()), { limitMs, fromMs: killedAtMs });
  tell(detectedMs === null ? 'not noticed' : `noticed after ${Math.round(detectedMs)} ms`);
  await until(clock, () => holders.every(one => one.isIn()), { limitMs });
  await pause(clock, options.awayMs);

  tell(`starting ${victim} again`);
  const revivedAtMs = clock.now();
  await stage.revive();
  const returnedMs = await until(clock, () => stage.isUp(), { limitMs, fromMs: revivedAtMs });
  await until(clock, () => holders.every(one => one.isIn()), { limitMs });

  tell(`its ${homeUsers.length} users go idle, and home`);
  const home = await goHome(stage, options, { homeUsers, holders, stream });

  tell('draining');
  const canaries = await stream.end(limitMs);
  await until(clock, async () => (await stage.queued()) === 0, { limitMs });
  const cuts = cutsOf(holders, killedAtMs, homes);
  const refusedLogins = holders.flatMap(one => one.refused);
  await Promise.all(holders.map(one => one.goOut()));

  tell('counting');
  const { tally, inDoubt } = readDeliveries(stage.logLines());
  const sightings = await findAll(stage, run, canaries, limitMs);
  const stays = await stage.stays();
  return {
    ...{
      victim,
      detectedMs,
      returnedMs,
      heldSessions: holders.length,
      cuts,
      refusedLogins,
      homeUsers,
      ...home,
    },
    canaries: countCanaries(canaries, sightings, inDoubt),
    deliveries: tally,
    overlaps: overlaps(stays, options.toleranceMs),
    witnessedSessions: stays.filter(stay => stay.what === 'session').length,
  };
}

interface GoingHome {
  readonly homeUsers: readonly User[];
  readonly holders: readonly Holder[];
  readonly stream: { spare(users: readonly User[]): void; resume(): void };
}

/** Failback `idle`: users stay where they are active. So theirs are made idle, until the view sends them home again. */
async function goHome(
  stage: Stage,
  { limitMs }: DrillOptions,
  { homeUsers, holders, stream }: GoingHome,
): Promise<Pick<DrillRecord, 'homeAgain' | 'homeAgainMs'>> {
  const { clock } = stage;
  const theirs = holders.filter(one => homeUsers.includes(one.user));
  const fromMs = clock.now();
  stream.spare(homeUsers);
  await Promise.all(theirs.map(one => one.goOut()));
  const areHome = async () => {
    for (const user of homeUsers) if ((await stage.placeOf(user)) !== stage.victim) return false;
    return true;
  };
  const homeAgainMs = await until(clock, areHome, { limitMs, fromMs, everyMs: 100 });
  stream.resume();
  for (const one of theirs) one.comeIn();
  await until(clock, () => theirs.every(one => one.isIn()), { limitMs });
  // Not the view's word but the node's own: that is where the sessions came to.
  const arrived = async () => {
    const stays = await stage.stays();
    return homeUsers.every(user => lastNodeOf(stays, user) === stage.victim);
  };
  await until(clock, arrived, { limitMs: 5000, everyMs: 200 });
  const stays = await stage.stays();
  return { homeAgain: homeUsers.filter(user => lastNodeOf(stays, user) === stage.victim), homeAgainMs };
}

/** Which node a session was cut from is told by the user's home: until the kill all users are home. */
function cutsOf(holders: readonly Holder[], killedAtMs: number, homes: ReadonlyMap<User, NodeName>): Cut[] {
  return holders.flatMap(({ user, cuts }) =>
    cuts.map(({ atMs, backAtMs }) => ({
      ...{ user, node: homes.get(user) ?? '', atMs: atMs - killedAtMs },
      backMs: backAtMs === null ? null : backAtMs - killedAtMs,
    })),
  );
}

/** Looks into every mailbox until all that was acknowledged is there, or the limit passes: then it is lost. */
async function findAll(
  stage: Stage,
  run: string,
  canaries: readonly Canary[],
  limitMs: number,
): Promise<readonly Sighting[]> {
  const { clock } = stage;
  const deadlineAtMs = clock.now() + Math.min(limitMs, 15_000);
  for (;;) {
    const sightings: Sighting[] = [];
    for (const account of stage.accounts) sightings.push(...(await look(stage.imap, account, run)));
    const { lost } = countCanaries(canaries, sightings, new Set());
    if (lost.length === 0 || clock.now() > deadlineAtMs) return sightings;
    await pause(clock, 500);
  }
}

/** This run's canaries in one INBOX, each as often as it is there. A mailbox that can't be read holds nothing. */
async function look(at: ImapAt, account: Account, run: string): Promise<Sighting[]> {
  const client = openClient(at, account);
  const found: Sighting[] = [];
  const wanted = new RegExp(`^${canaryHeader}:[ \\t]*${run}/(\\d+)\\r?$`, 'im');
  try {
    await client.connect();
    const box = await client.mailboxOpen('INBOX', { readOnly: true });
    if (box.exists === 0) return found;
    for await (const message of client.fetch('1:*', { uid: true, headers: [canaryHeader] })) {
      const number = wanted.exec(message.headers?.toString('latin1') ?? '')?.[1];
      if (number !== undefined) found.push({ number: Number(number), user: account.user });
    }
    await client.logout();
  } catch {
    client.close();
  }
  return found;
}
