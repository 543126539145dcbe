/**
 * From evidence to wishes: which nodes the view should call down or up, and why. Pure: the prober passes in time and chance, acts on
 * the wishes, and may be wrong about a wish's fate; what the view says is told anew at each judgement.
 *
 *     probes, live traffic ─ observe ─→ tracks (backend-health.ts) ─→ backends ─→ node ─ judge ─→ node-down, node-up
 *                                                                                        │
 *     calm ── more than `panicShare` of the nodes failing at once ──→ panic ─────────────┘ no node-down while in panic
 *       ↑                                                              │
 *       └── a node that is not `self` answers, and goes on for `panicPatienceMs`: who fails even now is dead indeed
 *
 * A node is down when all its session backends are, or a canary is; LMTP alone down is the couriers' matter. `suspect` never leaves
 * this room but for display. Must never take a node down for what may be our own fault: when most fail at once, we suspect ourselves.
 */
import {
  type Depth,
  type FallRules,
  isFailing,
  newTrack,
  type Sighting,
  see,
  type Track,
} from './backend-health.ts';
import type { Evidence, Health, NodeName, Protocol } from './types.ts';

export interface HealthRules extends FallRules {
  /** Of the greeting probes. */
  readonly intervalMs: number;
  readonly canaryIntervalMs: number;
  /** Part of the interval, 0…0.5, by which a delay may be shorter or longer. */
  readonly jitter: number;
  /** 0…1. */
  readonly panicShare: number;
  readonly panicPatienceMs: number;
  /** Nodes that the view has had down for longer than this no longer count as failing "at once". */
  readonly panicWindowMs: number;
  /** This machine's own node, or null: that it answers over loopback says nothing of our network. */
  readonly self: NodeName | null;
}

export const defaultHealthRules: HealthRules = {
  rise: 2,
  fall: 3,
  greetingFallMs: 30_000,
  flapWindowMs: 600_000,
  intervalMs: 1000,
  canaryIntervalMs: 60_000,
  jitter: 0.1,
  panicShare: 0.5,
  panicPatienceMs: 10_000,
  panicWindowMs: 60_000,
  self: null,
};

/** A node as health begins with it. */
export interface WatchedNode {
  readonly name: NodeName;
  readonly protocols: readonly Protocol[];
  /** What the view says at the start: from there evidence must lead away. */
  readonly health: 'up' | 'down';
}

export interface Observation {
  readonly node: NodeName;
  readonly protocol: Protocol;
  readonly evidence: Evidence;
  readonly source: 'probe' | 'live';
  /** Monotonic. */
  readonly nowMs: number;
  /** `greeting` if left out. */
  readonly depth?: Depth;
  /** Live only: the user or client, so that one alone counts once. */
  readonly who?: string;
  readonly text?: string;
}

export interface HealthState {
  readonly nodes: ReadonlyMap<NodeName, readonly Track[]>;
  readonly panic: Panic | null;
}

/** Most nodes failed at once. It ends by answers alone: when our own network returns, nodes come back one by one, not all at once. */
export interface Panic {
  readonly sinceMs: number;
  /** Since when some node has answered without a break; null while none does. */
  readonly answeredSinceMs: number | null;
}

export interface HealthWish {
  readonly kind: 'node-down' | 'node-up';
  readonly node: NodeName;
  /** For people: "imap: connect-failed: ECONNREFUSED (3 of 3)". */
  readonly why: string;
}

export interface Judgement {
  readonly state: HealthState;
  readonly wishes: readonly HealthWish[];
  /** Why nothing is declared down, or null in calm. An alarm. */
  readonly panic: string | null;
}

/** Also for changed settings: what is known of nodes and backends that stay is kept. */
export function watchNodes(nodes: readonly WatchedNode[], before: HealthState | null = null): HealthState {
  const kept = before?.nodes ?? new Map<NodeName, readonly Track[]>();
  const entries = nodes.map(({ name, protocols, health }) => {
    const old = (kept.get(name) ?? []).filter(track => protocols.includes(track.protocol));
    const fresh = protocols
      .filter(protocol => !old.some(track => track.protocol === protocol && track.depth === 'greeting'))
      .map(protocol => newTrack(protocol, 'greeting', health));
    return [name, [...old, ...fresh]] as const;
  });
  return { nodes: new Map(entries), panic: before?.panic ?? null };
}

