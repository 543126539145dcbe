/**
 * The way of a message put together: receivers in, couriers out, the queue behind. Nothing is decided here.
 *
 *     lmtp, smtp ─→ transaction ─→ dispatch ─→ node · direct · queue ─→ queue runner ─→ dispatch
 *                       └── keep (what an SMTP reply took on) ──────────────┘
 */
import { lmtpTimeouts } from '../backend/lmtp-client.ts';
import { lmtpPoolDefaults } from '../backend/lmtp-pool.ts';
import type { Admitting } from '../cluster/admission.ts';
import type { UserRules } from '../core/canonical.ts';
import { logText } from '../core/failure.ts';
import type { RetrySchedule } from '../core/retry.ts';
import type { QueueAnswer, QueueRow } from '../core/status.ts';
import type { NodeName } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import { openQueueFolder, type QueueFolder } from '../storage/queue-folder.ts';
import { createBodySpool } from './body.ts';
import type { Courier } from './courier.ts';
import { createDirect, type Direct } from './direct.ts';
import { createDispatch, type HomeDownStep } from './dispatch.ts';
import { createKeep } from './keep.ts';
import { createQueueRunner, type QueueRunner, queueRunnerDefaults } from './queue-runner.ts';
import { createReceiver, type Receiver, type ReceiverOptions } from './receiver.ts';
import { createNodeCourier, type NodeCourier } from './to-node.ts';
import { createQueueCourier } from './to-queue.ts';

export interface MailOptions {
  readonly admitting: Admitting;
  readonly userRules: () => UserRules;
  /** The node that this machine is itself, or null. */
  readonly self: NodeName | null;
  /** Our own name: LHLO, Received, Maildir names. */
  readonly name: string;
  readonly whenHomeDown: { readonly smtp: readonly HomeDownStep[]; readonly lmtp: readonly HomeDownStep[] };
  readonly multiHome: 'split' | 'pin-first';
  readonly limits: ReceiverOptions['limits'];
  readonly tls: NonNullable<ReceiverOptions['tls']>;
  readonly schedule: RetrySchedule;
  readonly settleMs: number;
  readonly queuePath: string;
  readonly bodiesPath: string;
  /** Null: no direct delivery. */
  readonly writerSocket: string | null;
  readonly onHung: () => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Mail {
  readonly lmtp: Receiver;
  readonly smtp: Receiver;
  nodeUp(name: NodeName): void;
  /** Down, moved or gone: its kept connections are closed. */
  nodeGone(name: NodeName): void;
  queueCounts(): { readonly messages: number; readonly oldestAgeMs: number };
  queueRows(limit: number): QueueAnswer;
  /** No new messages; what runs may finish for so long. */
  drain(limitMs: number): Promise<void>;
}

export type StartedMail =
  | { readonly ok: true; readonly mail: Mail }
  | { readonly ok: false; readonly why: string };

export async function createMail(options: MailOptions): Promise<StartedMail> {
  const { log, queuePath } = options;
  const opened = await openQueueFolder(queuePath);
  if (!opened.ok) return { ok: false, why: `queue ${queuePath}: ${logText(opened.failure)}` };
  const parts = assemble(options, opened.queue);
  const report = await parts.runner.start();
  if (report.failure !== null) return { ok: false, why: `queue ${queuePath}: ${logText(report.failure)}` };
  log.info({ entries: report.entries, leftovers: report.leftovers }, 'queue read');
  if (report.damagedCount > 0)
    log.error({ damaged: report.damaged, count: report.damagedCount }, 'queue: damaged files put aside');
  return { ok: true, mail: asMail(options, parts) };
}

interface Parts {
  readonly queue: QueueFolder;
  readonly node: NodeCourier;
  readonly direct: Direct | null;
  readonly runner: QueueRunner;
  readonly lmtp: Receiver;
  readonly smtp: Receiver;
}

function assemble(options: MailOptions, queue: QueueFolder): Parts {
  const { admitting, clock, log, name, userRules, writerSocket, schedule, settleMs } = options;
  const spool = createBodySpool({ folder: options.bodiesPath });
  const node = createNodeCourier({
    ...lmtpPoolDefaults,
    timeouts: lmtpTimeouts,
    ownName: name,
    self: options.self,
    admitting,
    clock,
  });
  const direct =
    writerSocket === null
      ? null
      : createDirect({ socketPath: writerSocket, clock, log, onHung: options.onHung });
  // The runner and the courier that feeds it know each other: the courier's word goes to whichever runner is here by then.
  let onAdded: QueueRunner['onAdded'] = () => {};
  const toQueue = createQueueCourier({
    queue,
    onAdded: (key, envelope) => onAdded(key, envelope),
    schedule,
    clock,
    log,
  });
  const couriers: readonly Courier[] = [node, ...(direct === null ? [] : [direct]), toQueue];
  const dispatch = createDispatch({ admitting, couriers, settleMs, clock, log });
  const keep = createKeep({ enqueue: toQueue.enqueue, spool, userRules, name, clock, log });
  const runner = createQueueRunner({
    ...queueRunnerDefaults,
    queue,
    dispatch,
    admitting,
    bounce: keep.take,
    whenHomeDown: options.whenHomeDown.smtp,
    schedule,
    clock,
    log,
  });
  onAdded = runner.onAdded.bind(runner);
  const receiver = (kind: 'lmtp' | 'smtp') =>
    createReceiver({
      kind,
      name,
      admitting,
      userRules,
      verifyAtNode: (to, from, rcpt, verifying) => node.verifyRecipient(to, from, rcpt, verifying),
      verifyInSpool: user => direct?.verify(user) ?? Promise.resolve('unknown'),
      dispatch,
      keep: kind === 'smtp' ? keep : null,
      spool,
      whenHomeDown: options.whenHomeDown[kind],
      multiHome: options.multiHome,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
      tls: options.tls,
      clock,
      log,
    });
  return { queue, node, direct, runner, lmtp: receiver('lmtp'), smtp: receiver('smtp') };
}

function asMail({ clock }: MailOptions, { queue, node, direct, runner, lmtp, smtp }: Parts): Mail {
  const drain = async (limitMs: number): Promise<void> => {
    const deadlineAtMs = clock.now() + limitMs;
    await Promise.all([lmtp.drain(limitMs), smtp.drain(limitMs), runner.stop(limitMs)]);
    await runner.stop(Math.max(0, deadlineAtMs - clock.now()));
    node.close();
    direct?.close();
    await queue.close();
  };
  return {
    lmtp,
    smtp,
    nodeUp: name => runner.nodeUp(name),
    nodeGone: name => node.nodeGone(name),
    queueCounts: () => {
      let oldestAtMs = clock.wall();
      for (const row of runner.rows()) oldestAtMs = Math.min(oldestAtMs, row.acceptedAtMs);
      return { messages: runner.counts().entries, oldestAgeMs: clock.wall() - oldestAtMs };
    },
    queueRows: limit => ({
      messages: runner.counts().entries,
      entries: [...oldest(runner, limit, clock.wall())],
    }),
    drain,
  };
}

function oldest(runner: QueueRunner, limit: number, wallMs: number): readonly QueueRow[] {
  const rows = [...runner.rows()].sort((a, b) => a.acceptedAtMs - b.acceptedAtMs).slice(0, limit);
  return rows.map(row => ({
    id: row.key,
    from: row.from,
    to: [row.user],
    bytes: 0,
    ageMs: wallMs - row.acceptedAtMs,
    attempts: row.attempts,
    nextInMs: Math.max(0, row.nextAtMs - wallMs),
    why: row.last,
  }));
}
