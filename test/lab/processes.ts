/**
 * Processes of one session (setsid), found by walking /proc, so that a node can be ended, killed or frozen as a whole.
 * Signals go to process ids of that session only, never to a name.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { waitFor } from './wait.ts';

interface ProcessRow {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  /** R, S, D, T (stopped), Z (zombie) … */
  readonly state: string;
}

/** /proc/PID/stat: the command's name may hold spaces and brackets, so fields count from the last `)`. */
function readProcess(pid: number): ProcessRow | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return null;
  }
  const [state = '', parent = '', , session = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { pid, state, parent: Number(parent), session: Number(session) };
}

export function allProcesses(): ProcessRow[] {
  const rows: ProcessRow[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(name)) continue;
    const row = readProcess(Number(name));
    if (row !== null) rows.push(row);
  }
  return rows;
}

/** Living processes of a session, and what descends from them; zombies are dead already. */
export function sessionProcesses(session: number): ProcessRow[] {
  const rows = allProcesses();
  const found = new Set<number>([session]);
  for (const row of rows) if (row.session === session) found.add(row.pid);
  // Parents have mostly lower ids, but not always: repeat until nothing joins.
  for (let grew = true; grew; ) {
    grew = false;
    for (const row of rows) {
      if (!found.has(row.pid) && found.has(row.parent)) {
        found.add(row.pid);
        grew = true;
      }
    }
  }
  return rows.filter(row => found.has(row.pid) && row.state !== 'Z');
}

/** True if the signal was sent; false if the process is gone. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
}

/** Stops the leader first, so that it forks no more, then all others, until none runs. */
export function freezeSession(session: number): void {
  signal(session, 'SIGSTOP');
  for (let round = 0; round < 20; round++) {
    const running = sessionProcesses(session).filter(row => row.state !== 'T');
    if (running.length === 0) return;
    for (const row of running) signal(row.pid, 'SIGSTOP');
  }
}

export function thawSession(session: number): void {
  for (const row of sessionProcesses(session)) if (row.pid !== session) signal(row.pid, 'SIGCONT');
  signal(session, 'SIGCONT');
}

/** kill -9 of all, leader frozen first so that it can start nobody in between. Synchronous: fit for an exit hook. */
export function killSession(session: number): void {
  signal(session, 'SIGSTOP');
  const rows = sessionProcesses(session);
  for (const row of rows) if (row.pid !== session) signal(row.pid, 'SIGKILL');
  // Whoever was forked between the walk and the kill.
  for (const row of sessionProcesses(session)) if (row.pid !== session) signal(row.pid, 'SIGKILL');
  signal(session, 'SIGKILL');
}

export async function sessionGone(session: number, limitMs = 5000): Promise<void> {
  await waitFor(
    () => {
      const left = sessionProcesses(session);
      return left.length === 0;
    },
    {
      what: `all processes of session ${session} to be gone`,
      limitMs,
      everyMs: 10,
      tell: () =>
        `left: ${sessionProcesses(session)
          .map(row => `${row.pid}(${row.state})`)
          .join(' ')}`,
    },
  );
}

const toKillAtExit = new Set<number>();
let hooked = false;

/** If this process ends without having ended that session, it is killed: a failed test leaves nothing running. */
export function killAtExit(session: number): () => void {
  toKillAtExit.add(session);
  if (!hooked) {
    hooked = true;
    process.on('exit', () => {
      for (const one of toKillAtExit) killSession(one);
    });
  }
  return () => {
    toKillAtExit.delete(session);
  };
}
