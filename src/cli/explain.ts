/**
 * `homing explain USER`: where the running Homing places a user and why, from GET /v1/explain. Exit 1 where no node can take the user.
 */

import type { ExplainAnswer } from '../core/status.ts';
import type { Target } from '../core/types.ts';
import { realClock } from '../net/clock.ts';
import type { Asked } from './asked.ts';
import type { Io } from './io.ts';
import { sessionTable } from './lists.ts';
import { type Shown, show } from './show.ts';
import { printable, table } from './table.ts';

export async function runExplain(asked: Asked, io: Io): Promise<number> {
  const path = `/v1/explain?user=${encodeURIComponent(asked.words[0] ?? '')}`;
  const render = (a: ExplainAnswer, c: number | null) => renderExplain(a, c, realClock.wall());
  return show<ExplainAnswer>({ method: 'GET', path, timeoutMs: 10_000 }, render, asked, io);
}

const to = (target: Target): string => ('node' in target ? target.node : `pool:${target.pool}`);

export function renderExplain(answer: ExplainAnswer, columns: number | null, nowMs: number): Shown {
  const { place } = answer;
  const node = 'node' in place ? place.node : 'no node';
  const facts: readonly (readonly [string, string | null])[] = [
    ['user', answer.input === answer.user ? answer.user : `${answer.user} (asked as ${answer.input})`],
    ['hashed by', answer.affinityKey === answer.user ? null : answer.affinityKey],
    ['place', `${node}: ${place.kind}, ${place.why}`],
    ['home', answer.home ?? 'none'],
    ['override', answer.override && `${to(answer.override.target)}, ${answer.override.why}`],
    ['map', answer.map && `${to(answer.map.target)}, ${answer.map.why}`],
    ['pin', answer.pin && `${answer.pin.node}, ${answer.pin.why}`],
  ];
  const shown = facts.flatMap(([name, value]) =>
    value === null ? [] : [`${name.padEnd(10)}${printable(value)}`],
  );
  const ranking = answer.ranking.map((r, i) => [
    String(i + 1),
    r.node,
    String(r.weight),
    r.admin,
    r.health,
    r.eligible ? 'yes' : `no: ${r.why}`,
  ]);
  const head = [
    { title: '#', align: 'right' as const },
    { title: 'NODE' },
    { title: 'WEIGHT', align: 'right' as const },
    { title: 'ADMIN' },
    { title: 'HEALTH' },
    { title: 'TAKES USERS' },
  ];
  return {
    lines: [
      ...shown,
      '',
      ...table(head, ranking, columns),
      '',
      ...sessionTable(answer.sessions, columns, nowMs),
    ],
    isNo: place.kind === 'none' || place.kind === 'held',
  };
}
