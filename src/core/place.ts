/**
 * Where a view sends a user, and why: pin, then override (the store's, then the map files'), then the ranking (barrier.md §1).
 * Stands under every login and every RCPT, so what depends on the view alone is computed once, in a `Placer`.
 * A step that meets a node which is down and not fenced answers `held`; one that is down and fenced is passed over. Must be a
 * function of the view and the user alone: two members with the same view answer alike (promise 4).
 */
import { affinityKey } from './canonical.ts';
import { type PinSet, pinIndex, pinKey } from './pins.ts';
import { createRanker, type Ranker } from './rendezvous.ts';
import type { ClusterNode, NodeName, Place, Target, User } from './types.ts';
import { lookUp } from './user-map.ts';
import { patternOf, type View } from './view.ts';

/** The pool of users whom no override or map line sends elsewhere. */
export const defaultPool = 'default';

export interface Placer {
  readonly view: View;
  place(user: User): Place;
  node(name: NodeName): ClusterNode | null;
  /** Every node of the user's pool with weight, best first, whatever its state. */
  ranking(user: User): RankedNode[];
  /** The operator's word on the user, from the store or a map file, or null. */
  overrideOf(user: User): Order | null;
}

export interface RankedNode {
  readonly node: NodeName;
  /** '' where it can take new users, else why not. */
  readonly passedOver: string;
}

/** Where an operator sends a user, and by which word. */
export interface Order {
  readonly target: Target;
  readonly why: string;
  /** 0 for map files: a pin wins over them. */
  readonly since: number;
}

const placers = new WeakMap<View, Placer>();

export function placerOf(view: View): Placer {
  const known = placers.get(view);
  if (known !== undefined) return known;
  const placer = createPlacer(view);
  placers.set(view, placer);
  return placer;
}

export function place(view: View, user: User): Place {
  return placerOf(view).place(user);
}

export function rankingOf(view: View, user: User): RankedNode[] {
  return placerOf(view).ranking(user);
}

export function createPlacer(view: View): Placer {
  const nodes = new Map(view.nodes.map(node => [node.name, node]));
  const rankerOf = createRankers(view);
  const orderOf = createOrders(view);
  const pinOf = createPinLookUp(view.pins);
  // A node on its way out is gone for orders already: that it goes at last must move nobody.
  const named = (name: NodeName) => (view.leaving.includes(name) ? undefined : nodes.get(name));

  const ranked = (user: User, pool: string, before: string, first: 'home' | 'override'): Place => {
    const ranker = rankerOf(pool);
    const key = affinityKey(user, view);
    const best = ranker.first(key);
    if (best === null) return { kind: 'none', why: `${before}no node of pool ${pool} has weight` };
    const home = nodes.get(best);
    if (home !== undefined && unable(home) === '')
      return { kind: first, node: best, why: `${before}first in the ranking of pool ${pool}` };
    const passed: string[] = [];
    for (const name of ranker.rank(key)) {
      const node = nodes.get(name);
      if (node === undefined) continue;
      const why = unable(node);
      const others = passed.length === 0 ? '' : `, after ${passed.join(', ')}`;
      if (why === '')
        return {
          kind: 'failover',
          homeDown: home?.health === 'down',
          node: name,
          why: `${before}next in the ranking of pool ${pool}${others}`,
        };
      if (holds(node)) return { kind: 'held', node: name, why: `${before}${heldWhy(node)}${others}` };
      passed.push(`${name} (${why})`);
    }
    return { kind: 'none', why: `${before}no node of pool ${pool} can take users: ${passed.join(', ')}` };
  };

  const byOrder = (user: User, order: Order): Place => {
    if ('pool' in order.target) return ranked(user, order.target.pool, `${order.why}; `, 'override');
    const name = order.target.node;
    const node = named(name);
    if (node === undefined)
      return asFailover(user, `${order.why}, but there is no node ${name}; `, defaultPool, false);
    if (holds(node)) return { kind: 'held', node: name, why: `${order.why}; ${heldWhy(node)}` };
    const why = node.weight === 0 && node.health === 'up' && node.admin === 'ready' ? '' : unable(node);
    if (why === '') return { kind: 'override', node: name, why: order.why };
    return asFailover(user, `${order.why}, but ${name} is ${why}; `, node.pool, node.health === 'down');
  };

  const asFailover = (user: User, before: string, pool: string, homeDown: boolean): Place => {
    const place = ranked(user, pool, before, 'home');
    if (place.kind === 'home') return { ...place, kind: 'failover', homeDown };
    return place.kind === 'failover' ? { ...place, homeDown } : place;
  };

  return {
    view,
    place: user => {
      const pin = pinOf(user);
      const order = orderOf(user);
      // An order that is newer than the pin names the user: it ends the pin.
      if (pin !== null && (order === null || order.since <= pin.epoch)) {
        const node = nodes.get(pin.node);
        if (node !== undefined && mayStillWrite(node))
          return { kind: 'held', node: node.name, why: `pinned; ${heldWhy(node)}` };
        if (node !== undefined && node.health === 'up')
          return { kind: 'pin', node: node.name, why: `active there since before view ${pin.epoch}` };
      }
      if (order !== null) return byOrder(user, order);
      return ranked(user, defaultPool, '', 'home');
    },
    node: name => nodes.get(name) ?? null,
    ranking: user => {
      const target = orderOf(user)?.target;
      const pool = target !== undefined && 'node' in target ? named(target.node)?.pool : target?.pool;
      const names = rankerOf(pool ?? defaultPool).rank(affinityKey(user, view));
      return names.map(name => {
        const node = nodes.get(name);
        return { node: name, passedOver: node === undefined ? 'unknown' : unable(node) };
      });
    },
    overrideOf: orderOf,
  };
}

