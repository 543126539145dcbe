/**
 * A steady stream of mail from a client that retries what was not acknowledged, as any MTA does, and keeps books: which of its attempts
 * ended without an answer after the final dot. At the end the books are held against what is in the mailboxes.
 */
import assert from 'node:assert/strict';
import { numbersByImap, numbersInMaildir } from '../lab/imap-count.ts';
import { handOver } from '../lab/mail.ts';
import { pause } from '../lab/wait.ts';
import { type MailWorld, nextNumber } from './mail-world.ts';

export interface StreamOptions {
  readonly lanes: number;
  /** Of one lane, between two messages. */
  readonly pauseMs: number;
  readonly kinds?: readonly ('lmtp' | 'smtp')[];
}

interface Entry {
  readonly number: string;
  readonly user: string;
  readonly from: string;
  acknowledged: boolean;
  /** Attempts that ended without an answer after the final dot: each may have arrived. */
  doubts: number;
  attempts: number;
  refusals: string[];
}

export interface Stream {
  /** Ends when everything begun is acknowledged. */
  end(limitMs: number): Promise<readonly Entry[]>;
  readonly begun: () => number;
}

export function startStream(
  world: MailWorld,
  { lanes, pauseMs, kinds = ['lmtp', 'smtp'] }: StreamOptions,
): Stream {
  const books: Entry[] = [];
  let running = true;
  let giveUpAtMs = Number.POSITIVE_INFINITY;

  async function lane(at: number): Promise<void> {
    for (let n = at; running; n += 1) {
      const number = nextNumber();
      const kind = kinds[n % kinds.length] ?? 'lmtp';
      const { users } = world;
      // One recipient, or three of whom some have other homes.
      const count = n % 3 === 0 ? 3 : 1;
      const to = Array.from({ length: count }, (_, i) => users[(n * 5 + i * 7) % users.length] ?? '');
      const from = `n${number}@example.net`;
      const entries = [...new Set(to)].map(
        (user): Entry => ({ number, user, from, acknowledged: false, doubts: 0, attempts: 0, refusals: [] }),
      );
      books.push(...entries);
      await carry(kind, number, entries, n % 5 === 0 ? 400_000 : 700);
      await pause(pauseMs);
    }
  }

  async function carry(
    kind: 'lmtp' | 'smtp',
    number: string,
    entries: readonly Entry[],
    bodyBytes: number,
  ): Promise<void> {
    for (let left = entries; left.length > 0 && performance.now() < giveUpAtMs; ) {
      const [from = ''] = left.map(each => each.from);
      const port = world.homing.ports[kind] ?? 0;
      const to = left.map(each => each.user);
      const receipts = await handOver({
        ...{ kind, port, from, to, number, bodyBytes },
        replyLimitMs: 60_000,
      });
      for (const [i, entry] of left.entries()) {
        const receipt = receipts[i];
        entry.attempts += 1;
        if (receipt?.kind === 'acknowledged') entry.acknowledged = true;
        if (receipt?.kind === 'in-doubt') entry.doubts += 1;
        if (receipt?.kind === 'refused') entry.refusals.push(`${receipt.code} ${receipt.text}`);
      }
      left = left.filter(each => !each.acknowledged);
      if (left.length > 0) await pause(100);
    }
  }

  const lanesRun = Promise.all(Array.from({ length: lanes }, (_, at) => lane(at * 100)));
  return {
    begun: () => books.length,
    end: async limitMs => {
      running = false;
      giveUpAtMs = performance.now() + limitMs;
      await lanesRun;
      return books;
    },
  };
}

export interface Tally {
  readonly acknowledged: number;
  readonly retried: number;
  /** Found more than once, each with a doubt that excuses it. */
  readonly doubled: number;
  readonly inDoubt: number;
  readonly direct: number;
  readonly queued: number;
}

/** Every acknowledged message is there; once, unless the client had to repeat it without an answer, or we called it in doubt. */
export async function auditBooks(world: MailWorld, books: readonly Entry[]): Promise<Tally> {
  const inDoubt = new Map<string, number>();
  let direct = 0;
  let queued = 0;
  for (const line of world.homing.logLines()) {
    if (line.msg !== 'delivery') continue;
    if (line.courier === 'direct' && line.outcome === 'delivered') direct += 1;
    if (line.outcome === 'queued') queued += 1;
    if (line.outcome !== 'in-doubt') continue;
    const key = `${String(line.from)} ${String(line.to)}`;
    inDoubt.set(key, (inDoubt.get(key) ?? 0) + 1);
  }
  const found = new Map<string, ReadonlyMap<string, number>>();
  for (const user of world.users) found.set(user, await numbersInMaildir(world.spoolDir, user));
  const lost: string[] = [];
  const unexplained: string[] = [];
  const refused: string[] = [];
  let doubled = 0;
  for (const entry of books) {
    const count = found.get(entry.user)?.get(entry.number) ?? 0;
    const doubts = entry.doubts + (inDoubt.get(`${entry.from} ${entry.user}`) ?? 0);
    const story = `${entry.number} of ${entry.user}: ${count} found, ${JSON.stringify(entry)}, ${doubts} doubts`;
    if (!entry.acknowledged || count === 0) lost.push(story);
    else if (count > 1 && count <= 1 + doubts) doubled += 1;
    else if (count > 1) unexplained.push(story);
    if (entry.refusals.some(each => !each.startsWith('4'))) refused.push(story);
  }
  assert.deepEqual(lost, [], 'nothing acknowledged is lost, and all is acknowledged at last');
  assert.deepEqual(refused, [], 'trouble is never 5xx');
  assert.deepEqual(unexplained, [], 'none is there twice without a doubt');
  // A mail reader sees what the files say.
  for (const user of world.users.slice(0, 2)) {
    const read = await numbersByImap({ port: world.homing.ports.imap ?? 0, user });
    for (const entry of books.filter(each => each.user === user))
      assert.equal(
        read.get(entry.number),
        found.get(user)?.get(entry.number),
        `${entry.number} through IMAP`,
      );
  }
  return {
    acknowledged: books.length,
    retried: books.filter(each => each.attempts > 1).length,
    doubled,
    inDoubt: [...inDoubt.values()].reduce((sum, each) => sum + each, 0),
    direct,
    queued,
  };
}
