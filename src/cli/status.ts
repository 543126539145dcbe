/**
 * `homing status`: the cluster at a glance, from GET /v1/status.
 */

import type { EvidenceRow, StatusAnswer } from '../core/status.ts';
import { realClock } from '../net/clock.ts';
import type { Asked } from './asked.ts';
import type { Io } from './io.ts';
import { type Shown, show } from './show.ts';
import { ageText, type Column, printable, table } from './table.ts';

export const runStatus = (asked: Asked, io: Io): Promise<number> =>
  show<StatusAnswer>(
    { method: 'GET', path: '/v1/status', timeoutMs: 10_000 },
    (a, c) => renderStatus(a, c, realClock.wall()),
    asked,
    io,
  );

const head: readonly Column[] = [
  { title: 'NODE' },
  { title: 'ADDRESS' },
  { title: 'POOL' },
  { title: 'WEIGHT', align: 'right' },
  { title: 'ADMIN' },
  { title: 'HEALTH' },
  { title: 'SESSIONS', align: 'right' },
  { title: 'DELIVERIES', align: 'right' },
  { title: 'USERS', align: 'right' },
  { title: 'EVIDENCE' },
];

export function renderStatus(status: StatusAnswer, columns: number | null, nowMs: number): Shown {
  const rows = status.nodes.map(n => [
    n.name,
    n.address,
    n.pool,
    String(n.weight),
    n.admin,
    n.health,
    String(n.sessions),
    String(n.deliveries),
    String(n.users),
    n.evidence.map(evidenceText).join(', '),
  ]);
  const members = status.members.map(m => `${m.pid} ${m.phase}`).join(', ');
  const { queue, holds } = status;
  const up = ageText(nowMs - status.startedAtMs);
  const title = `cluster ${status.cluster} · view ${status.epoch} of run ${status.run} · store ${status.storeState} · up ${up}`;
  return {
    lines: [
      printable(title),
      printable(
        `${status.members.length === 1 ? 'serving process' : 'serving processes'}: ${members || 'none'}`,
      ),
      '',
      ...table(head, rows, columns),
      '',
      queue.messages === 0
        ? 'queue: empty'
        : `queue: ${queue.messages} waiting, the oldest ${ageText(queue.oldestAgeMs)}`,
      holds.users === 0 ? 'holds: none' : printable(`holds: ${holds.users} users wait: ${holds.reason}`),
    ],
  };
}

/** What is well needs no words. */
const evidenceText = (e: EvidenceRow): string =>
  `${e.protocol} ${e.health}${e.health === 'up' || e.why === '' ? '' : ` (${e.why})`}`;
