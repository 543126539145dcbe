/**
 * Carries one letter to all its recipients: who is at home goes there, who cannot be reached goes down the chain.
 * Stands between a message (transaction, queue runner) and the couriers; both call `send` and settle by its outcomes.
 * DANGER: nothing is sent to a node without a live entry, every entry is released, and nothing goes to a second courier after it was
 * rejected or may have arrived (promises 1 and 3). Each outcome is logged here, so callers do not log deliveries.
 *
 *   recipients → users → first step ─ node, next ─→ admit → group by node → carry ─→ settled
 *                            ↑      └ direct ───────────────────────────→ carry ─→ settled
 *                            └──────────── next step ←───── not reached ────┘
 *                        queue: once, at the end, for all that came to it (one entry a letter)
 */
import type { Admitting, CloseReason, Entry } from '../cluster/admission.ts';
import { type Failure, lmtpReply } from '../core/failure.ts';
import { isNodeForMail } from '../core/mail-node.ts';
import type { ClusterNode, CourierName, NodeName, Outcome, Place, Recipient, User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { logDelivery } from '../observe/maillog.ts';
import type { Courier, Leash, Letter } from './courier.ts';

/** A step of `delivery.whenHomeDown`. `next`: the node that the view places the user on meanwhile. */
export type HomeDownStep = 'direct' | 'queue' | 'next';

export interface SendOptions {
  readonly whenHomeDown: readonly HomeDownStep[];
  /** Monotonic, ms. */
  readonly deadlineAtMs: number;
  /** Who brought it, for listings: `192.0.2.1:4711`, or left out (queue). */
  readonly client?: string;
  /** It may have arrived at this node: try no other way. */
  readonly onlyNode?: NodeName;
  /** A direct write of it may still be under way: try no other way. */
  readonly onlyDirect?: boolean;
  /**
   * Called before these go to a courier that can leave them in doubt, so that a queue can note it durably first. A failure: they are
   * not carried, and deferred with it.
   */
  readonly beforeCarry?: (
    courier: 'node' | 'direct',
    node: NodeName | null,
    recipients: readonly Recipient[],
  ) => Promise<Failure | null>;
}

export interface Dispatch {
  /** One outcome per recipient, in the same order. Never rejects; ends by the deadline. Equal addresses are carried once. */
  send(letter: Letter, recipients: readonly Recipient[], options: SendOptions): Promise<readonly Outcome[]>;
}

export interface DispatchOptions {
  readonly admitting: Admitting;
  /** At most one of each name; a step whose courier is not here is passed over. */
  readonly couriers: readonly Courier[];
  /** How long a delivery past DATA may take to end once its node is down (barrier.md §4, S). */
  readonly settleMs: number;
  readonly clock: Clock;
  readonly log: Log;
}

export function createDispatch(options: DispatchOptions): Dispatch {
  return { send: (letter, recipients, sending) => new Sending(options, letter, sending).run(recipients) };
}

type Step = 'node' | HomeDownStep;

/** One address, and all the positions it has among the recipients. */
interface Slot {
  readonly recipient: Recipient;
  readonly positions: number[];
  last: Outcome | null;
}

/** One user of the letter, on the way down its steps. */
interface Work {
  readonly user: User;
  slots: Slot[];
  steps: Step[];
  replans: number;
  triedNode: NodeName | null;
}

interface Admitted {
  readonly work: Work;
  readonly entry: Entry;
  closing: CloseReason | null;
  onClosing: (() => void) | null;
  onCut: (() => void) | null;
}

/** Users admitted within this time travel together; one that is held must not keep the others' entries waiting. */
const companyMs = 20;
const replansMax = 3;
/** Kept back for the queue, so that a silent node cannot use up the time in which the letter could be queued. */
const queueReserveMs = 10_000;

class Sending {
  private readonly options: DispatchOptions;
  private readonly letter: Letter;
  private readonly sending: SendOptions;
  private readonly startedAtMs: number;
  private readonly carryUntilMs: number;
  private readonly outcomes: Outcome[] = [];
  private toQueue: Work[] = [];
  /** Ends the wait of those held, at the deadline. */
  private readonly late = new AbortController();

  constructor(options: DispatchOptions, letter: Letter, sending: SendOptions) {
    this.options = options;
    this.letter = letter;
    this.sending = sending;
    this.startedAtMs = options.clock.now();
    const queues = sending.whenHomeDown.includes('queue');
    const spanMs = Math.max(0, sending.deadlineAtMs - this.startedAtMs);
    this.carryUntilMs = sending.deadlineAtMs - (queues ? Math.min(queueReserveMs, spanMs / 4) : 0);
  }

  async run(recipients: readonly Recipient[]): Promise<readonly Outcome[]> {
    await this.advance(this.worksOf(recipients));
    while (this.toQueue.length > 0) {
      const works = this.toQueue;
      this.toQueue = [];
      await this.carry('queue', works, this.sending.deadlineAtMs);
    }
    return this.outcomes;
  }

  private worksOf(recipients: readonly Recipient[]): Work[] {
    const works = new Map<User, Work>();
    recipients.forEach((recipient, position) => {
      let work = works.get(recipient.user);
      if (work === undefined) {
        const steps = this.stepsOf(this.options.admitting.peek(recipient.user));
        work = { user: recipient.user, slots: [], steps, replans: 0, triedNode: null };
        works.set(recipient.user, work);
      }
      const same = work.slots.find(slot => slot.recipient.address === recipient.address);
      if (same === undefined) work.slots.push({ recipient, positions: [position], last: null });
      else same.positions.push(position);
    });
    return [...works.values()];
  }

  private stepsOf(place: Place): Step[] {
    if (this.sending.onlyDirect === true) return ['direct'];
    if (this.sending.onlyNode !== undefined) return ['node'];
    return isNodeForMail(place) ? ['node', ...this.sending.whenHomeDown] : [...this.sending.whenHomeDown];
  }

  /** Takes each work's next step; ends when all of them have settled, or come to the queue. */
  private async advance(works: readonly Work[]): Promise<void> {
    const toNodes: Work[] = [];
    const direct: Work[] = [];
    for (const work of works) {
      const step = work.steps[0];
      if (step === undefined) this.end(work);
      else if (step === 'queue') this.toQueue.push(work);
      else if (step === 'direct') direct.push(work);
      else toNodes.push(work);
    }
    const flows: Promise<void>[] = [];
    if (toNodes.length > 0) flows.push(this.toNodes(toNodes));
    if (direct.length > 0) flows.push(this.carry('direct', direct, this.carryUntilMs));
    await Promise.all(flows);
  }

  private async carry(name: 'direct' | 'queue', works: readonly Work[], deadlineAtMs: number): Promise<void> {
    const courier = this.options.couriers.find(each => each.name === name);
    if (courier === undefined) return this.stepDown(works);
    const slots = works.flatMap(work => work.slots);
    const recipients = slots.map(slot => slot.recipient);
    const hindered = name === 'direct' ? await this.sending.beforeCarry?.('direct', null, recipients) : null;
    if (hindered) {
      for (const work of works) this.blame(work, this.ours(hindered, 'queue'));
      return this.stepDown(works);
    }
    const outcomes = await courier.carry({ letter: this.letter, recipients, node: null, deadlineAtMs });
    for (const [i, slot] of slots.entries()) slot.last = outcomes[i] ?? this.ours({ kind: 'internal' }, name);
    return this.stepDown(works);
  }

  /** What is settled leaves; the rest takes the next step. */
  private stepDown(works: readonly Work[]): Promise<void> {
    const rest: Work[] = [];
    for (const work of works) {
      work.steps.shift();
      work.slots = work.slots.filter(slot => {
        if (slot.last === null || mayGoOn(slot.last)) return true;
        this.settle(slot, slot.last);
        return false;
      });
      if (work.slots.length > 0) rest.push(work);
    }
    return this.advance(rest);
  }

  private end(work: Work): void {
    for (const slot of work.slots) this.settle(slot, slot.last ?? this.ours({ kind: 'no-node' }, 'node'));
  }

  private async toNodes(works: readonly Work[]): Promise<void> {
    const company: Admitted[] = [];
    const flows: Promise<void>[] = [];
    await new Promise<void>(resolve => {
      let open = true;
      let waiting = works.length;
      const close = () => {
        open = false;
        cancel();
        resolve();
      };
      const cancel = this.options.clock.after(companyMs, close);
      const arrive = (work: Work, admitted: Admitted | null): Promise<void> | undefined => {
        waiting -= 1;
        let flow: Promise<void> | undefined;
        if (admitted === null) flow = this.advance([work]);
        else if (open) company.push(admitted);
        else flow = this.carryToNode(admitted.entry.node, [admitted]);
        if (waiting === 0 && open) close();
        return flow;
      };
      for (const work of works) flows.push(this.admit(work).then(admitted => arrive(work, admitted)));
    });
    for (const group of byNode(company)) flows.push(this.carryToNode(group.node, group.admitted));
    if (company.length === works.length) return settleAll(flows);
    const { clock } = this.options;
    const cancel = clock.after(Math.max(0, this.carryUntilMs - clock.now()), () => this.late.abort());
    await settleAll(flows);
    cancel();
  }

  /** Null: not admitted, or not to the node that this step means; the work's steps have moved on. */
  private async admit(work: Work): Promise<Admitted | null> {
    const { admitting } = this.options;
    const box: { admitted: Admitted | null; early: CloseReason | null } = { admitted: null, early: null };
    const admission = await admitting.admit({
      user: work.user,
      activity: 'delivery',
      protocol: 'lmtp',
      client: this.sending.client ?? '',
      signal: this.late.signal,
      onClose: reason => {
        box.early = reason;
        if (box.admitted === null) return;
        box.admitted.closing = reason;
        box.admitted.onClosing?.();
      },
      onCut: () => box.admitted?.onCut?.(),
    });
    if (!admission.ok) {
      const { reason } = admission;
      // Only our own deadline aborts: it was held too long.
      const kind = reason === 'none' ? 'no-node' : reason === 'aborted' ? 'held' : reason;
      this.blame(work, this.ours({ kind, text: admission.why }, 'node'));
      // A proxy that drains starts nothing new, by any way: the peer keeps the message.
      if (kind === 'shutdown') work.steps = [];
      else work.steps.shift();
      return null;
    }
    const { entry } = admission;
    const wrong = this.wrongNode(work, entry);
    if (wrong !== null) {
      entry.release({ nodeEnded: true });
      this.blame(work, this.ours(wrong, 'node', wrong.node ?? null));
      work.steps.shift();
      return null;
    }
    box.admitted = { work, entry, closing: box.early, onClosing: null, onCut: null };
    return box.admitted;
  }

  private wrongNode(work: Work, entry: Entry): Failure | null {
    const node = entry.node.name;
    const { onlyNode } = this.sending;
    if (onlyNode !== undefined) {
      return node === onlyNode ? null : { kind: 'in-doubt', node: onlyNode, text: 'waiting for this node' };
    }
    if (work.steps[0] === 'node' && !isNodeForMail(entry.place)) {
      return { kind: 'node-unreachable', text: entry.place.why };
    }
    return work.triedNode === node ? { kind: 'node-unreachable', node } : null;
  }

  private async carryToNode(node: ClusterNode, group: readonly Admitted[]): Promise<void> {
    const ready = group.filter(each => each.closing === null && each.entry.isLive());
    const gone = group.filter(each => !ready.includes(each));
    for (const each of gone) each.entry.release({ nodeEnded: true });
    const flows = [this.planAnew(gone.map(each => each.work))];
    if (ready.length > 0) flows.push(this.carryReady(node, ready));
    await Promise.all(flows);
  }

  private async carryReady(node: ClusterNode, ready: readonly Admitted[]): Promise<void> {
    const courier = this.options.couriers.find(each => each.name === 'node');
    const slots = ready.flatMap(each => each.work.slots);
    const recipients = slots.map(slot => slot.recipient);
    const { leash, letGo } = this.leashOf(ready);
    let outcomes: readonly Outcome[] = [];
    try {
      const { letter, carryUntilMs: deadlineAtMs } = this;
      const hindered = await this.sending.beforeCarry?.('node', node.name, recipients);
      if (hindered) outcomes = recipients.map(() => this.ours(hindered, 'queue', node.name));
      else if (courier !== undefined)
        outcomes = await courier.carry({ letter, recipients, node, deadlineAtMs, leash });
    } finally {
      letGo();
      // With its reply the node is done with the message; without one it may still be at it.
      const nodeEnded = outcomes.length > 0 && outcomes.every(outcome => outcome.kind !== 'in-doubt');
      for (const each of ready) each.entry.release({ nodeEnded });
    }
    for (const [i, slot] of slots.entries())
      slot.last = outcomes[i] ?? this.ours({ kind: 'internal' }, 'node');
    const anew: Work[] = [];
    const rest: Work[] = [];
    for (const { work, entry } of ready) {
      if (!isNodeForMail(entry.place)) for (const slot of work.slots) slot.last = doubtRefusal(slot.last);
      work.triedNode = node.name;
      const withdrawn = work.slots.filter(slot => slot.last?.failure?.kind === 'aborted');
      if (leash.pull === 'none' || withdrawn.length === 0) {
        rest.push(work);
        continue;
      }
      // Addresses that we refused ourselves have their answer; the rest of this user plans anew.
      for (const slot of work.slots) if (!withdrawn.includes(slot) && slot.last) this.settle(slot, slot.last);
      work.slots = withdrawn;
      anew.push(work);
    }
    await Promise.all([this.planAnew(anew), this.stepDown(rest)]);
  }

  /** barrier.md §3: before DATA plan anew; past it a planned change waits for us, an urgent one no longer than `settle`. */
  private leashOf(ready: readonly Admitted[]): { leash: Leash; letGo: () => void } {
    const leash: Leash = { pull: 'none', onPull: null };
    let cancel: (() => void) | null = null;
    const breakOff = () => {
      leash.pull = 'now';
      leash.onPull?.();
    };
    for (const each of ready) {
      each.onCut = breakOff;
      each.onClosing = () => {
        if (leash.pull === 'none') {
          leash.pull = 'unless-sent';
          leash.onPull?.();
        }
        if (cancel !== null || (each.closing !== 'node-down' && each.closing !== 'lease-lost')) return;
        cancel = this.options.clock.after(this.options.settleMs, breakOff);
      };
    }
    const letGo = () => {
      for (const each of ready) {
        each.onClosing = null;
        each.onCut = null;
      }
      cancel?.();
    };
    return { leash, letGo };
  }

  /** The view changed under them: their steps begin again from where the new view places them, a few times at most. */
  private planAnew(works: readonly Work[]): Promise<void> {
    for (const work of works) {
      work.replans += 1;
      work.triedNode = null;
      if (work.replans <= replansMax) work.steps = this.stepsOf(this.options.admitting.peek(work.user));
      else {
        this.blame(work, this.ours({ kind: 'held', text: 'moved too often' }, 'node'));
        work.steps.shift();
      }
    }
    return this.advance(works);
  }

  private blame(work: Work, outcome: Outcome): void {
    for (const slot of work.slots) slot.last = outcome;
  }

  private ours(failure: Failure, courier: CourierName, node: NodeName | null = null): Outcome {
    return { kind: 'deferred', courier, node, reply: lmtpReply(failure), failure };
  }

  private settle({ recipient, positions }: Slot, outcome: Outcome): void {
    for (const position of positions) this.outcomes[position] = outcome;
    const { letter, options, startedAtMs } = this;
    logDelivery(options.log, {
      id: letter.id,
      from: letter.from,
      to: recipient.address,
      user: recipient.user,
      courier: outcome.courier,
      node: outcome.node,
      outcome: outcome.courier === 'queue' && outcome.kind === 'delivered' ? 'queued' : outcome.kind,
      reply: oneLine(outcome),
      ms: options.clock.now() - startedAtMs,
      bytes: letter.body.bytes,
    });
  }
}

async function settleAll(flows: readonly Promise<void>[]): Promise<void> {
  await Promise.all(flows);
}

/** True where nobody has it and nobody refused it for good: our own failures. A node's own 4xx is its answer, and stands. */
function mayGoOn(outcome: Outcome): boolean {
  if (outcome.kind !== 'deferred') return false;
  return outcome.courier !== 'node' || (outcome.failure !== undefined && outcome.failure.kind !== 'aborted');
}

/** Design §6: a 5xx about a user is believed only from a live home node, not from the one that stands in for it. */
function doubtRefusal(outcome: Outcome | null): Outcome | null {
  if (outcome === null || outcome.kind !== 'rejected' || outcome.node === null) return outcome;
  const failure: Failure = { kind: 'unverified-user', node: outcome.node, text: oneLine(outcome) };
  return { ...outcome, kind: 'deferred', reply: lmtpReply(failure), failure };
}

/** RFC 5321 §4.5.3.1.8 lets any receiver stop at 100 recipients. A user's addresses stay together. */
const groupLimit = 100;

interface Group {
  readonly node: ClusterNode;
  readonly admitted: Admitted[];
  recipients: number;
}

function byNode(company: readonly Admitted[]): readonly Group[] {
  const open = new Map<NodeName, Group>();
  const groups: Group[] = [];
  for (const each of company) {
    const { node } = each.entry;
    const count = each.work.slots.length;
    let group = open.get(node.name);
    if (group === undefined || group.recipients + count > groupLimit) {
      group = { node, admitted: [], recipients: 0 };
      open.set(node.name, group);
      groups.push(group);
    }
    group.admitted.push(each);
    group.recipients += count;
  }
  return groups;
}

function oneLine({ reply }: Outcome): string {
  const enhanced = reply.enhanced === null ? '' : `${reply.enhanced} `;
  return `${reply.code} ${enhanced}${reply.lines.join(' / ')}`;
}
