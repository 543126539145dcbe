/**
 * Watches every backend of every node, once a machine: probes them, gathers what sessions and deliveries saw, lets core/health judge,
 * and passes its wishes on. One probe of a backend is under way at most.
 * Must never act on a wish itself: a node is down when the view says so.
 */
import { type ProbeOptions, type ProbeResult, probeBackend } from '../backend/probe.ts';
import {
  backendHealth,
  evidenceOf,
  type HealthRules,
  type HealthState,
  type HealthWish,
  judge,
  nodeHealth,
  observe,
  probeDelayMs,
  watchNodes,
} from '../core/health.ts';
import { reach } from '../core/reach.ts';
import type { ClusterNode, Evidence, Health, NodeName, Protocol } from '../core/types.ts';
import { protocols } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';

export interface ProberOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly rules: HealthRules;
  /** For the connect of a probe, and again for its greeting. */
  readonly timeoutMs: number;
  /** A wish is told once; again only after `settled` was called for its node. Must not throw. */
  readonly onWish: (wish: HealthWish, settled: () => void) => void;
  /** For tests. */
  readonly probe?: (options: ProbeOptions) => Promise<ProbeResult>;
}

export interface Prober {
  /** The view's nodes, whenever it changes: probes of new ones begin, of gone ones end. */
  watch(nodes: readonly ClusterNode[]): void;
  /** What live traffic saw. `who`: its user or client, so that one alone counts once. */
  report(node: NodeName, protocol: Protocol, evidence: Evidence, who: string): void;
  change(options: Pick<ProberOptions, 'rules' | 'timeoutMs'>): void;
  nodeHealth(node: NodeName): Health;
  backendHealth(node: NodeName, protocol: Protocol): Health;
  evidenceOf(node: NodeName): { protocol: Protocol; health: Health; why: string }[];
  /** Why nothing is declared down at the moment, or null. */
  panic(): string | null;
  stop(): void;
}

interface Watched {
  readonly node: NodeName;
  readonly protocol: Protocol;
  address: string;
  port: number;
  isGone: boolean;
  cancel: () => void;
}

export function createProber(options: ProberOptions): Prober {
  return new BackendProber(options);
}

class BackendProber implements Prober {
  #options: ProberOptions;
  #state: HealthState = watchNodes([]);
  #nodes: readonly ClusterNode[] = [];
  readonly #watched = new Map<string, Watched>();
  readonly #wished = new Set<NodeName>();
  #panic: string | null = null;
  #isStopped = false;

  constructor(options: ProberOptions) {
    this.#options = options;
  }

  watch(nodes: readonly ClusterNode[]): void {
    this.#nodes = nodes;
    const backends = nodes.map(({ name, health, ports }) => ({
      name,
      health,
      protocols: protocols.filter(protocol => ports[protocol] !== undefined),
    }));
    this.#state = watchNodes(backends, this.#state);
    const wanted = new Set<string>();
    for (const { name, address, ports } of nodes) {
      for (const protocol of protocols) {
        const port = ports[protocol];
        if (port === undefined) continue;
        wanted.add(`${name} ${protocol}`);
        this.#watchBackend(name, protocol, address, port);
      }
    }
    for (const [key, backend] of this.#watched) {
      if (wanted.has(key)) continue;
      backend.isGone = true;
      backend.cancel();
      this.#watched.delete(key);
    }
    this.#judge();
  }

  report(node: NodeName, protocol: Protocol, evidence: Evidence, who: string): void {
    const nowMs = this.#options.clock.now();
    const before = this.#state;
    const seen = { node, protocol, evidence, source: 'live', nowMs, who } as const;
    this.#state = observe(before, seen, this.#options.rules);
    if (this.#state === before) return;
    // What users met is looked into soon, not at the next turn.
    const backend = this.#watched.get(`${node} ${protocol}`);
    if (backend && evidence !== 'ok' && backend.cancel !== underWay) this.#schedule(backend);
    this.#judge();
  }

  change(changed: Pick<ProberOptions, 'rules' | 'timeoutMs'>): void {
    this.#options = { ...this.#options, ...changed };
  }

  nodeHealth(node: NodeName): Health {
    return nodeHealth(this.#state, node);
  }

  backendHealth(node: NodeName, protocol: Protocol): Health {
    return backendHealth(this.#state, node, protocol);
  }

  evidenceOf(node: NodeName) {
    return evidenceOf(this.#state, node);
  }

  panic(): string | null {
    return this.#panic;
  }

  stop(): void {
    this.#isStopped = true;
    for (const backend of this.#watched.values()) {
      backend.isGone = true;
      backend.cancel();
    }
    this.#watched.clear();
  }

  #watchBackend(node: NodeName, protocol: Protocol, address: string, port: number): void {
    const known = this.#watched.get(`${node} ${protocol}`);
    if (known) {
      known.address = address;
      known.port = port;
      return;
    }
    const backend: Watched = { node, protocol, address, port, isGone: false, cancel: underWay };
    this.#watched.set(`${node} ${protocol}`, backend);
    void this.#probe(backend);
  }

  async #probe(backend: Watched): Promise<void> {
    backend.cancel = underWay;
    const { probe = probeBackend, timeoutMs, clock, rules, log } = this.#options;
    const { node, protocol, port } = backend;
    const address = reach({ name: node, address: backend.address }, rules.self);
    const { evidence, why } = await probe({ address, port, protocol, timeoutMs });
    if (backend.isGone || this.#isStopped) return;
    const before = backendHealth(this.#state, node, protocol);
    const seen = { node, protocol, evidence, source: 'probe', nowMs: clock.now(), text: why } as const;
    this.#state = observe(this.#state, seen, rules);
    const after = backendHealth(this.#state, node, protocol);
    if (after !== before)
      log.warn({ node, protocol, evidence, why, before, health: after }, 'backend health');
    this.#judge();
    this.#schedule(backend);
  }

  #schedule(backend: Watched): void {
    const { clock, rules } = this.#options;
    backend.cancel();
    backend.cancel = clock.after(probeDelayMs(this.#state, backend, clock.chance(), rules), () => {
      void this.#probe(backend);
    });
  }

  #judge(): void {
    const { clock, rules, onWish, log } = this.#options;
    const { state, wishes, panic } = judge(this.#state, this.#nodes, clock.now(), rules);
    this.#state = state;
    if (panic !== this.#panic && (panic === null || this.#panic === null))
      log[panic === null ? 'info' : 'error']({ panic }, panic === null ? 'panic is over' : 'panic');
    this.#panic = panic;
    for (const wish of wishes) {
      if (this.#wished.has(wish.node)) continue;
      this.#wished.add(wish.node);
      onWish(wish, () => this.#wished.delete(wish.node));
    }
  }
}

/** Stands for `cancel` while a probe is under way: its end schedules the next one. */
function underWay(): void {}
