/**
 * Who is active here: entries by user and by node, so that a change of the view finds its users without a search.
 * A user's entries are all on one node; the barrier sees to it, and `add` asserts it. Work over many users is done in slices, so that
 * a view change never blocks the event loop (design §4). Must never be walked in one go where its size is not known to be small.
 */
import type { AdmissionWish } from '../cluster/admission.ts';
import { type PinKey, pinKey } from '../core/pins.ts';
import type { NodeName, User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';

export interface ActiveEntry {
  readonly wish: AdmissionWish;
  readonly user: User;
  readonly node: NodeName;
  /** `closing`: its holder was told. `lingering`: its holder is done, but the node's end was not seen. `gone`: out of here. */
  phase: 'live' | 'closing' | 'lingering' | 'gone';
  /** Unix ms, for listings alone. */
  readonly sinceMs: number;
}

export interface ActiveCounts {
  readonly sessions: number;
  readonly deliveries: number;
}

export interface ActiveUser {
  readonly user: User;
  readonly node: NodeName;
  readonly key: PinKey;
  readonly entries: ReadonlySet<ActiveEntry>;
}

interface MutableUser extends ActiveUser {
  readonly entries: Set<ActiveEntry>;
}

export const sliceMs = 10;
/** How many users are visited between two looks at the clock. */
const usersPerLook = 32;

export class Actives {
  private users = new Map<User, MutableUser>();
  private nodes = new Map<NodeName, Map<User, MutableUser>>();
  private entryCount = 0;
  private counts = new Map<NodeName, { session: number; delivery: number }>();

  get userCount(): number {
    return this.users.size;
  }

  get entriesCount(): number {
    return this.entryCount;
  }

  usersOn(node: NodeName): number {
    return this.nodes.get(node)?.size ?? 0;
  }

  countsOn(node: NodeName): ActiveCounts {
    const { session: sessions, delivery: deliveries } = this.counts.get(node) ?? { session: 0, delivery: 0 };
    return { sessions, deliveries };
  }

  /** In the order in which users came; at most `limit`. */
  list(limit: number): ActiveEntry[] {
    const entries: ActiveEntry[] = [];
    for (const entry of entriesOf(this.users)) {
      if (entries.length >= limit) break;
      entries.push(entry);
    }
    return entries;
  }

  of(user: User): ActiveUser | null {
    return this.users.get(user) ?? null;
  }

  add(wish: AdmissionWish, node: NodeName, sinceMs = 0): ActiveEntry {
    const { user } = wish;
    let active = this.users.get(user);
    if (active !== undefined && active.node !== node)
      throw new Error(`${user} is active on ${active.node} and was to be admitted to ${node}`);
    if (active === undefined) {
      active = { user, node, key: pinKey(user), entries: new Set() };
      this.users.set(user, active);
      const onNode = this.nodes.get(node) ?? new Map<User, MutableUser>();
      onNode.set(user, active);
      this.nodes.set(node, onNode);
    }
    const entry: ActiveEntry = { wish, user, node, phase: 'live', sinceMs };
    active.entries.add(entry);
    this.entryCount += 1;
    this.count(entry, 1);
    return entry;
  }

  /** Idempotent. */
  remove(entry: ActiveEntry): void {
    if (entry.phase === 'gone') return;
    entry.phase = 'gone';
    const active = this.users.get(entry.user);
    if (active?.entries.delete(entry) !== true) return;
    this.entryCount -= 1;
    this.count(entry, -1);
    if (active.entries.size > 0) return;
    this.users.delete(entry.user);
    const onNode = this.nodes.get(active.node);
    onNode?.delete(entry.user);
    if (onNode?.size === 0) this.nodes.delete(active.node);
  }

  /** Forgets everything at once; the entries that were there, for their holders to be told. */
  clear(): Iterable<ActiveEntry> {
    const before = this.users;
    this.users = new Map();
    this.nodes = new Map();
    this.entryCount = 0;
    this.counts = new Map();
    return entriesOf(before);
  }

  private count({ node, wish }: ActiveEntry, step: 1 | -1): void {
    const counts = this.counts.get(node) ?? { session: 0, delivery: 0 };
    counts[wish.activity] += step;
    this.counts.set(node, counts);
  }

  /**
   * Visits the active users of the nodes (or all), a slice at a time. Users that come during the walk may or may not be visited,
   * those that were there and stay are. Ends early when `stop` says so; answers whether it came to the end.
   */
  async walk(
    nodes: ReadonlySet<NodeName> | 'all',
    visit: (active: ActiveUser) => void,
    clock: Clock,
    stop: () => boolean = () => false,
  ): Promise<boolean> {
    const maps = nodes === 'all' ? [this.users] : [...nodes].map(node => this.nodes.get(node) ?? new Map());
    return inSlices(valuesOf(maps), visit, clock, stop);
  }
}

function* valuesOf(maps: readonly ReadonlyMap<User, MutableUser>[]): Generator<MutableUser> {
  // A Map's iterator survives deletions and insertions while we pause.
  for (const map of maps) yield* map.values();
}

function* entriesOf(users: ReadonlyMap<User, MutableUser>): Generator<ActiveEntry> {
  for (const active of users.values()) yield* active.entries;
}

/** Visits items for at most `sliceMs` at a time, then lets the event loop run. */
export async function inSlices<Item>(
  items: Iterable<Item>,
  visit: (item: Item) => void,
  clock: Clock,
  stop: () => boolean = () => false,
): Promise<boolean> {
  let untilMs = clock.now() + sliceMs;
  let visited = 0;
  for (const item of items) {
    if (stop()) return false;
    visit(item);
    visited += 1;
    if (visited % usersPerLook !== 0 || clock.now() < untilMs) continue;
    await new Promise<void>(resolve => clock.after(0, resolve));
    untilMs = clock.now() + sliceMs;
  }
  return !stop();
}