/** The same state object where nothing changed, as for most live traffic. Unknown nodes and backends are ignored. */
export function observe(state: HealthState, seen: Observation, rules: HealthRules): HealthState {
  const { node, protocol, depth = 'greeting' } = seen;
  const tracks = state.nodes.get(node);
  if (tracks === undefined || !tracks.some(each => each.protocol === protocol)) return state;
  const found = tracks.find(each => each.protocol === protocol && each.depth === depth);
  const track = found ?? newTrack(protocol, depth, 'up');
  const sighting: Sighting = { ...seen, who: seen.who ?? '', text: seen.text ?? '' };
  const next = see(track, sighting, rules, peerIsGood(state, seen, depth, rules));
  if (next === track && found !== undefined) return state;
  const changed =
    found === undefined ? [...tracks, next] : tracks.map(each => (each === track ? next : each));
  return { ...state, nodes: new Map(state.nodes).set(node, changed) };
}

/** What to ask of the view, given what it says now: told anew until the view says it. Call after each probe; go on with its state. */
export function judge(
  state: HealthState,
  view: readonly { readonly name: NodeName; readonly health: 'up' | 'down' }[],
  nowMs: number,
  rules: HealthRules,
): Judgement {
  const inView = new Map(view.map(node => [node.name, node.health]));
  const recent = [...state.nodes].filter(([name, tracks]) => {
    return inView.has(name) && !(inView.get(name) === 'down' && isLongDown(tracks, nowMs, rules));
  });
  const failing = recent.filter(([, tracks]) => nodeIs(tracks, isFailing)).length;
  const isCrowd = failing > recent.length * rules.panicShare;
  const panic = nextPanic(state, { isCrowd, isNone: failing === 0 }, nowMs, rules);
  const isOver = panic === null || hasPatience(panic, nowMs, rules);
  const alarm = `${failing} of ${recent.length} nodes fail at once: the fault may be ours, none is declared down`;
  return {
    state: panic === state.panic ? state : { ...state, panic },
    wishes: wishesOf(state, inView, isOver),
    panic: isOver ? null : alarm,
  };
}

function wishesOf(
  state: HealthState,
  inView: ReadonlyMap<NodeName, 'up' | 'down'>,
  mayFall: boolean,
): HealthWish[] {
  const wishes: HealthWish[] = [];
  for (const [node, tracks] of state.nodes) {
    if (tracks.length === 0) continue;
    const isDown = nodeIs(tracks, track => track.health === 'down');
    const said = inView.get(node);
    // Down by count but answering again: neither is to be said of it now.
    if (said === 'up' && isDown && mayFall && nodeIs(tracks, isFailing)) {
      wishes.push({ kind: 'node-down', node, why: whyOf(tracks, 'down') });
    }
    if (said === 'down' && !isDown) wishes.push({ kind: 'node-up', node, why: whyOf(tracks, 'up') });
  }
  return wishes;
}

interface Crowd {
  readonly isCrowd: boolean;
  readonly isNone: boolean;
}

function nextPanic(
  state: HealthState,
  { isCrowd, isNone }: Crowd,
  nowMs: number,
  rules: HealthRules,
): Panic | null {
  const { panic } = state;
  if (panic === null) return isCrowd ? { sinceMs: nowMs, answeredSinceMs: null } : null;
  if (isNone || (!isCrowd && hasPatience(panic, nowMs, rules))) return null;
  const answers = someoneAnswers(state, panic.sinceMs, rules.self);
  const answeredSinceMs = answers ? (panic.answeredSinceMs ?? nowMs) : null;
  return answeredSinceMs === panic.answeredSinceMs ? panic : { ...panic, answeredSinceMs };
}

/** Long enough, too, for every node to be probed meanwhile. */
function hasPatience({ answeredSinceMs }: Panic, nowMs: number, rules: HealthRules): boolean {
  const patienceMs = Math.max(rules.panicPatienceMs, 3 * rules.intervalMs);
  return answeredSinceMs !== null && nowMs - answeredSinceMs >= patienceMs;
}

