/**
 * Tries what waits in the queue again: in time by the schedule, at once when its node is back, one user after the other, bounded in
 * number and rate. Gives up at the end of the schedule's life, and tells the sender.
 * DANGER: where a recipient may be about to get the message is on disk before it is handed over, and what became of it before the next
 * attempt; an entry leaves only when all are settled. So kill -9 at any instant loses nothing, and doubles at most what was in doubt.
 *
 *   waiting ─due, nodeUp→ due ─take→ trying ─┬ all settled → removed
 *      ↑                                     ├ some refused → noted → sender told → removed, or
 *      └──────── next time noted ────────────┴ some deferred or in doubt
 */
import { lmtpReply } from '../core/failure.ts';
import { defaultSchedule } from '../core/retry.ts';
import type { NodeName } from '../core/types.ts';
import { logDelivery } from '../observe/maillog.ts';
import type { QueueEnvelope } from '../storage/queue-envelope.ts';
import type { LoadReport } from '../storage/queue-folder.ts';
import { type AttemptTools, tryEntry } from './queue-attempt.ts';
import { QueueLine, type Row } from './queue-line.ts';

export interface QueueRunnerOptions extends AttemptTools {
  readonly maxTrying: number;
  /** Attempts begun a second, so that a node's return is not met by all its mail at once. */
  readonly startsPerSecond: number;
}

export const queueRunnerDefaults = {
  maxTrying: 20,
  startsPerSecond: 100,
  attemptMs: 11 * 60_000,
  memoryBytes: 256 * 1024,
  schedule: defaultSchedule,
} as const;

export interface QueueRunner {
  /** Reads the folder, and begins. Call once. */
  start(): Promise<LoadReport>;
  /** From the courier `queue`, once it is durable. */
  onAdded(key: string, envelope: QueueEnvelope): void;
  /** A node came back: what waits for it is due. */
  nodeUp(node: NodeName): void;
  /** Everything is due now. */
  flush(): void;
  rows(): Iterable<Row>;
  /** Entries waiting, due and under way. */
  counts(): { readonly entries: number; readonly due: number; readonly trying: number };
  /** Begins nothing more, and waits for what runs, at most so long. */
  stop(limitMs: number): Promise<void>;
}

export function createQueueRunner(options: QueueRunnerOptions): QueueRunner {
  return new Runner(options);
}

/** Timers longer than this overflow; and a stepped wall clock is noticed within it. */
const longestSleepMs = 30_000;
const againMs = 1_000;

