/** A cluster of one node that admits everyone, and remembers what it was asked and told: for dialogs and session tests. */
import type {
  Admission,
  AdmissionWish,
  Admitting,
  CloseReason,
  Entry,
  Evidence,
} from '../../src/cluster/admission.ts';
import type { ClusterNode, Place } from '../../src/core/types.ts';

export interface OneNode extends Admitting {
  readonly live: Set<Entry>;
  readonly evidence: Evidence[];
  readonly users: string[];
  readonly releases: boolean[];
  /** Tells every live entry to close, as the barrier does. */
  closeAll(reason: CloseReason): void;
  /** Where users are sent from now on; null: nowhere. */
  moveTo(node: ClusterNode | null): void;
}

export function clusterNode(name: string, port: number, address = '127.0.0.1'): ClusterNode {
  const ports = { imap: port };
  return {
    name,
    address,
    weight: 100,
    pool: 'default',
    ports,
    admin: 'ready',
    health: 'up',
    incident: 0,
    fenced: false,
  };
}

export function oneNode(first: ClusterNode | null): OneNode {
  let node = first;
  const closers = new Map<Entry, (reason: CloseReason) => void>();
  const live = new Set<Entry>();
  const evidence: Evidence[] = [];
  const users: string[] = [];
  const releases: boolean[] = [];
  const peek = (): Place =>
    node === null
      ? { kind: 'none', why: 'no node' }
      : { kind: 'home', node: node.name, why: 'home of the test' };
  const admit = async (wish: AdmissionWish): Promise<Admission> => {
    const place = peek();
    users.push(wish.user);
    if (node === null) return { ok: false, reason: 'none', why: 'every node is down', place };
    const marked = { is: false };
    const entry: Entry = {
      user: wish.user,
      node,
      place,
      isLive: () => live.has(entry) && !marked.is,
      release: options => {
        if (live.delete(entry)) releases.push(options?.nodeEnded ?? false);
        closers.delete(entry);
      },
    };
    live.add(entry);
    closers.set(entry, reason => {
      marked.is = true;
      wish.onClose(reason);
    });
    return { ok: true, entry };
  };
  return {
    live,
    evidence,
    users,
    releases,
    admit,
    peek,
    node: name => (node?.name === name ? node : null),
    report: (_name, _protocol, seen) => evidence.push(seen),
    closeAll: reason => {
      for (const close of [...closers.values()]) close(reason);
    },
    moveTo: next => {
      node = next;
    },
  };
}
