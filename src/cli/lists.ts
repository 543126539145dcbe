/**
 * `homing sessions` and `homing queue`: what is under way and what waits.
 */

import type { ActivityRow, QueueAnswer, SessionsAnswer } from '../core/status.ts';
import { realClock } from '../net/clock.ts';
import type { Asked } from './asked.ts';
import type { Io } from './io.ts';
import { type Shown, show } from './show.ts';
import { ageText, type Column, table } from './table.ts';

export const runSessions = (asked: Asked, io: Io): Promise<number> =>
  show<SessionsAnswer>(
    { method: 'GET', path: '/v1/sessions', timeoutMs: 30_000 },
    ({ sessions }, columns) => ({ lines: sessionTable(sessions, columns, realClock.wall()) }),
    asked,
    io,
  );

export const runQueue = (asked: Asked, io: Io): Promise<number> =>
  show<QueueAnswer>({ method: 'GET', path: '/v1/queue', timeoutMs: 30_000 }, renderQueue, asked, io);

export function sessionTable(
  sessions: readonly ActivityRow[],
  columns: number | null,
  nowMs: number,
): string[] {
  if (sessions.length === 0) return ['no sessions'];
  const head: readonly Column[] = [
    { title: 'USER' },
    { title: 'PROTOCOL' },
    { title: 'NODE' },
    { title: 'CLIENT' },
    { title: 'SINCE', align: 'right' },
  ];
  const rows = sessions.map(s => [s.user, s.protocol, s.node, s.client, ageText(nowMs - s.sinceMs)]);
  return table(head, rows, columns);
}

const queueHead: readonly Column[] = [
  { title: 'ID' },
  { title: 'AGE', align: 'right' },
  { title: 'BYTES', align: 'right' },
  { title: 'FROM' },
  { title: 'TO' },
  { title: 'TRIES', align: 'right' },
  { title: 'NEXT', align: 'right' },
  { title: 'WHY' },
];

export function renderQueue({ messages, entries }: QueueAnswer, columns: number | null): Shown {
  if (messages === 0) return { lines: ['the queue is empty'] };
  const rows = entries.map(e => [
    e.id,
    ageText(e.ageMs),
    String(e.bytes),
    e.from === '' ? '<>' : e.from,
    e.to.length > 3 ? `${e.to.slice(0, 3).join(', ')} and ${e.to.length - 3} more` : e.to.join(', '),
    String(e.attempts),
    e.nextInMs <= 0 ? 'now' : ageText(e.nextInMs),
    e.why,
  ]);
  const more = messages > entries.length ? ['', `${entries.length} of ${messages}`] : [];
  return { lines: [...table(queueHead, rows, columns), ...more] };
}