/** When to probe again, from the end of the last probe. `chance` in [0, 1). */
export function probeDelayMs(
  state: HealthState,
  { node, protocol, depth = 'greeting' }: Pick<Observation, 'node' | 'protocol' | 'depth'>,
  chance: number,
  rules: HealthRules,
): number {
  const track = state.nodes.get(node)?.find(each => each.protocol === protocol && each.depth === depth);
  const plainMs = intervalOf(depth, rules) * (1 + rules.jitter * (2 * chance - 1));
  // Users met a failure: look soon, but a stream of failures must not become a stream of probes.
  return track?.isProbeDue === true ? plainMs / 10 : plainMs;
}

/** A backend's health: the worst of the ways in which it is seen. Unknown ones are up. */
export function backendHealth(state: HealthState, node: NodeName, protocol: Protocol): Health {
  const seen = (state.nodes.get(node) ?? [])
    .filter(track => track.protocol === protocol)
    .map(track => track.health);
  if (seen.includes('down')) return 'down';
  return seen.includes('suspect') ? 'suspect' : 'up';
}

export function nodeHealth(state: HealthState, node: NodeName): Health {
  const tracks = state.nodes.get(node) ?? [];
  if (nodeIs(tracks, track => track.health === 'down')) return 'down';
  return tracks.every(track => track.health === 'up') ? 'up' : 'suspect';
}

/** For `homing status`: what is known of each backend, in words. */
export function evidenceOf(
  state: HealthState,
  node: NodeName,
): { protocol: Protocol; health: Health; why: string }[] {
  return (state.nodes.get(node) ?? []).map(({ protocol, depth, health, text }) => {
    return { protocol, health, why: depth === 'canary' ? `canary: ${text}` : text };
  });
}

/** Whether the whole node is what `is` says of tracks: any canary, or every session backend; LMTP where it has nothing else. */
function nodeIs(tracks: readonly Track[], is: (track: Track) => boolean): boolean {
  if (tracks.some(track => track.depth === 'canary' && is(track))) return true;
  const greetings = tracks.filter(track => track.depth === 'greeting');
  const sessions = greetings.filter(track => track.protocol !== 'lmtp');
  const deciding = sessions.length > 0 ? sessions : greetings;
  return deciding.length > 0 && deciding.every(is);
}

function isLongDown(tracks: readonly Track[], nowMs: number, rules: HealthRules): boolean {
  return (
    nodeIs(tracks, track => track.health === 'down') &&
    tracks.every(track => nowMs - (track.fallsAtMs.at(-1) ?? Number.NEGATIVE_INFINITY) > rules.panicWindowMs)
  );
}

function intervalOf(depth: Depth, rules: HealthRules): number {
  return depth === 'canary' ? rules.canaryIntervalMs : rules.intervalMs;
}

/** Whether its last probe was good, and recent enough to speak for the present. */
function isGoodNow(track: Track, nowMs: number, rules: HealthRules): boolean {
  const freshMs = Math.max(5000, 3 * intervalOf(track.depth, rules));
  return track.lastProbe === 'ok' && nowMs - track.lastProbeAtMs <= freshMs;
}

function someoneAnswers(state: HealthState, sinceMs: number, self: NodeName | null): boolean {
  for (const [name, tracks] of state.nodes) {
    if (name === self) continue;
    if (tracks.some(track => track.lastProbe === 'ok' && track.lastProbeAtMs > sinceMs)) return true;
  }
  return false;
}

function peerIsGood(state: HealthState, seen: Observation, depth: Depth, rules: HealthRules): boolean {
  if (seen.evidence !== 'explicit-error') return false;
  for (const [name, tracks] of state.nodes) {
    if (name === seen.node) continue;
    if (
      tracks.some(
        each => each.protocol === seen.protocol && each.depth === depth && isGoodNow(each, seen.nowMs, rules),
      )
    )
      return true;
  }
  return false;
}

function whyOf(tracks: readonly Track[], health: Health): string {
  const speaking = tracks.filter(track => track.health === health);
  return speaking
    .map(track => `${track.protocol}${track.depth === 'canary' ? ' canary' : ''}: ${track.text}`)
    .join('; ');
}
