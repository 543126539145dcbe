/**
 * The view: everything `place` reads, as one immutable value that all members agree on (barrier.md §1), and how events change it.
 * `apply` is pure: the same view, events and epoch give the same next view on every member. Events are plain data: they survive
 * JSON and structuredClone. Must never read anything that is not in the view, its events, or the map content named by digest.
 */
import type { PackedPinSet, PinSet, Ranges } from './pins.ts';
import { dropPins, packPinSet, unpackPinSet } from './pins.ts';
import type { AdminState, ClusterNode, Epoch, NodeName, NodeSpec, Target } from './types.ts';
import type { UserMap } from './user-map.ts';
import { emptyMap } from './user-map.ts';

/** An operator's pin in the store: `homing user move`. */
export interface Override {
  /** A canonical user, `@domain`, or `/regex/`. */
  readonly key: string;
  readonly target: Target;
  /** `idle` is for single users only: it goes when the user is idle everywhere. */
  readonly until: 'removed' | 'idle';
  /** The view it came with: it wins over older pins, since an order names the user. */
  readonly since: Epoch;
}

/** What all members must have alike; a member that differs is refused. Changes only when the store starts. */
export interface ViewRules {
  /** `users.affinity`: what is hashed. */
  readonly affinity: string;
  /** Of `users:`, `placement:` and the ranking's version. */
  readonly rulesDigest: string;
  readonly fence: 'none' | 'required';
  readonly onLoss: 'serve' | 'refuse';
}

/** What a view and its image have alike. */
interface ViewBody extends ViewRules {
  readonly epoch: Epoch;
  /** The store's run that gave the epoch: a view's name is both. */
  readonly run: string;
  /** By name. */
  readonly nodes: readonly ClusterNode[];
  /** As the settings last named them: a weight set by command lasts until its spec changes. By name. */
  readonly specs: readonly NodeSpec[];
  /** No longer in the settings, in `maint` until the next change finds them without pins. */
  readonly leaving: readonly NodeName[];
  /** By key. */
  readonly overrides: readonly Override[];
}

export interface View extends ViewBody {
  readonly map: UserMap;
  readonly pins: readonly PinSet[];
}

export type ViewEvent =
  | { readonly kind: 'node-down'; readonly node: NodeName }
  | { readonly kind: 'node-up'; readonly node: NodeName }
  | { readonly kind: 'fenced'; readonly node: NodeName; readonly incident: Epoch }
  | { readonly kind: 'admin'; readonly node: NodeName; readonly state: AdminState }
  | { readonly kind: 'weight'; readonly node: NodeName; readonly weight: number }
  /** The whole list: nodes not in it leave. */
  | { readonly kind: 'nodes'; readonly specs: readonly NodeSpec[] }
  | {
      readonly kind: 'override-set';
      readonly key: string;
      readonly target: Target;
      readonly until: 'removed' | 'idle';
    }
  | { readonly kind: 'override-removed'; readonly key: string }
  /** The content stands beside the view, under the digest. */
  | { readonly kind: 'map'; readonly digest: string }
  /** Made by the barrier alone, from the members' answers. */
  | { readonly kind: 'pins-added'; readonly set: PackedPinSet }
  | { readonly kind: 'pins-dropped'; readonly set: string; readonly ranges: Ranges };

/** One committed step: how a member that has the view before gets to `epoch`. */
export interface Change {
  readonly id: string;
  readonly epoch: Epoch;
  readonly events: readonly ViewEvent[];
}

/** Map content by digest. */
export type Maps = ReadonlyMap<string, UserMap>;

/** A view as it is kept and travels: plain data. */
export interface ViewImage extends ViewBody {
  readonly mapDigest: string;
  readonly pins: readonly PackedPinSet[];
}

export function emptyView(rules: ViewRules, run: string): View {
  const nothing = { nodes: [], specs: [], leaving: [], overrides: [], pins: [] };
  return { ...pickRules(rules), epoch: 0, run, map: emptyMap, ...nothing };
}