/** Down, and no fence has confirmed that it no longer writes: its users may not be placed past it. */
function mayStillWrite(node: ClusterNode): boolean {
  return node.health === 'down' && !node.fenced;
}

/**
 * The same for a step that gives new users. A node that was draining or in maintenance when it died had none by that step: they
 * were placed elsewhere already, and would be bystanders. Those it kept are pinned.
 */
function holds(node: ClusterNode): boolean {
  return mayStillWrite(node) && node.admin === 'ready';
}

function heldWhy(node: ClusterNode): string {
  return `${node.name} is down since view ${node.incident} and not fenced yet`;
}

/** Why a node takes no new users by ranking, or ''. */
function unable(node: ClusterNode): string {
  if (node.health === 'down') return node.fenced ? 'down' : 'down, not fenced';
  if (node.admin !== 'ready') return node.admin;
  return node.weight > 0 ? '' : 'weight 0';
}

function createRankers(view: View): (pool: string) => Ranker {
  const rankers = new Map<string, Ranker>();
  for (const pool of new Set(view.nodes.map(node => node.pool)))
    rankers.set(pool, createRanker(view.nodes.filter(node => node.pool === pool)));
  const nobody = createRanker([]);
  return pool => rankers.get(pool) ?? nobody;
}

/** The store's overrides first (user, domain, patterns by key), then the map files. */
function createOrders(view: View): (user: User) => Order | null {
  const exact = new Map<string, Order>();
  const patterns: { readonly regex: RegExp; readonly order: Order }[] = [];
  for (const { key, target, since } of view.overrides) {
    const to = 'node' in target ? target.node : `pool:${target.pool}`;
    const order: Order = { target, since, why: `override ${key} to ${to} since view ${since}` };
    const regex = patternOf(key);
    if (regex === null) exact.set(key, order);
    else patterns.push({ regex, order });
  }
  return user => {
    if (view.overrides.length > 0) {
      const named = exact.get(user) ?? exact.get(user.slice(user.lastIndexOf('@')));
      if (named !== undefined) return named;
      for (const { regex, order } of patterns) if (regex.test(user)) return order;
    }
    const mapped = lookUp(view.map, user);
    return mapped === null ? null : { target: mapped.target, why: mapped.why, since: 0 };
  };
}

/** The newest set that pins the user: a user that was pinned twice stays where it was last active. */
function createPinLookUp(sets: readonly PinSet[]): (user: User) => PinSet | null {
  if (sets.length === 0) return () => null;
  const newestFirst = [...sets].sort((a, b) => b.epoch - a.epoch);
  return user => {
    const key = pinKey(user);
    for (const set of newestFirst) if (pinIndex(set, key) >= 0) return set;
    return null;
  };
}
