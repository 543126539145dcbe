/**
 * The steady stream of canaries: so many a second whatever becomes of the earlier ones, by SMTP and LMTP in turn,
 * temporary refusals tried again as any MTA would. It keeps its own books; the count is made from them at the end.
 */
import type { User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Canary, Way } from './canaries.ts';
import type { Receipt } from './mail-talk.ts';
import type { Letter, Sender } from './senders.ts';
import { pause } from './wait.ts';

export interface StreamOptions {
  readonly clock: Clock;
  readonly users: readonly User[];
  readonly senders: Readonly<Record<Way, Sender>>;
  readonly perSecond: number;
  readonly retryAfterMs: number;
  /** No new letter is begun while so many are under way. */
  readonly mostUnderWay: number;
}

export interface Stream {
  /** No new mail for these users until `resume`; what is under way goes on. */
  spare(users: readonly User[]): void;
  resume(): void;
  underWay(): number;
  /** Ends the stream, waits for what is under way at most `limitMs`, and gives the books. */
  end(limitMs: number): Promise<readonly Canary[]>;
}

interface Entry {
  readonly number: number;
  readonly user: User;
  readonly way: Way;
  end: Canary['end'];
  tries: number;
  doubtful: boolean;
}

export function startStream({
  clock,
  users,
  senders,
  perSecond,
  retryAfterMs,
  mostUnderWay,
}: StreamOptions): Stream {
  const books: Entry[] = [];
  let spared: ReadonlySet<User> = new Set();
  let number = 0;
  let underWay = 0;
  let ended = false;
  let whenIdle: (() => void) | null = null;

  /** Every tenth letter goes to two users, who mostly live on different nodes. */
  function next(): { letter: Letter; way: Way } | null {
    const open = users.filter(user => !spared.has(user));
    if (open.length === 0) return null;
    number++;
    const first = open[number % open.length] ?? '';
    const second = open[(number + 1) % open.length] ?? '';
    const way: Way = number % 2 === 0 ? 'smtp' : 'lmtp';
    return { letter: { number, to: number % 10 < 2 && second !== first ? [first, second] : [first] }, way };
  }

  async function carry(letter: Letter, way: Way): Promise<void> {
    const entries = letter.to.map(
      (user): Entry => ({ number: letter.number, user, way, end: 'pending', tries: 0, doubtful: false }),
    );
    books.push(...entries);
    for (let left = entries; left.length > 0; left = left.filter(one => one.end === 'pending')) {
      if (left.some(one => one.tries > 0)) await pause(clock, retryAfterMs);
      const receipts = await senders[way].carry({ number: letter.number, to: left.map(one => one.user) });
      for (const [at, entry] of left.entries()) note(entry, receipts[at]);
      if (ended && clock.now() > giveUpAtMs) return;
    }
  }
  let giveUpAtMs = Number.POSITIVE_INFINITY;

  const timer = setInterval(() => {
    if (underWay >= mostUnderWay) return;
    const due = next();
    if (due === null) return;
    underWay++;
    carry(due.letter, due.way)
      .finally(() => {
        underWay--;
        if (underWay === 0) whenIdle?.();
      })
      .catch(() => undefined);
  }, 1000 / perSecond);

  return {
    spare: some => {
      spared = new Set(some);
    },
    resume: () => {
      spared = new Set();
    },
    underWay: () => underWay,
    end: async limitMs => {
      clearInterval(timer);
      ended = true;
      giveUpAtMs = clock.now() + limitMs;
      if (underWay > 0) {
        await new Promise<void>(resolve => {
          const cancel = clock.after(limitMs, resolve);
          whenIdle = () => {
            cancel();
            resolve();
          };
        });
      }
      for (const sender of Object.values(senders)) sender.close();
      return books.map(one => ({ ...one }));
    },
  };
}

function note(entry: Entry, receipt: Receipt | undefined): void {
  entry.tries++;
  if (receipt?.kind === 'acknowledged') entry.end = 'acknowledged';
  if (receipt?.kind === 'refused' && receipt.code >= 500) entry.end = 'rejected';
  if (receipt?.kind === 'in-doubt') entry.doubtful = true;
}