export function pickRules({ affinity, rulesDigest, fence, onLoss }: ViewRules): ViewRules {
  return { affinity, rulesDigest, fence, onLoss };
}

export function sameRules(a: ViewRules, b: ViewRules): boolean {
  return (
    a.affinity === b.affinity &&
    a.rulesDigest === b.rulesDigest &&
    a.fence === b.fence &&
    a.onLoss === b.onLoss
  );
}

/** The digest of map content that `apply` needs and `maps` lacks, or null. */
export function missingMap(events: readonly ViewEvent[], maps: Maps): string | null {
  for (const event of events)
    if (event.kind === 'map' && event.digest !== '' && !maps.has(event.digest)) return event.digest;
  return null;
}

/** The next view. Events that no longer mean anything (an unknown node, an old incident) change nothing. */
export function apply(
  view: View,
  events: readonly ViewEvent[],
  epoch: Epoch,
  maps: Maps = new Map([[view.map.digest, view.map]]),
): View {
  let next: View = { ...view, epoch };
  // First, so that a node which left in an earlier step has had its users close or be pinned.
  if (events.some(event => event.kind !== 'pins-added')) next = finishLeaving(next);
  for (const event of events) next = applyOne(next, event, maps);
  return next;
}

function applyOne(view: View, event: ViewEvent, maps: Maps): View {
  switch (event.kind) {
    case 'node-down':
      return nodeDown(view, event.node);
    case 'node-up':
      return changeNode(view, event.node, node =>
        node.health === 'up' ? node : { ...node, health: 'up', incident: 0, fenced: false },
      );
    case 'fenced':
      return nodeFenced(view, event.node, event.incident);
    case 'admin':
      return setAdmin(view, event.node, event.state);
    case 'weight':
      return changeNode(view, event.node, node => ({ ...node, weight: event.weight }));
    case 'nodes':
      return setNodes(view, event.specs);
    case 'override-set': {
      const { key, target, until } = event;
      const others = view.overrides.filter(override => override.key !== key);
      const overrides = [...others, { key, target, until, since: view.epoch }];
      return { ...view, overrides: overrides.sort((a, b) => compare(a.key, b.key)) };
    }
    case 'override-removed':
      return { ...view, overrides: view.overrides.filter(override => override.key !== event.key) };
    case 'map': {
      const map = event.digest === '' ? emptyMap : maps.get(event.digest);
      if (map === undefined) throw new Error(`the content of map ${event.digest} is not here`);
      return { ...view, map };
    }
    case 'pins-added':
      return { ...view, pins: [...view.pins, unpackPinSet(event.set)] };
    case 'pins-dropped':
      return { ...view, pins: dropPins(view.pins, event.set, event.ranges, view.epoch) };
  }
}

function nodeDown(view: View, name: NodeName): View {
  const node = view.nodes.find(each => each.name === name);
  if (node === undefined || node.health === 'down') return view;
  const fenced = view.fence === 'none';
  const down = changeNode(view, name, each => ({ ...each, health: 'down', incident: view.epoch, fenced }));
  return fenced ? dropNodesPins(down, name) : down;
}

/** Only the incident that is meant: a late confirmation of an earlier one says nothing of this one (barrier.md §6). */
function nodeFenced(view: View, name: NodeName, incident: Epoch): View {
  const node = view.nodes.find(each => each.name === name);
  if (node === undefined || node.health === 'up' || node.fenced || node.incident !== incident) return view;
  return dropNodesPins(
    changeNode(view, name, each => ({ ...each, fenced: true })),
    name,
  );
}

/**
 * Maintenance drops the node's pins, so that their users are told to close. Pins that come with this very step (deliveries that
 * would not settle) are added after it and hold.
 */
