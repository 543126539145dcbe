/**
 * One message from MAIL to its final reply: the way of a message, as a table of contents.
 *
 *     MAIL → RCPT (canonical user → ours? → place → the node's own word, else the spool's) → DATA → body → dispatch → settle → reply
 *
 * `dispatch.ts` splits by node and carries; `core/settle.ts` weighs what became of it. DANGER: a recipient is accepted on a node's or
 * the spool's word alone (else backscatter), a 5xx about a user is believed from its own live node alone, and 2xx is answered only
 * once each recipient is delivered or durable in the queue (promise 2).
 */
import type { Admitting } from '../cluster/admission.ts';
import { type Canonical, canonicalUser, type UserRules } from '../core/canonical.ts';
import { type Failure, lmtpReply, logText, smtpReply } from '../core/failure.ts';
import { isNodeForMail, isOtherHome } from '../core/mail-node.ts';
import { settleLmtp, settleSmtp } from '../core/settle.ts';
import type { ClusterNode, Outcome, Place, Recipient, Reply, User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import type { Mailbox } from '../wire/address.ts';
import type { BodySpool } from './body.ts';
import type { Letter } from './courier.ts';
import type { Dispatch, HomeDownStep } from './dispatch.ts';
import { Intake, type IntakeLimits } from './intake.ts';
import type { Keep } from './keep.ts';
import { receivedField, type Trace } from './received.ts';

export type Presence = 'present' | 'absent' | 'unknown';

export interface VerifyOptions {
  /** Monotonic, ms. */
  readonly deadlineAtMs: number;
}

export interface TransactionLimits extends IntakeLimits {
  readonly maxRecipients: number;
  /** For the node's word on one recipient; then the spool is asked. */
  readonly verifyTimeoutMs: number;
  /** From the final dot to our reply. Longer than a cluster file system's own failover; clients wait ten minutes (RFC 5321 §4.5.3.2.6). */
  readonly deliverTimeoutMs: number;
}

export interface TransactionTools {
  readonly kind: 'lmtp' | 'smtp';
  /** Our own name, in Received and Maildir names. */
  readonly name: string;
  readonly admitting: Pick<Admitting, 'peek' | 'node'>;
  readonly userRules: () => UserRules;
  /** The node's own reply to RCPT. A reply of class 4.4 says that the node was not reached. */
  readonly verifyAtNode: (
    node: ClusterNode,
    from: string,
    rcpt: string,
    options: VerifyOptions,
  ) => Promise<Reply>;
  /** Whether the user's spool folder stands under a present mark. */
  readonly verifyInSpool: (user: User) => Promise<Presence>;
  readonly dispatch: Dispatch;
  /** Where what an SMTP reply took on is made durable; null without a queue. */
  readonly keep: Keep | null;
  readonly spool: BodySpool;
  readonly whenHomeDown: readonly HomeDownStep[];
  readonly multiHome: 'split' | 'pin-first';
  readonly limits: TransactionLimits;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Peer {
  /** `192.0.2.1:4711`, or '' on a Unix socket. */
  readonly client: string;
  readonly address: string;
  readonly helo: string;
  readonly protocol: Trace['protocol'];
}

export interface Envelope {
  /** '' is the null sender. */
  readonly from: string;
  readonly eightBit: boolean;
  readonly smtpUtf8: boolean;
}

export class Transaction {
  readonly id: string;
  readonly #tools: TransactionTools;
  readonly #peer: Peer;
  readonly #envelope: Envelope;
  readonly #accepted: Recipient[] = [];
  readonly #verdicts = new Map<string, Promise<Reply>>();
  /** Positions given out; a refused one stays empty. */
  #positions = 0;
  /** Accepted, or being verified. */
  #taken = 0;
  #firstPlace: Place | null = null;
  #intake: Intake | null = null;

  constructor(tools: TransactionTools, peer: Peer, envelope: Envelope) {
    this.id = newId(tools.clock);
    this.#tools = tools;
    this.#peer = peer;
    this.#envelope = envelope;
  }

  get acceptedCount(): number {
    return this.#accepted.length;
  }

  /** The reply to one RCPT. Several may be under way at once; each has its position from the order of the calls. Never rejects. */
  async rcpt(mailbox: Mailbox): Promise<Reply> {
    const { limits, userRules, log } = this.#tools;
    if (this.#taken >= limits.maxRecipients) return this.#say({ kind: 'too-many-recipients' });
    const index = this.#positions++;
    this.#taken++;
    const rules = userRules();
    const found = canonicalUser(mailbox.address, rules);
    const refusal = this.#ours(mailbox, found, rules);
    let reply: Reply;
    if (refusal !== null) reply = refusal;
    else if (found.ok) {
      let verdict = this.#verdicts.get(mailbox.address);
      verdict ??= this.#verify(found.user, mailbox.address);
      this.#verdicts.set(mailbox.address, verdict);
      reply = await verdict;
      if (reply.code < 300) this.#accept(index, mailbox.address, found.user, found.detail);
    } else reply = this.#say({ kind: 'bad-address', text: found.why });
    if (reply.code >= 300) {
      this.#taken--;
      if (this.#taken === 0) this.#firstPlace = null;
      const { client } = this.#peer;
      log.info(
        { id: this.id, client, from: this.#from(), to: mailbox.address, reply: oneLine(reply) },
        'refused',
      );
    }
    return reply;
  }

  /** The receiver feeds it the client's raw bytes behind DATA's 354. */
  beginBody(): Intake {
    const { spool, limits, name, clock } = this.#tools;
    const only = this.#accepted.length === 1 ? this.#accepted[0]?.address : undefined;
    const trace = receivedField({
      ...this.#peer,
      name,
      id: this.id,
      recipient: only === undefined || (!this.#envelope.smtpUtf8 && /[^ -~]/.test(only)) ? null : only,
      atMs: clock.wall(),
    });
    this.#intake = new Intake(spool.begin(this.id), limits, trace, name);
    return this.#intake;
  }

  /** After the final dot: one reply for each accepted recipient by LMTP (RFC 2033 §4.2), one for all by SMTP. Never rejects. */
  async settle(): Promise<readonly Reply[]> {
    const finished = await this.#intake?.finish();
    this.#intake = null;
    if (finished === undefined || !finished.ok) {
      const failure: Failure = finished?.failure ?? { kind: 'internal', text: 'no body' };
      this.#tools.log.info(
        { id: this.id, client: this.#peer.client, from: this.#from(), why: logText(failure) },
        'message refused',
      );
      return this.#forAll(this.#say(failure));
    }
    const letter: Letter = {
      id: this.id,
      ...this.#envelope,
      body: finished.body,
      acceptedAtMs: this.#tools.clock.wall(),
    };
    try {
      return await this.#deliver(letter);
    } catch (error) {
      this.#tools.log.error({ id: this.id, error }, 'a delivery broke');
      return this.#forAll(this.#say({ kind: 'internal' }));
    } finally {
      await finished.body.dispose();
    }
  }

  /** The client is gone, has changed its mind, or took too long: before `settle` nothing has been handed over. */
  abandon(): void {
    this.#intake
      ?.abort()
      .catch(error => this.#tools.log.error({ id: this.id, error }, 'a body was not given back'));
    this.#intake = null;
  }

  async #deliver(letter: Letter): Promise<readonly Reply[]> {
    const { dispatch, kind, clock, limits, whenHomeDown } = this.#tools;
    const deadlineAtMs = clock.now() + limits.deliverTimeoutMs;
    const { client } = this.#peer;
    const sent = await dispatch.send(letter, this.#accepted, { whenHomeDown, deadlineAtMs, client });
    // One for each recipient, whatever comes back: a reply too few and the peer loses step.
    const outcomes = this.#accepted.map((_, position) => sent[position] ?? unknownOutcome);
    return kind === 'lmtp' ? settleLmtp(outcomes) : [await this.#settleSmtp(letter, outcomes, deadlineAtMs)];
  }

  async #settleSmtp(letter: Letter, outcomes: readonly Outcome[], deadlineAtMs: number): Promise<Reply> {
    const { keep, log } = this.#tools;
    // A stranger is told neither node nor detail: our own failures in their short form.
    const told = outcomes.map(each =>
      each.failure === undefined ? each : { ...each, reply: smtpReply(each.failure) },
    );
    const { queue, bounce, dropped, reply, ifQueueFails } = settleSmtp(told, letter);
    const pick = (positions: readonly number[]) =>
      positions.flatMap(position => {
        const recipient = this.#accepted[position];
        const outcome = told[position];
        return recipient === undefined || outcome === undefined ? [] : [{ recipient, outcome }];
      });
    for (const { recipient, outcome } of pick(dropped)) {
      const answer = oneLine(outcome.reply);
      log.warn(
        { id: letter.id, to: recipient.address, reply: answer },
        'refused for good, and the null sender is never told',
      );
    }
    if (queue.length === 0 && bounce.length === 0) return reply;
    if (keep === null) return ifQueueFails;
    const kept = await keep.take({ letter, queue: pick(queue), bounce: pick(bounce), deadlineAtMs });
    switch (kept.kind) {
      case 'kept':
        return reply;
      case 'failed':
        log.error(
          { id: letter.id, why: logText(kept.failure) },
          'delivered to some, the rest cannot be queued: the sender will send all again',
        );
        return ifQueueFails;
      case 'tell-client':
        return kept.reply;
    }
  }

  /** Refusals that need nobody's word. */
  #ours(mailbox: Mailbox, found: Canonical, rules: UserRules): Reply | null {
    const domain = mailbox.domain ?? rules.defaultDomain;
    if (!rules.domains.has(domain.toLowerCase())) return this.#say({ kind: 'not-ours' });
    if (!found.ok) return null;
    if (this.#tools.multiHome === 'split') return null;
    const place = this.#tools.admitting.peek(found.user);
    this.#firstPlace ??= place;
    return isOtherHome(this.#firstPlace, place) ? this.#say({ kind: 'other-home' }) : null;
  }

  async #verify(user: User, rcpt: string): Promise<Reply> {
    const { admitting } = this.#tools;
    const place = admitting.peek(user);
    const node = place.kind === 'held' || place.kind === 'none' ? null : admitting.node(place.node);
    if (node !== null) {
      const reply = await this.#askNode(node, rcpt);
      if (reply.code < 300) return reply;
      // Design §6: a 5xx about a user is believed from its own live node alone; and a node that is away has said nothing.
      if (isNodeForMail(place) && !saysUnreached(reply)) return reply;
    }
    const presence = await this.#askSpool(user);
    return presence === 'present'
      ? acceptedReply
      : this.#say({ kind: 'unverified-user', text: `spool: ${presence}` });
  }

  async #askNode(node: ClusterNode, rcpt: string): Promise<Reply> {
    const { verifyAtNode, clock, limits, log } = this.#tools;
    const silent = lmtpReply({ kind: 'node-silent', node: node.name });
    const deadlineAtMs = clock.now() + limits.verifyTimeoutMs;
    const asked = verifyAtNode(node, this.#envelope.from, rcpt, { deadlineAtMs }).catch(error => {
      log.error({ id: this.id, node: node.name, error }, 'asking a node about a recipient failed');
      return silent;
    });
    return within(clock, limits.verifyTimeoutMs, asked, silent);
  }

  #askSpool(user: User): Promise<Presence> {
    const { verifyInSpool, clock, limits } = this.#tools;
    const asked = verifyInSpool(user).catch((): Presence => 'unknown');
    return within<Presence>(clock, limits.verifyTimeoutMs, asked, 'unknown');
  }

  #accept(index: number, address: string, user: User, detail: string): void {
    const maildirName = this.#maildirName(index);
    const recipient = { index, address, user, detail, maildirName };
    const behind = this.#accepted.findIndex(each => each.index > index);
    this.#accepted.splice(behind === -1 ? this.#accepted.length : behind, 0, recipient);
  }

  /** Unique on the shared file system: time, process, position, our id with its random part, and our name (design §6). */
  #maildirName(index: number): string {
    const { clock, name } = this.#tools;
    const wall = clock.wall();
    const seconds = Math.floor(wall / 1000);
    const micros = Math.floor((wall % 1000) * 1000);
    const host = name.replace(/[^A-Za-z0-9.-]/g, '_');
    return `${seconds}.M${micros}P${process.pid}Q${index}R${this.id}.${host}`;
  }

  #say(failure: Failure): Reply {
    return this.#tools.kind === 'lmtp' ? lmtpReply(failure) : smtpReply(failure);
  }

  #forAll(reply: Reply): readonly Reply[] {
    return this.#tools.kind === 'lmtp' ? this.#accepted.map(() => reply) : [reply];
  }

  #from(): string {
    return this.#envelope.from === '' ? '<>' : this.#envelope.from;
  }
}

