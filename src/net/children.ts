/**
 * The parent's children: spawned with a process channel, written down by pid and start time, started anew when they die.
 * A new parent first ends what an earlier one left behind (barrier.md §10), so nobody acts on a forgotten view.
 * A pid is only ever signalled together with its start time: pids are reused.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { Clock } from './clock.ts';

export interface ChildMark {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks after boot, as text. */
  readonly startTicks: string;
}

/** The start time of a live process; null where there is none, or only its zombie. */
export function startTicksOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name in parentheses may hold anything: fields are counted from the last ')'.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? null : (fields[19] ?? null);
  } catch {
    return null;
  }
}

export function isAlive(mark: ChildMark): boolean {
  return startTicksOf(mark.pid) === mark.startTicks;
}

/** The children an earlier parent wrote down. A missing or broken file names nobody. */
export function recordedChildren(path: string): readonly ChildMark[] {
  try {
    const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (!Array.isArray(parsed)) return [];
    return parsed.filter(
      (one): one is ChildMark => typeof one?.pid === 'number' && typeof one?.startTicks === 'string',
    );
  } catch {
    return [];
  }
}

export function recordChildren(path: string, marks: readonly ChildMark[]): void {
  writeFileSync(`${path}.new`, JSON.stringify(marks), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** SIGKILLs the recorded children that still live. Answers those that were alive, and whether all are gone by `timeoutMs`. */
export async function endRecorded(
  path: string,
  clock: Clock,
  timeoutMs: number,
): Promise<{ readonly found: readonly ChildMark[]; readonly allGone: boolean }> {
  const found = recordedChildren(path).filter(isAlive);
  for (const mark of found) signal(mark, 'SIGKILL');
  const deadlineAtMs = clock.now() + timeoutMs;
  while (found.some(isAlive) && clock.now() < deadlineAtMs) {
    await new Promise<void>(resolve => clock.after(20, resolve));
  }
  return { found, allGone: !found.some(isAlive) };
}

export function signal(mark: ChildMark, name: NodeJS.Signals): void {
  if (!isAlive(mark)) return;
  try {
    process.kill(mark.pid, name);
  } catch {
    // It ended between the look and the signal: what we wanted.
  }
}

export interface SpawnOptions {
  /** Path of the program, run on this same Node with this same Node's flags. */
  readonly program: string;
  readonly args: readonly string[];
  /** Handles the child finds from descriptor 4 on. */
  readonly handles: readonly object[];
  readonly env: Readonly<Record<string, string>>;
}

/** Descriptor of the first of `SpawnOptions.handles` in the child: 0-2 are standard, 3 is the process channel. */
export const firstHandleFd = 4;

/** Starts a child with a process channel (structured clone) and the given handles. */
export function spawnChild({ program, args, handles, env }: SpawnOptions): ChildProcess {
  return fork(program, [...args], {
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...handles] as never,
    env: { ...process.env, ...env },
  });
}

/** How long to wait before the n-th start in a row, ms: 0, then 200 ms doubling to 5 s, so a crashing child can't eat the machine. */
export function restartDelayMs(failures: number): number {
  return failures === 0 ? 0 : Math.min(5000, 200 * 2 ** (failures - 1));
}