function setAdmin(view: View, name: NodeName, state: AdminState): View {
  const changed = changeNode(view, name, node => ({ ...node, admin: state }));
  return state === 'maint' ? dropNodesPins(changed, name) : changed;
}

function setNodes(view: View, specs: readonly NodeSpec[]): View {
  const known = new Map(view.nodes.map(node => [node.name, node]));
  const lastSpecs = new Map(view.specs.map(spec => [spec.name, spec]));
  const back = new Set(view.leaving);
  const nodes = specs.map((spec): ClusterNode => {
    const node = known.get(spec.name);
    if (node === undefined) return { ...spec, admin: 'ready', health: 'up', incident: 0, fenced: false };
    const { admin, health, incident, fenced } = node;
    const kept = { ...spec, admin, health, incident, fenced };
    // It was on its way out and is wanted again.
    if (back.has(spec.name)) return { ...kept, admin: 'ready' };
    return spec.weight === lastSpecs.get(spec.name)?.weight ? { ...kept, weight: node.weight } : kept;
  });
  const wanted = new Set(specs.map(spec => spec.name));
  const gone = view.nodes.filter(node => !wanted.has(node.name));
  const leaving = gone.map((node): ClusterNode => ({ ...node, admin: 'maint', weight: 0 }));
  const next: View = {
    ...view,
    nodes: [...nodes, ...leaving].sort((a, b) => compare(a.name, b.name)),
    specs: [...specs].sort((a, b) => compare(a.name, b.name)),
    leaving: gone.map(node => node.name),
  };
  return gone
    .filter(node => !back.has(node.name))
    .reduce((each, node) => dropNodesPins(each, node.name), next);
}

function finishLeaving(view: View): View {
  const pinned = new Set(view.pins.map(set => set.node));
  const done = view.leaving.filter(name => !pinned.has(name));
  if (done.length === 0) return view;
  return {
    ...view,
    nodes: view.nodes.filter(node => !done.includes(node.name)),
    leaving: view.leaving.filter(name => !done.includes(name)),
  };
}

function changeNode(view: View, name: NodeName, change: (node: ClusterNode) => ClusterNode): View {
  return { ...view, nodes: view.nodes.map(node => (node.name === name ? change(node) : node)) };
}

function dropNodesPins(view: View, node: NodeName): View {
  return { ...view, pins: view.pins.filter(set => set.node !== node) };
}

/** Nodes that are down and may still write: while there is one, planned changes wait (barrier.md §6). */
export function unfencedNodes(view: Pick<View, 'nodes'>): NodeName[] {
  return view.nodes.filter(node => node.health === 'down' && !node.fenced).map(node => node.name);
}

/** What is wrong with events that somebody wishes, in an operator's words, or null. */
export function checkEvents(view: View, events: readonly ViewEvent[]): string | null {
  if (events.length === 0) return 'there is nothing to change';
  for (const event of events) {
    const wrong = checkEvent(view, event);
    if (wrong !== null) return wrong;
  }
  return null;
}

function checkEvent(view: View, event: ViewEvent): string | null {
  switch (event.kind) {
    case 'node-down':
    case 'node-up':
      return checkNode(view, event.node);
    case 'fenced': {
      const node = view.nodes.find(each => each.name === event.node);
      if (node === undefined) return checkNode(view, event.node);
      if (node.health === 'up') return `${event.node} is up: there is no incident to confirm`;
      if (node.incident !== event.incident)
        return `the confirmation is of incident ${event.incident}, ${event.node} is down since ${node.incident}`;
      return null;
    }
    case 'admin':
      if (view.leaving.includes(event.node)) return `${event.node} is no longer in the settings`;
      return checkNode(view, event.node);
    case 'weight':
      if (!(event.weight >= 0 && event.weight <= 1000)) return `the weight must be 0 to 1000`;
      return checkNode(view, event.node);
    case 'nodes':
      if (new Set(event.specs.map(spec => spec.name)).size < event.specs.length)
        return 'a node is named twice';
      return null;
    case 'override-set':
      return checkOverride(view, event);
    case 'override-removed':
      if (view.overrides.some(override => override.key === event.key)) return null;
      return `there is no override for ${event.key}`;
    case 'map':
    case 'pins-dropped':
      return null;
    case 'pins-added':
      return 'pins come from the members alone';
  }
}