const acceptedReply: Reply = { code: 250, enhanced: '2.1.5', lines: ['OK'] };

const unknownOutcome: Outcome = {
  kind: 'in-doubt',
  courier: 'node',
  node: null,
  reply: lmtpReply({ kind: 'in-doubt' }),
  failure: { kind: 'in-doubt' },
};

/** RFC 3463 X.4.X: network and routing, so nobody said anything about the user. 421: it takes no work now. */
function saysUnreached(reply: Reply): boolean {
  return (
    reply.code === 421 || (reply.code < 500 && reply.enhanced !== null && reply.enhanced.startsWith('4.4.'))
  );
}

/** `[0-9a-z]+`: when, and chance enough for a whole cluster. */
function newId(clock: Clock): string {
  return `${clock
    .wall()
    .toString(36)
    .replace(/[^0-9a-z]/g, '')}${clock.token(6)}`;
}

function oneLine(reply: Reply): string {
  return `${reply.code} ${reply.enhanced === null ? '' : `${reply.enhanced} `}${reply.lines.join(' / ')}`;
}

async function within<T>(clock: Clock, limitMs: number, work: Promise<T>, late: T): Promise<T> {
  let cancel = (): void => undefined;
  const timeout = new Promise<T>(resolve => {
    cancel = clock.after(limitMs, () => resolve(late));
  });
  try {
    return await Promise.race([work, timeout]);
  } finally {
    cancel();
  }
}
