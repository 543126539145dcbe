/**
 * The parent's crew: one serving process, and a writer where there is a spool. Each is started, told what it is, watched, and started
 * anew when it dies; a serving process that lets its lease lapse is killed, a writer that hangs is replaced and counted.
 *
 *     absent ─spawn→ starting ─ready→ working ─exit→ absent (after a growing pause)
 *                       └─ready with a reason, at the first start→ the whole start fails
 *
 * Must never have two serving processes at once: the next is spawned when the last one's end was seen.
 */
import type { ChildProcess } from 'node:child_process';
import { writerThreads } from '../delivery/writer.ts';
import {
  type ChildMark,
  recordChildren,
  restartDelayMs,
  signal,
  spawnChild,
  startTicksOf,
} from '../net/children.ts';
import type { Clock } from '../net/clock.ts';
import { type Answer, type Ipc, openIpc } from '../net/ipc.ts';
import type { Log } from '../observe/log.ts';

export type Role = 'serving' | 'writer';

export interface CrewOptions {
  /** The program that plays every role: `main.ts`. */
  readonly program: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Where pids are written down for the next parent. */
  readonly recordPath: string;
  readonly hasWriter: boolean;
  /** What the serving process finds from descriptor 4 on. */
  readonly handles: readonly object[];
  /** Asked at each start of a child; `pid` is its own. */
  readonly hello: (role: Role, pid: number) => unknown;
  /** What the serving process may call besides `hello` and `ready`. */
  readonly answers: Readonly<Record<string, Answer>>;
  /** The serving process with this pid has ended: the kernel says so. */
  readonly onServingGone: (pid: number) => void;
}

export interface Crew {
  /** Starts all; resolves when all are ready, or with the first reason why one can't be. */
  start(): Promise<string | null>;
  /** The serving process, where it is ready. */
  serving(): { readonly ipc: Ipc; readonly pid: number } | null;
  /** Tells all that are there. */
  note(name: string, args: readonly unknown[]): void;
  /** SIGKILL for a serving process that is stuck; its end and a new start follow. */
  killServing(pid: number, why: string): void;
  /** Drains the serving process within `limitMs`, then ends all; 0 ends all at once, also for a stop under way. */
  stop(limitMs: number): Promise<void>;
}

interface Mate {
  readonly role: Role;
  child: ChildProcess | null;
  mark: ChildMark | null;
  ipc: Ipc | null;
  isReady: boolean;
  failures: number;
  startedAtMs: number;
  cancelRestart: () => void;
}

const readyMs = 60_000;
/** A child that lived so long has started well: its next death begins the pauses anew. */
const provenMs = 10_000;
/** Writers that SIGKILL does not end: each may hold a hung file system's threads. More are not added to them. */
const stuckMax = 4;
const stuckAfterMs = 2000;

export function createCrew(options: CrewOptions): Crew {
  return new ProcessCrew(options);
}

class ProcessCrew implements Crew {
  readonly #options: CrewOptions;
  readonly #mates: readonly Mate[];
  readonly #stuck = new Set<ChildProcess>();
  #isStopping = false;
  readonly #firstReady = new Map<Role, (why: string | null) => void>();

