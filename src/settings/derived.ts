/**
 * What other rooms' options are made of, computed from the settings: the nodes as the core knows them, the rules that turn names into users,
 * the barrier's timers. Here, and not in `main.ts`, so that `homing map` and `homing serve` can't differ.
 */
import { createHash } from 'node:crypto';
import type { UserRules } from '../core/canonical.ts';
import { defaultTimers, type Timers } from '../core/timers.ts';
import { type NodeSpec, type Protocol, protocols } from '../core/types.ts';
import type { ViewRules } from '../core/view.ts';
import type { Settings } from './schema.ts';

export function nodeSpecs(settings: Pick<Settings, 'nodes'>): NodeSpec[] {
  return settings.nodes.map(({ name, address, weight, pool, ports }) => {
    const open: Partial<Record<Protocol, number>> = {};
    for (const protocol of protocols) {
      const port = ports[protocol];
      if (port !== null) open[protocol] = port;
    }
    return { name, address, weight, pool, ports: open };
  });
}

export function userRules(settings: Pick<Settings, 'users'>): UserRules {
  const { defaultDomain, domains, detail, masterSeparator, affinity } = settings.users;
  return { defaultDomain, domains: new Set(domains), detail, masterSeparator, affinity, aliases: new Map() };
}

/** The ranking's version: 1 for ever, but for a change that moves everybody (never after 1.0). */
const rankingVersion = 1;

/** What all members must have alike (barrier.md §1); a member whose digest differs is refused. */
export function viewRules(settings: Pick<Settings, 'users' | 'placement' | 'failover' | 'state'>): ViewRules {
  const { defaultDomain, detail, masterSeparator, affinity } = settings.users;
  const alike = [rankingVersion, settings.placement, defaultDomain, detail, masterSeparator, affinity];
  const rulesDigest = createHash('sha256').update(JSON.stringify(alike)).digest('hex').slice(0, 32);
  return { affinity, rulesDigest, fence: settings.failover.fence, onLoss: settings.state.onLoss };
}

/** "The whole table is one set; a site changes L and the rest follows" (barrier.md §4). The defaults give the table's own values. */
export function timersOf({ state, failover }: Pick<Settings, 'state' | 'failover'>): Timers {
  const { drift, overlapMs } = defaultTimers;
  const leaseMs = state.lease;
  const step = (ms: number): number => Math.ceil(ms / 500) * 500;
  const lapseMs = step((leaseMs * (1 + drift)) / (1 - drift));
  const renewMs = Math.min(defaultTimers.renewMs, leaseMs / 6);
  return {
    renewMs,
    commandTimeoutMs: Math.min(defaultTimers.commandTimeoutMs, renewMs * 0.3),
    leaseMs,
    closeMs: Math.min(defaultTimers.closeMs, leaseMs / 3),
    lapseMs,
    overlapMs,
    graceMs: lapseMs + overlapMs + 500,
    settleMs: failover.settle,
    holdMs: failover.hold,
    drift,
  };
}
