/**
 * What an SMTP reply takes on: recipients that must be tried again, and senders that must be told. Stands between settling and the
 * 250, which is sent only once all of it is durable in the queue. A foreign sender cannot be written to from here (no route goes out):
 * its own mail system is told in the reply instead, and tells it. DANGER: nothing is dropped here; what can't be kept is a value.
 */
import { canonicalUser, type UserRules } from '../core/canonical.ts';
import type { Failure } from '../core/failure.ts';
import type { Outcome, Recipient, Reply } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { parseMailbox } from '../wire/address.ts';
import type { BodySpool } from './body.ts';
import type { Letter } from './courier.ts';
import { composeDsn } from './dsn.ts';

export interface Kept {
  readonly recipient: Recipient;
  readonly outcome: Outcome;
}

export interface KeepWish {
  readonly letter: Letter;
  /** Deferred or in doubt. */
  readonly queue: readonly Kept[];
  /** Refused for good, after others were delivered. */
  readonly bounce: readonly Kept[];
  /** Monotonic, ms. */
  readonly deadlineAtMs: number;
}

export type KeepResult =
  | { readonly kind: 'kept' }
  | { readonly kind: 'failed'; readonly failure: Failure }
  /** All else is kept, and this reply makes the client's mail system tell the sender. */
  | { readonly kind: 'tell-client'; readonly reply: Reply };

export interface Keep {
  /** Never rejects. */
  take(wish: KeepWish): Promise<KeepResult>;
}

/** The queue's own door: durable when it resolves with null. An in-doubt outcome stays bound to its node or courier. */
export type Enqueue = (
  letter: Letter,
  entries: readonly Kept[],
  deadlineAtMs: number,
) => Promise<Failure | null>;

export interface KeepOptions {
  readonly enqueue: Enqueue;
  readonly spool: BodySpool;
  readonly userRules: () => UserRules;
  /** Our own name. */
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
}

export function createKeep(options: KeepOptions): Keep {
  return {
    async take(wish) {
      try {
        return await keepAll(options, wish);
      } catch (error) {
        options.log.error({ id: wish.letter.id, error }, 'keeping a message failed');
        return { kind: 'failed', failure: { kind: 'internal' } };
      }
    },
  };
}

async function keepAll(options: KeepOptions, wish: KeepWish): Promise<KeepResult> {
  const { letter, queue, bounce, deadlineAtMs } = wish;
  if (queue.length > 0) {
    const failure = await options.enqueue(letter, queue, deadlineAtMs);
    if (failure !== null) return { kind: 'failed', failure };
  }
  if (bounce.length === 0) return { kind: 'kept' };
  const sender = ownSender(options, letter.from);
  const failure = sender === null ? null : await bounceTo(options, wish, sender);
  if (sender !== null && failure === null) return { kind: 'kept' };
  const refused = bounce.map(each => each.recipient.address);
  options.log.warn(
    { id: letter.id, from: letter.from, refused, failure },
    'partly refused: the client is told, for the sender to learn of it',
  );
  return { kind: 'tell-client', reply: partlyRefused(bounce) };
}

/** The sender as a recipient of ours, or null. */
function ownSender({ userRules, clock, name }: KeepOptions, from: string): Recipient | null {
  const mailbox = parseMailbox(from);
  const rules = userRules();
  if (!mailbox.ok || mailbox.value.domain === null || !rules.domains.has(mailbox.value.domain)) return null;
  const found = canonicalUser(mailbox.value.address, rules);
  if (!found.ok) return null;
  const maildirName = `${Math.floor(clock.wall() / 1000)}.P${process.pid}R${clock.token(8)}.${name.replace(/[^A-Za-z0-9.-]/g, '_')}`;
  return { index: 0, address: mailbox.value.address, user: found.user, detail: found.detail, maildirName };
}

async function bounceTo(options: KeepOptions, wish: KeepWish, sender: Recipient): Promise<Failure | null> {
  const { clock, spool, name, enqueue } = options;
  const { letter, bounce, deadlineAtMs } = wish;
  const nowMs = clock.wall();
  const id = `${letter.id}b`;
  const writer = spool.begin(id);
  await writer.write(await composeDsn({ letter, refused: bounce, name, nowMs }));
  const finished = await writer.finish();
  if (!finished.ok) return finished.failure;
  const { body } = finished;
  try {
    const report: Letter = {
      id,
      from: '',
      body,
      eightBit: true,
      smtpUtf8: letter.smtpUtf8,
      acceptedAtMs: nowMs,
    };
    const outcome: Outcome = { kind: 'deferred', courier: 'queue', node: null, reply: waiting };
    return await enqueue(report, [{ recipient: sender, outcome }], deadlineAtMs);
  } finally {
    await body.dispose();
  }
}

const waiting: Reply = { code: 451, enhanced: '4.0.0', lines: ['not tried yet'] };

/** Its lines stand in the report that the client's mail system writes. */
function partlyRefused(bounce: readonly Kept[]): Reply {
  const lines = bounce
    .slice(0, 50)
    .map(({ recipient, outcome }) =>
      `refused <${recipient.address}>: ${outcome.reply.code} ${outcome.reply.lines.join(' ')}`.slice(0, 400),
    );
  return { code: 554, enhanced: '5.0.0', lines: ['Delivered to all recipients but these:', ...lines] };
}