  constructor(options: CrewOptions) {
    this.#options = options;
    // The writer first: the serving process may have mail for it in its queue.
    const roles: readonly Role[] = options.hasWriter ? ['writer', 'serving'] : ['serving'];
    this.#mates = roles.map(role => ({
      role,
      child: null,
      mark: null,
      ipc: null,
      isReady: false,
      failures: 0,
      startedAtMs: 0,
      cancelRestart: () => {},
    }));
  }

  async start(): Promise<string | null> {
    for (const mate of this.#mates) {
      const why = await new Promise<string | null>(resolve => {
        const cancel = this.#options.clock.after(readyMs, () =>
          resolve(`the ${mate.role} process does not get ready`),
        );
        this.#firstReady.set(mate.role, answer => {
          cancel();
          resolve(answer);
        });
        this.#spawn(mate);
      });
      this.#firstReady.delete(mate.role);
      if (why !== null) return why;
    }
    return null;
  }

  serving(): { readonly ipc: Ipc; readonly pid: number } | null {
    const mate = this.#mates.find(each => each.role === 'serving');
    if (!mate?.ipc || !mate.mark || !mate.isReady) return null;
    return { ipc: mate.ipc, pid: mate.mark.pid };
  }

  note(name: string, args: readonly unknown[]): void {
    for (const mate of this.#mates) mate.ipc?.note(name, args);
  }

  killServing(pid: number, why: string): void {
    const mate = this.#mates.find(each => each.role === 'serving' && each.mark?.pid === pid);
    if (!mate?.mark) return;
    this.#options.log.error({ childPid: pid, why }, 'the serving process is killed');
    signal(mate.mark, 'SIGKILL');
  }

  async stop(limitMs: number): Promise<void> {
    this.#isStopping = true;
    for (const mate of this.#mates) mate.cancelRestart();
    const serving = this.#mates.find(mate => mate.role === 'serving');
    if (limitMs > 0 && serving?.ipc && serving.isReady)
      await serving.ipc.call('drain', [limitMs], limitMs + 5000);
    await Promise.all(this.#mates.map(mate => this.#end(mate)));
    this.#record();
  }

  #spawn(mate: Mate): void {
    const { program, handles, clock, log } = this.#options;
    const { role } = mate;
    const isWriter = role === 'writer';
    const child = spawnChild({
      program,
      args: [`--process=${role}`],
      handles: isWriter ? [] : handles,
      env: isWriter ? { UV_THREADPOOL_SIZE: String(writerThreads) } : {},
    });
    mate.child = child;
    mate.isReady = false;
    mate.startedAtMs = clock.now();
    child.once('error', error =>
      log.error({ child: role, why: error.message }, 'a process cannot be started'),
    );
    child.once('exit', (code, end) => this.#ended(mate, child, end ?? `exit ${code}`));
    if (child.pid === undefined) {
      this.#ended(mate, child, 'not started');
      return;
    }
    const { pid } = child;
    mate.mark = { pid, startTicks: startTicksOf(pid) ?? '' };
    this.#record();
    mate.ipc = openIpc({
      channel: child,
      timeoutMs: 5000,
      maxPending: 1000,
      onLost: () => {},
      answers: {
        ...(isWriter ? {} : this.#options.answers),
        hello: () => this.#options.hello(role, pid),
        ready: ([result]) => this.#ready(mate, child, result as { ok: true } | { ok: false; why: string }),
        'writer-hung': () => this.#replaceWriter(),
      },
    });
  }

  #ready(mate: Mate, child: ChildProcess, result: { ok: true } | { ok: false; why: string }): void {
    const { log, clock } = this.#options;
    const { role } = mate;
    if (mate.child !== child) return;
    if (result.ok) {
      mate.isReady = true;
      log.info({ child: role, childPid: child.pid, ms: Math.round(clock.now() - mate.startedAtMs) }, 'ready');
    } else log.error({ child: role, why: result.why }, 'a process cannot work');
    this.#firstReady.get(role)?.(result.ok ? null : result.why);
    if (!result.ok) child.kill('SIGKILL');
  }

  #ended(mate: Mate, child: ChildProcess, how: string): void {
    const { log, clock, onServingGone } = this.#options;
    this.#stuck.delete(child);
    if (mate.child !== child) return;
    const { role, mark } = mate;
    mate.child = null;
    mate.mark = null;
    mate.ipc = null;
    mate.isReady = false;
    this.#record();
    if (role === 'serving' && mark) onServingGone(mark.pid);
    this.#firstReady.get(role)?.(`the ${role} process ended: ${how}`);
    if (this.#isStopping) return;
    mate.failures = clock.now() - mate.startedAtMs > provenMs ? 0 : mate.failures + 1;
    const pauseMs = restartDelayMs(mate.failures);
    log.error({ child: role, childPid: child.pid, how, pauseMs }, 'a process ended: it is started anew');
    mate.cancelRestart = clock.after(pauseMs, () => {
      if (!this.#isStopping) this.#spawn(mate);
    });
  }

  /** A write that does not return can't be cancelled: its process is killed, and another takes its socket's place at once. */
  #replaceWriter(): void {
    const { log, clock } = this.#options;
    const mate = this.#mates.find(each => each.role === 'writer');
    const old = mate?.child;
    if (!mate || !old || !mate.mark) return;
    if (this.#stuck.size >= stuckMax) {
      log.error(
        { stuck: this.#stuck.size },
        'writers hang, and none is added: the file system must come back first',
      );
      return;
    }
    signal(mate.mark, 'SIGKILL');
    clock.after(stuckAfterMs, () => {
      if (mate.child !== old || this.#isStopping) return;
      this.#stuck.add(old);
      log.error(
        { process: old.pid, stuck: this.#stuck.size },
        'a writer that hangs in the kernel is left behind',
      );
      this.#spawn(mate);
    });
  }

  async #end(mate: Mate): Promise<void> {
    const { child, mark } = mate;
    if (!child || !mark) return;
    const ended = new Promise<void>(resolve => child.once('exit', () => resolve()));
    signal(mark, 'SIGKILL');
    let cancel = () => {};
    const late = new Promise<void>(resolve => {
      cancel = this.#options.clock.after(2000, resolve);
    });
    await Promise.race([ended, late]);
    // A timer left behind keeps this process alive when all is over.
    cancel();
  }

  #record(): void {
    const marks = this.#mates.flatMap(mate => (mate.mark === null ? [] : [mate.mark]));
    recordChildren(this.#options.recordPath, marks);
  }
}
