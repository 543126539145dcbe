/**
 * The courier `queue`: a letter waits in our durable folder, and its recipients are tried again by the queue runner.
 * Also the door for what an SMTP reply took on (keep.ts). DANGER: says yes only when body and envelope are on disk; what came to disk
 * after the deadline is taken back, since its client was told no.
 */
import { type Failure, lmtpReply } from '../core/failure.ts';
import { defaultSchedule, nextAttempt, type RetrySchedule } from '../core/retry.ts';
import type { Outcome, Recipient } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import {
  type Doubt,
  envelopeVersion,
  type QueuedRecipient,
  type QueueEnvelope,
} from '../storage/queue-envelope.ts';
import type { QueueFolder } from '../storage/queue-folder.ts';
import type { Courier, Letter } from './courier.ts';
import type { Enqueue } from './keep.ts';

export interface QueueCourierOptions {
  readonly queue: QueueFolder;
  /** The runner's: it is in the queue from now on. */
  readonly onAdded: (key: string, envelope: QueueEnvelope) => void;
  /** Letters being written at once; more are refused. */
  readonly maxWriting?: number;
  readonly schedule?: RetrySchedule;
  readonly clock: Clock;
  readonly log: Log;
}

export interface QueueCourier extends Courier {
  /** Null: durable. An outcome in doubt stays bound to its node or to direct delivery. Never rejects. */
  readonly enqueue: Enqueue;
}

interface Waiting {
  readonly recipient: Recipient;
  readonly outcome: Outcome | null;
}

export function createQueueCourier(options: QueueCourierOptions): QueueCourier {
  const { clock, maxWriting = 200 } = options;
  let writing = 0;

  const put = async (
    letter: Letter,
    waiting: readonly Waiting[],
    deadlineAtMs: number,
  ): Promise<string | Failure> => {
    if (writing >= maxWriting) return { kind: 'queue-failed', text: 'too many are being queued' };
    if (clock.now() >= deadlineAtMs) return { kind: 'queue-failed', text: 'no time left' };
    writing += 1;
    const envelope = envelopeOf(letter, waiting, options);
    const adding = options.queue.add(envelope, letter.body, clock.token(4));
    const added = await before(clock, deadlineAtMs, adding);
    if (added === null) {
      void adding.then(late => {
        writing -= 1;
        return late.ok ? takeBack(options, late.key) : undefined;
      });
      return { kind: 'queue-failed', text: 'the queue folder does not answer' };
    }
    writing -= 1;
    if (!added.ok) return added.failure;
    options.onAdded(added.key, envelope);
    return added.key;
  };

  return {
    name: 'queue',
    async carry({ letter, recipients, deadlineAtMs }) {
      const waiting = recipients.map(recipient => ({ recipient, outcome: null }));
      const key = await put(letter, waiting, deadlineAtMs);
      const outcome: Outcome = typeof key === 'string' ? queuedAs(key) : notQueued(key);
      return recipients.map(() => outcome);
    },
    async enqueue(letter, entries, deadlineAtMs) {
      const key = await put(letter, entries, deadlineAtMs);
      return typeof key === 'string' ? null : key;
    },
  };
}

function queuedAs(key: string): Outcome {
  const reply = { code: 250, enhanced: '2.0.0', lines: [`queued as ${key}`] };
  return { kind: 'delivered', courier: 'queue', node: null, reply };
}

function notQueued(failure: Failure): Outcome {
  return { kind: 'deferred', courier: 'queue', node: null, reply: lmtpReply(failure), failure };
}

function envelopeOf(
  letter: Letter,
  waiting: readonly Waiting[],
  { clock, schedule = defaultSchedule }: QueueCourierOptions,
): QueueEnvelope {
  const { id, from, eightBit, smtpUtf8, acceptedAtMs, body } = letter;
  const past = { attempts: 1, ageMs: clock.wall() - acceptedAtMs, chance: clock.chance() };
  const next = nextAttempt(past, schedule);
  const waitMs = next.kind === 'retry' ? next.afterMs : 0;
  return {
    version: envelopeVersion,
    id,
    from,
    eightBit,
    smtpUtf8,
    acceptedAtMs: Math.max(0, Math.round(acceptedAtMs)),
    bodyBytes: body.bytes,
    attempts: 1,
    nextAtMs: Math.round(clock.wall() + waitMs),
    recipients: waiting.map(queuedOf),
  };
}

function queuedOf({ recipient, outcome }: Waiting): QueuedRecipient {
  const { index, address, user, detail, maildirName } = recipient;
  const last = outcome === null ? null : { node: outcome.node, reply: outcome.reply };
  return {
    index,
    address,
    user,
    detail,
    maildirName,
    doubt: outcome === null ? null : doubtOf(outcome),
    last,
    refused: false,
  };
}

/** Where it may have arrived; null where it surely has not, or nobody can say where. */
export function doubtOf({ kind, courier, node }: Outcome): Doubt | null {
  if (kind !== 'in-doubt') return null;
  if (courier === 'direct') return { courier: 'direct' };
  return node === null ? null : { courier: 'node', node };
}

async function takeBack({ queue, log }: QueueCourierOptions, key: string): Promise<void> {
  const trouble = await queue.remove(key);
  log.warn(
    { key, trouble: trouble?.failure.text },
    'queued too late, and taken back: its client was told no',
  );
}

async function before<T>(clock: Clock, deadlineAtMs: number, work: Promise<T>): Promise<T | null> {
  let cancel = (): void => undefined;
  const late = new Promise<null>(resolve => {
    cancel = clock.after(Math.max(0, deadlineAtMs - clock.now()), () => resolve(null));
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    cancel();
  }
}
