/**
 * One attempt at one entry of the queue: read it, note where it goes, hand it over, note what became of it, tell of refusals.
 * The queue runner calls it, one at a time for an entry. DANGER: the order of the notes is the promise; each is durable before the
 * next step, so that a crash between any two leaves an entry that says less than happened, or calls it in doubt, never more.
 */
import type { Admitting } from '../cluster/admission.ts';
import { type Failure, logText } from '../core/failure.ts';
import { isNodeForMail } from '../core/mail-node.ts';
import { nextAttempt, type RetrySchedule } from '../core/retry.ts';
import type { NodeName, Outcome, Recipient, Reply } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import type { Doubt, QueuedRecipient, QueueEnvelope } from '../storage/queue-envelope.ts';
import type { QueueFolder } from '../storage/queue-folder.ts';
import type { Trouble } from '../storage/safe-file.ts';
import type { Letter } from './courier.ts';
import type { Dispatch, HomeDownStep, SendOptions } from './dispatch.ts';
import type { Keep } from './keep.ts';
import { doubtOf } from './to-queue.ts';

export interface AttemptTools {
  readonly queue: QueueFolder;
  readonly dispatch: Dispatch;
  readonly admitting: Pick<Admitting, 'peek' | 'node'>;
  /** What tells senders of refusals; the entry stays until it says `kept`. */
  readonly bounce: Keep['take'];
  /** The chain behind the home node. `queue` in it is passed over. */
  readonly whenHomeDown: readonly HomeDownStep[];
  /** For one attempt. Longer than the wait for a node's final reply, or every slow node makes doubts. */
  readonly attemptMs: number;
  /** Bodies up to this size are read into memory for the attempt. */
  readonly memoryBytes: number;
  readonly schedule: RetrySchedule;
  readonly clock: Clock;
  readonly log: Log;
}

export type Tried =
  | { readonly kind: 'gone' }
  /** `envelope`: what is true now, null where nothing could be learnt. `saved`: the file says so too. */
  | {
      readonly kind: 'waits';
      readonly envelope: QueueEnvelope | null;
      readonly saved: boolean;
      readonly nextAtMs: number;
    };

/** The folder is in trouble, nothing else: asked again soon. */
const folderTroubleMs = 30_000;

/** Never rejects. `unsaved`: what could not be written last time, and counts instead of the file. */
export async function tryEntry(
  options: AttemptTools,
  key: string,
  unsaved: QueueEnvelope | null,
): Promise<Tried> {
  try {
    return await new Attempt(options, key).run(unsaved);
  } catch (error) {
    // Not to be met. The file says what is true; nobody is retried sooner than that can hurt.
    options.log.error({ key, error: String(error) }, 'an attempt from the queue failed in itself');
    return {
      kind: 'waits',
      envelope: unsaved,
      saved: unsaved === null,
      nextAtMs: options.clock.wall() + 15 * 60_000,
    };
  }
}

class Attempt {
  readonly #options: AttemptTools;
  readonly #key: string;
  #notes: Promise<Trouble> = Promise.resolve(null);
  #recipients = new Map<number, QueuedRecipient>();

  constructor(options: AttemptTools, key: string) {
    this.#options = options;
    this.#key = key;
  }