class Runner implements QueueRunner {
  readonly #options: QueueRunnerOptions;
  readonly #line = new QueueLine();
  readonly #trying = new Map<string, Promise<void>>();
  /** What could not be written: the truth of these is here until it can. */
  readonly #unsaved = new Map<string, QueueEnvelope>();
  /** Came due while they were under way: perhaps their node came back just then. */
  readonly #again = new Set<string>();
  #cancelTimer: (() => void) | null = null;
  #nextStartAtMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(options: QueueRunnerOptions) {
    this.#options = options;
  }

  async start(): Promise<LoadReport> {
    const { queue, log } = this.#options;
    const report = await queue.load((key, envelope) => {
      this.#nameDoubts(envelope);
      this.onAdded(key, envelope);
    });
    for (const { name, why } of report.damaged) log.error({ name, why }, 'a file of the queue was put aside');
    if (report.failure !== null) log.error({ why: report.failure.text }, 'the queue folder cannot be read');
    log.info(
      { entries: report.entries, damaged: report.damagedCount, leftovers: report.leftovers },
      'queue read',
    );
    return report;
  }

  /** Promise 3: whoever may have it already, because an attempt was cut off with its process, is named before it is tried again. */
  #nameDoubts({ id, from, recipients, bodyBytes }: QueueEnvelope): void {
    for (const { address, user, doubt } of recipients) {
      // Direct delivery looks for its fixed name first: trying it again doubles nothing.
      if (doubt?.courier !== 'node') continue;
      const { node } = doubt;
      const reply = lmtpReply({ kind: 'in-doubt', node, text: 'before this start' });
      logDelivery(this.#options.log, {
        ...{
          id,
          from,
          to: address,
          user,
          courier: 'node',
          node,
          outcome: 'in-doubt',
          ms: 0,
          bytes: bodyBytes,
        },
        reply: `${reply.code} ${reply.enhanced} ${reply.lines.join(' / ')}`,
      });
    }
  }

  onAdded(key: string, envelope: QueueEnvelope): void {
    this.#line.put(rowOf(key, envelope));
    this.#run();
  }

  nodeUp(node: NodeName): void {
    this.#line.hasten(node);
    this.#run();
  }

  flush(): void {
    this.#line.hasten(null);
    this.#run();
  }

  rows(): Iterable<Row> {
    return this.#line.rows();
  }

  counts() {
    return { entries: this.#line.size, due: this.#line.dueCount, trying: this.#trying.size };
  }

  async stop(limitMs: number): Promise<void> {
    this.#stopped = true;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    let cancel = (): void => undefined;
    const late = new Promise<void>(resolve => {
      cancel = this.#options.clock.after(limitMs, resolve);
    });
    await Promise.race([Promise.all(this.#trying.values()), late]);
    cancel();
  }

  /** Starts what may start now, and sleeps until more may. */
  #run(): void {
    const { clock, maxTrying, startsPerSecond } = this.#options;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    if (this.#stopped) return;
    const isBehind = this.#line.comeDue(clock.wall());
    while (this.#trying.size < maxTrying && clock.now() >= this.#nextStartAtMs) {
      const row = this.#line.take();
      if (row === null) break;
      // It is due again, but still under way: its end puts it back.
      if (this.#trying.has(row.key)) {
        this.#again.add(row.key);
        continue;
      }
      const spacingMs = 1000 / startsPerSecond;
      this.#nextStartAtMs = Math.max(this.#nextStartAtMs, clock.now() - 10 * spacingMs) + spacingMs;
      this.#trying.set(row.key, this.#try(row));
    }
    this.#sleep(isBehind);
  }

  #sleep(isBehind: boolean): void {
    const { clock, maxTrying } = this.#options;
    let sleepMs = longestSleepMs;
    if (isBehind) sleepMs = 0;
    else if (this.#line.dueCount > 0) {
      // With all places taken, the end of an attempt wakes us.
      if (this.#trying.size < maxTrying) sleepMs = this.#nextStartAtMs - clock.now();
    } else {
      const next = this.#line.nextAtMs();
      if (next === null) return;
      sleepMs = Math.min(sleepMs, next - clock.wall());
    }
    this.#cancelTimer = clock.after(Math.max(1, sleepMs), () => this.#run());
  }

  async #try(row: Row): Promise<void> {
    const { key } = row;
    const result = await tryEntry(this.#options, key, this.#unsaved.get(key) ?? null);
    this.#trying.delete(key);
    const again = this.#again.delete(key);
    if (result.kind === 'gone') {
      this.#unsaved.delete(key);
      this.#line.drop(key);
    } else {
      if (result.saved) this.#unsaved.delete(key);
      else if (result.envelope !== null) this.#unsaved.set(key, result.envelope);
      const nextAtMs = again
        ? Math.min(result.nextAtMs, this.#options.clock.wall() + againMs)
        : result.nextAtMs;
      this.#line.put(
        result.envelope === null ? { ...row, nextAtMs } : { ...rowOf(key, result.envelope), nextAtMs },
      );
    }
    this.#run();
  }
}

function rowOf(key: string, envelope: QueueEnvelope): Row {
  const { recipients, from, attempts, acceptedAtMs, nextAtMs } = envelope;
  const nodes = new Set<NodeName>();
  for (const { doubt, last } of recipients) {
    if (doubt?.courier === 'node') nodes.add(doubt.node);
    else if (last?.node) nodes.add(last.node);
  }
  const reply = recipients[0]?.last?.reply;
  const last = reply === undefined ? '' : `${reply.code} ${reply.lines[0] ?? ''}`.slice(0, 100);
  const user = recipients[0]?.user ?? '';
  return {
    key,
    user,
    from,
    nodes: [...nodes],
    recipients: recipients.length,
    attempts,
    acceptedAtMs,
    nextAtMs,
    last,
  };
}
