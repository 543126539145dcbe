/**
 * What the admin API says and does, gathered from the view, the prober and the serving process. Stands in the parent.
 * Must never answer for a serving process that does not answer: what is not known is said to be so.
 */
import type { Prober } from '../cluster/prober.ts';
import type { Proposer } from '../cluster/proposer.ts';
import { affinityKey, canonicalUser, type UserRules } from '../core/canonical.ts';
import { placerOf } from '../core/place.ts';
import type {
  ActivityRow,
  ExplainAnswer,
  NodeOrder,
  NodeRow,
  QueueAnswer,
  RankingRow,
  StatusAnswer,
} from '../core/status.ts';
import type { ClusterNode, Health } from '../core/types.ts';
import { lookUp } from '../core/user-map.ts';
import type { View, ViewEvent } from '../core/view.ts';
import type { Clock } from '../net/clock.ts';
import type { Desk, DeskAnswer } from './api.ts';

/** What the serving process tells of itself. */
export interface ServingStatus {
  readonly member: string;
  readonly phase: string;
  readonly nodes: Readonly<
    Record<string, { readonly sessions: number; readonly deliveries: number; readonly users: number }>
  >;
  readonly queue: { readonly messages: number; readonly oldestAgeMs: number };
  /** Admissions that wait. */
  readonly waiting: number;
  /** Why they wait, or ''. */
  readonly waitingFor: string;
}

/** The serving process behind its channel; null where it did not answer in time. */
export interface ServingPort {
  readonly pid: number;
  status(): Promise<ServingStatus | null>;
  activities(user: string | null): Promise<readonly ActivityRow[] | null>;
  queue(): Promise<QueueAnswer | null>;
}

export interface DeskOptions {
  readonly cluster: string;
  readonly startedAtMs: number;
  readonly view: () => View;
  readonly prober: Prober;
  readonly proposer: Proposer;
  readonly serving: () => ServingPort | null;
  readonly userRules: () => UserRules;
  readonly clock: Clock;
}

const notServing = { ok: false, kind: 'unavailable', why: 'the serving process does not answer' } as const;

export function createDesk(options: DeskOptions): Desk {
  const { view, serving } = options;
  return {
    status: () => status(options),
    explain: raw => explain(options, raw),
    sessions: async () => {
      const sessions = await serving()?.activities(null);
      return sessions ? { ok: true, value: { sessions } } : notServing;
    },
    queue: async () => {
      const queue = await serving()?.queue();
      return queue ? { ok: true, value: queue } : notServing;
    },
    orderNode: (name, order) => orderNode(options, name, order),
    ready: async () => {
      const told = await serving()?.status();
      if (!told) return notServing;
      const isUp = view().nodes.some(node => node.health === 'up' && node.admin === 'ready');
      if (!isUp) return { ok: false, kind: 'unavailable', why: 'no node is up and ready' };
      return told.phase === 'serving' || told.phase === 'letting-go' || told.phase === 'holding'
        ? { ok: true, value: { ready: true } }
        : { ok: false, kind: 'unavailable', why: `the serving process is ${told.phase}` };
    },
  };
}

async function status(options: DeskOptions): Promise<DeskAnswer<StatusAnswer>> {
  const { cluster, startedAtMs, view, serving } = options;
  const port = serving();
  const told = (await port?.status()) ?? null;
  const { epoch, run, nodes } = view();
  const value: StatusAnswer = {
    cluster,
    epoch,
    run,
    storeState: 'open',
    startedAtMs,
    members:
      port === null
        ? []
        : [{ id: told?.member ?? '?', pid: port.pid, phase: told?.phase ?? 'does not answer' }],
    nodes: nodes.map(node => nodeRow(options, node, told)),
    queue: told?.queue ?? { messages: 0, oldestAgeMs: 0 },
    holds: { users: told?.waiting ?? 0, reason: told?.waitingFor ?? '' },
  };
  return { ok: true, value };
}

function nodeRow({ prober }: DeskOptions, node: ClusterNode, told: ServingStatus | null): NodeRow {
  const { name, address, weight, pool, admin } = node;
  const counts = told?.nodes[name] ?? { sessions: 0, deliveries: 0, users: 0 };
  return {
    name,
    address,
    weight,
    pool,
    admin,
    health: healthOf(prober, node),
    evidence: prober.evidenceOf(name),
    ...counts,
  };
}

/** Down is what the view says; between up and suspect the evidence decides. */
function healthOf(prober: Prober, node: ClusterNode): Health {
  if (node.health === 'down') return 'down';
  return prober.nodeHealth(node.name) === 'up' ? 'up' : 'suspect';
}

async function explain(options: DeskOptions, raw: string): Promise<DeskAnswer<ExplainAnswer>> {
  const { view: currentView, userRules, serving, prober } = options;
  const rules = userRules();
  const found = canonicalUser(raw, rules);
  if (!found.ok) return { ok: false, kind: 'wrong', why: `${JSON.stringify(raw)} ${found.why}` };
  const { user } = found;
  const view = currentView();
  const placer = placerOf(view);
  const ranking = placer.ranking(user);
  const order = placer.overrideOf(user);
  const mapped = lookUp(view.map, user);
  const place = placer.place(user);
  const value: ExplainAnswer = {
    input: raw,
    user,
    affinityKey: affinityKey(user, rules),
    home: ranking[0]?.node ?? null,
    place,
    ranking: ranking.flatMap(({ node: name, passedOver }): RankingRow[] => {
      const node = placer.node(name);
      if (node === null) return [];
      const { weight, admin } = node;
      return [
        {
          node: name,
          weight,
          admin,
          health: healthOf(prober, node),
          eligible: passedOver === '',
          why: passedOver,
        },
      ];
    }),
    override: order !== null && order.since > 0 ? { target: order.target, why: order.why } : null,
    map: mapped,
    pin: place.kind === 'pin' ? { node: place.node, why: place.why } : null,
    sessions: (await serving()?.activities(user)) ?? [],
  };
  return { ok: true, value };
}

async function orderNode(
  { proposer, view }: DeskOptions,
  name: string,
  { admin, weight }: NodeOrder,
): Promise<DeskAnswer<{ epoch: number }>> {
  if (!view().nodes.some(node => node.name === name))
    return { ok: false, kind: 'not-found', why: `there is no node ${name}` };
  const events: ViewEvent[] = [];
  if (admin !== undefined) events.push({ kind: 'admin', node: name, state: admin });
  if (weight !== undefined) events.push({ kind: 'weight', node: name, weight });
  const done = await proposer.wish(events, 'operator');
  return done.ok
    ? { ok: true, value: { epoch: done.epoch } }
    : { ok: false, kind: 'unavailable', why: done.why };
}