  async run(unsaved: QueueEnvelope | null): Promise<Tried> {
    const { queue, log, memoryBytes } = this.#options;
    let envelope = unsaved;
    if (envelope === null) {
      const read = await queue.read(this.#key);
      if (!read.ok) {
        log.error(
          { key: this.#key, why: read.why, damaged: read.damaged },
          'an entry of the queue cannot be read',
        );
        return read.damaged ? { kind: 'gone' } : this.#waits(null, true);
      }
      envelope = read.envelope;
    }
    // Everybody was settled, but the file could not be removed.
    if (envelope.recipients.length === 0) return this.#remove(envelope);
    const body = await queue.body(this.#key, envelope.bodyBytes, memoryBytes);
    if (!body.ok) {
      log.error({ key: this.#key, why: logText(body.failure) }, 'a body of the queue cannot be read');
      return this.#waits(unsaved, unsaved === null);
    }
    const letter = letterOf(envelope, { ...body.body, dispose: () => Promise.resolve() });
    const tried = await this.#carry(letter, envelope);
    return this.#conclude(letter, tried);
  }

  /** Everyone not settled is handed over by the way that is open to them; the result is what is true of them now. */
  async #carry(letter: Letter, envelope: QueueEnvelope): Promise<QueueEnvelope> {
    const parties = new Map<
      string,
      { options: Pick<SendOptions, 'onlyNode' | 'onlyDirect'>; recipients: QueuedRecipient[] }
    >();
    for (const recipient of envelope.recipients) {
      if (recipient.refused) continue;
      const only = this.#only(recipient);
      const name = JSON.stringify(only);
      const party = parties.get(name) ?? { options: only, recipients: [] };
      party.recipients.push(recipient);
      parties.set(name, party);
    }
    if (parties.size === 0) return envelope;
    const { dispatch, whenHomeDown, clock, attemptMs } = this.#options;
    this.#recipients = new Map(envelope.recipients.map((recipient, at) => [at, recipient]));
    const deadlineAtMs = clock.now() + attemptMs;
    const chain = whenHomeDown.filter(step => step !== 'queue');
    const sendings = [...parties.values()].map(async party => {
      const beforeCarry: SendOptions['beforeCarry'] = (courier, node, recipients) =>
        this.#note(
          envelope,
          courier === 'direct' ? { courier } : node === null ? null : { courier, node },
          recipients,
        );
      const sending = { ...party.options, whenHomeDown: chain, deadlineAtMs, beforeCarry };
      const outcomes = await dispatch.send(letter, party.recipients, sending);
      return party.recipients.flatMap((recipient, i) => {
        const after = settled(recipient, outcomes[i]);
        return after === null ? [] : [after];
      });
    });
    const left = (await Promise.all(sendings)).flat();
    const refused = envelope.recipients.filter(recipient => recipient.refused);
    await this.#notes;
    return { ...envelope, attempts: envelope.attempts + 1, recipients: [...refused, ...left] };
  }

  /** In doubt: only where it may be already. Unless that node is no more, or the user was placed on another while it lives (promise 1). */
  #only({ doubt, user }: QueuedRecipient): Pick<SendOptions, 'onlyNode' | 'onlyDirect'> {
    if (doubt === null) return {};
    if (doubt.courier === 'direct') return { onlyDirect: true };
    const { admitting } = this.#options;
    const node = admitting.node(doubt.node);
    if (node === null) return {};
    const place = admitting.peek(user);
    const elsewhere = isNodeForMail(place) && 'node' in place && place.node !== doubt.node;
    return elsewhere && node.health === 'up' ? {} : { onlyNode: doubt.node };
  }

  /** Where these are about to go, durably. Notes of one entry are written one after the other. */
  async #note(
    envelope: QueueEnvelope,
    doubt: Doubt | null,
    recipients: readonly Recipient[],
  ): Promise<Failure | null> {
    const going = new Set(recipients.map(recipient => recipient.address));
    let changed = false;
    for (const [at, recipient] of this.#recipients) {
      if (doubt === null || !going.has(recipient.address) || same(recipient.doubt, doubt)) continue;
      // A doubt from before this attempt is the truer one: it was never settled. One of this attempt was, or we were not here.
      if (envelope.recipients[at]?.doubt !== null) continue;
      this.#recipients.set(at, { ...recipient, doubt });
      changed = true;
    }
    if (!changed) return null;
    const noted = { ...envelope, recipients: [...this.#recipients.values()] };
    this.#notes = this.#notes.then(() => this.#options.queue.update(this.#key, noted));
    const trouble = await this.#notes;
    if (trouble === null) return null;
    this.#options.log.warn({ key: this.#key, why: trouble.failure.text }, 'the queue cannot note an attempt');
    // A full disk still lets a settled entry be removed: delivering is what frees it. Anything else would deliver without an end.
    return trouble.errno === 'ENOSPC' || trouble.errno === 'EDQUOT' ? null : trouble.failure;
  }

  async #conclude(letter: Letter, tried: QueueEnvelope): Promise<Tried> {
    const { clock, schedule, queue } = this.#options;
    const past = {
      attempts: tried.attempts,
      ageMs: clock.wall() - tried.acceptedAtMs,
      chance: clock.chance(),
    };
    const next = nextAttempt(past, schedule);
    const recipients =
      next.kind === 'give-up'
        ? tried.recipients.map(each => givenUp(each, schedule.lifeMs))
        : tried.recipients;
    const waitMs = next.kind === 'retry' ? next.afterMs : folderTroubleMs;
    const envelope = { ...tried, recipients, nextAtMs: Math.round(clock.wall() + waitMs) };
    if (recipients.length === 0) return this.#remove(envelope);
    const trouble = await queue.update(this.#key, envelope);
    if (trouble !== null) return this.#unsaved(envelope, trouble);
    return recipients.some(each => each.refused)
      ? this.#tell(letter, envelope)
      : { kind: 'waits', envelope, saved: true, nextAtMs: envelope.nextAtMs };
  }

  /** The refusals are on disk; the sender is told, and then they leave the entry. */
  async #tell(letter: Letter, envelope: QueueEnvelope): Promise<Tried> {
    const { bounce, queue, clock, log, attemptMs } = this.#options;
    const refused = envelope.recipients.filter(each => each.refused);
    const left = envelope.recipients.filter(each => !each.refused);
    const entries = refused.map(recipient => ({ recipient, outcome: refusalOf(recipient) }));
    const addresses = refused.map(each => each.address);
    if (letter.from === '') {
      // RFC 5321 §4.5.5: a report about a report is never sent.
      log.warn({ id: letter.id, to: addresses }, 'refused for good, and the null sender is never told');
    } else {
      const told = await bounce({
        letter,
        queue: [],
        bounce: entries,
        deadlineAtMs: clock.now() + attemptMs,
      });
      if (told.kind === 'failed') {
        log.error({ id: letter.id, why: logText(told.failure) }, 'the sender cannot be told yet');
        return this.#waits(envelope, true);
      }
      if (told.kind === 'tell-client' && left.length === 0) {
        log.error(
          { id: letter.id, from: letter.from, to: addresses },
          'the sender cannot be told: kept in undelivered/',
        );
        const trouble = await queue.bury(this.#key);
        return trouble === null ? { kind: 'gone' } : this.#waits(envelope, true);
      }
      // Others still wait: it is told, or buried, with the last of them.
      if (told.kind === 'tell-client')
        return { kind: 'waits', envelope, saved: true, nextAtMs: envelope.nextAtMs };
    }
    const rest = { ...envelope, recipients: left };
    if (left.length === 0) return this.#remove(rest);
    const trouble = await queue.update(this.#key, rest);
    return trouble === null
      ? { kind: 'waits', envelope: rest, saved: true, nextAtMs: rest.nextAtMs }
      : this.#unsaved(rest, trouble);
  }

  async #remove(envelope: QueueEnvelope): Promise<Tried> {
    const trouble = await this.#options.queue.remove(this.#key);
    return trouble === null ? { kind: 'gone' } : this.#unsaved({ ...envelope, recipients: [] }, trouble);
  }

  #unsaved(envelope: QueueEnvelope, trouble: Trouble): Tried {
    const why = trouble?.failure.text;
    this.#options.log.error(
      { key: this.#key, why },
      'the queue cannot be written: this entry is known in memory only',
    );
    return { kind: 'waits', envelope, saved: false, nextAtMs: this.#options.clock.wall() + folderTroubleMs };
  }

  #waits(envelope: QueueEnvelope | null, saved: boolean): Tried {
    return { kind: 'waits', envelope, saved, nextAtMs: this.#options.clock.wall() + folderTroubleMs };
  }
}

/** What is true of a recipient after its outcome; null where it is settled and done. */
function settled(recipient: QueuedRecipient, outcome: Outcome | undefined): QueuedRecipient | null {
  if (outcome === undefined) return recipient;
  const last = { node: outcome.node ?? recipient.last?.node ?? null, reply: outcome.reply };
  switch (outcome.kind) {
    case 'delivered':
      return null;
    case 'rejected':
      return { ...recipient, last, refused: true };
    case 'deferred':
      return { ...recipient, last };
    case 'in-doubt':
      return { ...recipient, last, doubt: recipient.doubt ?? doubtOf(outcome) };
  }
}

function givenUp(recipient: QueuedRecipient, lifeMs: number): QueuedRecipient {
  if (recipient.refused) return recipient;
  const days = Math.round((lifeMs / 86_400_000) * 10) / 10;
  const reply = recipient.last?.reply;
  const words =
    reply === undefined ? [] : [`last reply: ${reply.code} ${reply.lines.join(' ')}`.slice(0, 400)];
  const doubt = recipient.doubt === null ? [] : ['It may have been delivered all the same'];
  // RFC 3463 §3.5: X.4.7, delivery time expired.
  const expired: Reply = {
    code: 554,
    enhanced: '5.4.7',
    lines: [`Not delivered within ${days} days`, ...doubt, ...words],
  };
  return { ...recipient, refused: true, last: { node: recipient.last?.node ?? null, reply: expired } };
}

function refusalOf({ last }: QueuedRecipient): Outcome {
  const reply: Reply = last?.reply ?? { code: 554, enhanced: '5.0.0', lines: ['Refused'] };
  const node: NodeName | null = last?.node ?? null;
  return { kind: 'rejected', courier: node === null ? 'queue' : 'node', node, reply };
}

function same(a: Doubt | null, b: Doubt): boolean {
  if (a === null || a.courier !== b.courier) return false;
  return a.courier === 'direct' || (b.courier === 'node' && a.node === b.node);
}

function letterOf(envelope: QueueEnvelope, body: Letter['body']): Letter {
  const { id, from, eightBit, smtpUtf8, acceptedAtMs } = envelope;
  return { id, from, body, eightBit, smtpUtf8, acceptedAtMs };
}