/** True where the event would leave the view as it is: it need not be proposed. */
export function changesNothing(view: View, event: ViewEvent): boolean {
  const node = 'node' in event ? view.nodes.find(each => each.name === event.node) : undefined;
  switch (event.kind) {
    case 'node-down':
      return node?.health === 'down';
    case 'node-up':
      return node?.health === 'up';
    case 'fenced':
      return node?.fenced === true && node.incident === event.incident;
    case 'admin':
      return node?.admin === event.state;
    case 'weight':
      return node?.weight === event.weight;
    case 'nodes':
      return view.leaving.length === 0 && sameSpecs(view.specs, event.specs);
    case 'map':
      return view.map.digest === event.digest;
    case 'pins-dropped':
      return !view.pins.some(set => set.id === event.set);
    // Set again, an override wins over pins that came since.
    case 'override-set':
    case 'override-removed':
    case 'pins-added':
      return false;
  }
}

function sameSpecs(a: readonly NodeSpec[], b: readonly NodeSpec[]): boolean {
  const text = (specs: readonly NodeSpec[]): string =>
    JSON.stringify(
      [...specs]
        .sort((x, y) => compare(x.name, y.name))
        .map(({ name, address, weight, pool, ports }) => [
          name,
          address,
          weight,
          pool,
          Object.entries(ports).sort(([x], [y]) => compare(x, y)),
        ]),
    );
  return text(a) === text(b);
}

function checkNode(view: View, name: NodeName): string | null {
  if (view.nodes.some(node => node.name === name)) return null;
  return `there is no node ${name} (known: ${view.nodes.map(node => node.name).join(', ') || 'none'})`;
}

const longestKey = 512;

function checkOverride(view: View, event: ViewEvent & { kind: 'override-set' }): string | null {
  const { key, target, until } = event;
  if (key === '' || key.length > longestKey) return `an override's key has 1 to ${longestKey} characters`;
  const single = !key.startsWith('@') && !isPattern(key);
  if (until === 'idle' && !single) return 'until idle is for a single user';
  if (isPattern(key) && patternOf(key) === null) return `${key} is not a regular expression`;
  if ('node' in target) return checkNode(view, target.node);
  if (view.nodes.some(node => node.pool === target.pool)) return null;
  return `there is no pool ${target.pool}`;
}

function isPattern(key: string): boolean {
  return key.length > 2 && key.startsWith('/') && key.endsWith('/');
}

/** The regex of a `/pattern/` key; null for other keys and for what does not compile. */
export function patternOf(key: string): RegExp | null {
  if (!isPattern(key)) return null;
  try {
    return new RegExp(key.slice(1, -1), 'u');
  } catch {
    return null;
  }
}

export function toImage(view: View): ViewImage {
  const { epoch, run, nodes, specs, leaving, overrides, map, pins } = view;
  const mapDigest = map.digest;
  return {
    ...pickRules(view),
    epoch,
    run,
    nodes,
    specs,
    leaving,
    overrides,
    mapDigest,
    pins: pins.map(packPinSet),
  };
}

/** null where the map content is not in `maps`. */
export function fromImage(image: ViewImage, maps: Maps): View | null {
  const { epoch, run, nodes, specs, leaving, overrides, mapDigest, pins } = image;
  const map = mapDigest === '' ? emptyMap : maps.get(mapDigest);
  if (map === undefined) return null;
  const rest = { epoch, run, nodes, specs, leaving, overrides };
  return { ...pickRules(image), ...rest, map, pins: pins.map(unpackPinSet) };
}

/** By code unit: the same order everywhere, unlike a locale's. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
