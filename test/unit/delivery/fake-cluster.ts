/** A cluster of names for tests of the way of a message: who is placed where, who holds an entry, and the barrier's pull by hand. */
import type { AdmissionWish, Admitting, CloseReason, Entry } from '../../../src/cluster/admission.ts';
import type { ClusterNode, Evidence, NodeName, Place, Recipient, User } from '../../../src/core/types.ts';
import type { Log } from '../../../src/observe/log.ts';

export interface FakeCluster extends Admitting {
  /** Where users are; by default everyone is at home on `m1`. */
  readonly places: Map<User, Place>;
  readonly nodes: Map<NodeName, ClusterNode>;
  /** Entries that live now. */
  readonly live: Set<{
    readonly user: User;
    readonly node: NodeName;
    close(reason: CloseReason): void;
    cut(): void;
  }>;
  readonly evidence: { node: NodeName; evidence: Evidence }[];
  /** Users whose admission waits until `admitHeld`. */
  readonly held: Map<User, (() => void)[]>;
  refuse: 'shutdown' | 'stale' | 'held' | null;
}

export function fakeCluster(names: Readonly<Record<NodeName, number>>): FakeCluster {
  const nodes = new Map<NodeName, ClusterNode>();
  for (const [name, port] of Object.entries(names)) nodes.set(name, nodeAt(name, port));
  const first = Object.keys(names)[0] ?? 'm1';
  const live: FakeCluster['live'] = new Set();
  const cluster: FakeCluster = {
    places: new Map(),
    nodes,
    live,
    evidence: [],
    held: new Map(),
    refuse: null,
    peek: user => cluster.places.get(user) ?? { kind: 'home', node: first, why: 'test' },
    node: name => nodes.get(name) ?? null,
    report: (node, _protocol, evidence) => void cluster.evidence.push({ node, evidence }),
    async admit(wish) {
      const waiting = cluster.held.get(wish.user);
      if (waiting !== undefined) {
        const done = await new Promise<boolean>(resolve => {
          waiting.push(() => resolve(true));
          wish.signal?.addEventListener('abort', () => resolve(false));
        });
        if (!done) return { ok: false, reason: 'aborted', why: 'too late', place: cluster.peek(wish.user) };
      }
      const place = cluster.peek(wish.user);
      if (cluster.refuse !== null) return { ok: false, reason: cluster.refuse, why: 'test', place };
      const node = place.kind === 'none' || place.kind === 'held' ? undefined : nodes.get(place.node);
      if (node === undefined)
        return { ok: false, reason: place.kind === 'held' ? 'held' : 'none', why: 'test', place };
      return { ok: true, entry: enter(cluster, wish, node, place) };
    },
  };
  return cluster;
}

function enter(cluster: FakeCluster, wish: AdmissionWish, node: ClusterNode, place: Place): Entry {
  let marked = false;
  const active = {
    user: wish.user,
    node: node.name,
    close: (reason: CloseReason) => {
      if (marked) return;
      marked = true;
      wish.onClose(reason);
    },
    cut: () => wish.onCut?.(),
  };
  cluster.live.add(active);
  return {
    user: wish.user,
    node,
    place,
    isLive: () => !marked && cluster.live.has(active),
    release: () => void cluster.live.delete(active),
  };
}

export function nodeAt(name: NodeName, port: number): ClusterNode {
  const ports = port === 0 ? {} : { lmtp: port };
  return {
    name,
    address: '127.0.0.1',
    weight: 100,
    pool: 'default',
    ports,
    admin: 'ready',
    health: 'up',
    incident: 0,
    fenced: false,
  };
}

export function recipient(address: string, index = 0): Recipient {
  const user = address.replace(/\+[^@]*/, '');
  return { index, address, user, detail: '', maildirName: `1.M${index}R${address.replace(/\W/g, '')}.host` };
}

/** Remembers the lines that a test looks at. */
export function quietLog(lines: Record<string, unknown>[] = []): Log {
  const keep = (line: unknown, text?: string) => void lines.push({ ...(line as object), text });
  return { info: keep, warn: keep, error: keep, debug: keep } as unknown as Log;
}
