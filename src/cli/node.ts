/**
 * `homing node ready|drain|maint NAME` and `homing node weight NAME WEIGHT`: one order, by POST /v1/nodes/NAME.
 * Answers once the order is part of the view: all members act by it.
 */

import type { NodeOrder, NodeOrderAnswer } from '../core/status.ts';
import { adminStates } from '../core/types.ts';
import { didYouMean } from '../settings/nearest.ts';
import type { Asked } from './asked.ts';
import { exit } from './exit.ts';
import { complain, type Io, write } from './io.ts';
import { show } from './show.ts';
import { printable } from './table.ts';
import { commands } from './usage.ts';

/** A barrier may take a hold and a lapse; far beyond them something is stuck. */
const orderTimeoutMs = 60_000;

type Order =
  | { readonly ok: true; readonly order: NodeOrder; readonly done: string }
  | { readonly ok: false; readonly why: string };

export async function runNode(asked: Asked, io: Io): Promise<number> {
  const [verb = '', name = '', weight] = asked.words;
  const read = readOrder(verb, weight);
  if (!read.ok) {
    await complain(io, `node: ${read.why}`);
    await write(io.stderr, `${commands.node}\n`);
    return exit.usage;
  }
  const path = `/v1/nodes/${encodeURIComponent(name)}`;
  return show<NodeOrderAnswer>(
    { method: 'POST', path, body: read.order, timeoutMs: orderTimeoutMs },
    ({ epoch }) => ({ lines: [printable(`${name} ${read.done} since view ${epoch}`)] }),
    asked,
    io,
  );
}

function readOrder(verb: string, weight: string | undefined): Order {
  if (verb === 'weight') {
    if (weight === undefined || !/^\d{1,4}$/.test(weight) || Number(weight) > 1000)
      return { ok: false, why: 'a weight is a whole number from 0 to 1000' };
    return { ok: true, order: { weight: Number(weight) }, done: `has weight ${Number(weight)}` };
  }
  const admin = adminStates.find(state => state === verb);
  if (admin === undefined)
    return {
      ok: false,
      why: `${JSON.stringify(verb)} is not known; ${didYouMean(verb, [...adminStates, 'weight'])}one of: ${adminStates.join(', ')}, weight`,
    };
  if (weight !== undefined) return { ok: false, why: `${JSON.stringify(weight)} is one word too many` };
  const done = { ready: 'is ready', drain: 'drains', maint: 'is in maintenance' } as const;
  return { ok: true, order: { admin }, done: done[admin] };
}
