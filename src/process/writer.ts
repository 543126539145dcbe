/**
 * The writer process: the only one with rights on the spool. It asks its parent what the spool is, opens its socket, drops to the
 * spool's account, and then serves `delivery/writer.ts` until its parent goes away or replaces it.
 */
import { type SpoolOptions, startWriter } from '../delivery/writer.ts';
import { realClock } from '../net/clock.ts';
import { openIpc } from '../net/ipc.ts';
import { type Account, dropPrivileges, isRoot } from '../net/privileges.ts';
import { type LogOptions, openLog } from '../observe/log.ts';

export interface WriterInit {
  readonly log: LogOptions;
  readonly socketPath: string;
  readonly spool: SpoolOptions;
  /** Null: stay who we are. */
  readonly runAs: Account | null;
  /** Who may connect. */
  readonly socketOwner: Account | null;
}

export async function runWriter(): Promise<void> {
  let reopenLog = () => {};
  const parent = openIpc({
    channel: process,
    timeoutMs: 5000,
    maxPending: 16,
    onLost: () => process.exit(0),
    answers: { 'reopen-log': () => reopenLog() },
  });
  // The parent decides when a writer ends: a terminal's Ctrl-C must not cut it off under a serving process that drains.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  const hello = await parent.call('hello', []);
  if (!hello.ok) process.exit(1);
  const { log: logOptions, runAs, ...rest } = hello.value as WriterInit;
  const { log, reopen } = openLog(logOptions);
  reopenLog = reopen;
  const isDropping = runAs !== null && isRoot();
  const processUid = isDropping ? runAs.uid : (process.geteuid?.() ?? -1);
  const started = await startWriter({ ...rest, processUid, clock: realClock, log });
  if (started.ok && isDropping) dropPrivileges(runAs);
  await parent.call('ready', [started.ok ? { ok: true } : started]);
}
