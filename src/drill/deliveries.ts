/**
 * Reads Homing's own delivery lines (observe/maillog.ts) for the drill: which way each canary went, and which were in doubt.
 * Pure, and tolerant of other lines: it is handed a whole log.
 */
import { canaryName } from './canaries.ts';
import type { DeliveryTally } from './report.ts';

/** A log line, already parsed; fields are the log's own and may be anything. */
export type LogLine = { readonly [field: string]: unknown };

const sender = /^drill-(\d+)@/;

/** The envelope sender names the canary, so that a log line can be told apart from all other mail. */
export function canarySender(number: number): string {
  return `drill-${number}@drill.invalid`;
}

export interface DeliveryWord {
  readonly tally: DeliveryTally;
  /** `canaryName`s of those that a line called in doubt. */
  readonly inDoubt: ReadonlySet<string>;
}

export function readDeliveries(lines: Iterable<LogLine>): DeliveryWord {
  const byNode: Record<string, number> = {};
  const inDoubt = new Set<string>();
  let direct = 0;
  let queued = 0;
  for (const { msg, from, user, courier, node, outcome } of lines) {
    if (msg !== 'delivery' || typeof from !== 'string') continue;
    const number = sender.exec(from)?.[1];
    if (number === undefined) continue;
    if (outcome === 'in-doubt') inDoubt.add(canaryName({ number: Number(number), user: String(user) }));
    if (outcome === 'queued' || (courier === 'queue' && outcome === 'delivered')) queued++;
    else if (outcome === 'delivered' && courier === 'direct') direct++;
    else if (outcome === 'delivered' && typeof node === 'string') byNode[node] = (byNode[node] ?? 0) + 1;
  }
  return { tally: { byNode, direct, queued }, inDoubt };
}
