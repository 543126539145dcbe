/**
 * What the admin API answers and the commands print: plain shapes, shared by both ends. All fields are JSON.
 * Must never hold a password, a message's content, or a client's name before it has proved it.
 */
import type { AdminState, Epoch, Health, NodeName, Place, Protocol, Target, User } from './types.ts';

/** What one protocol's probes and traffic say of a node. */
export interface EvidenceRow {
  readonly protocol: Protocol;
  readonly health: Health;
  /** For people: "connection refused (3 of 3)". */
  readonly why: string;
}

export interface NodeRow {
  readonly name: NodeName;
  readonly address: string;
  readonly weight: number;
  readonly pool: string;
  readonly admin: AdminState;
  readonly health: Health;
  readonly evidence: readonly EvidenceRow[];
  /** Active now, over all members. */
  readonly sessions: number;
  readonly deliveries: number;
  readonly users: number;
}

export interface MemberRow {
  readonly id: string;
  readonly pid: number;
  /** The member's state: `serving`, `waiting`, `letting-go`, `holding`, `out`. */
  readonly phase: string;
}

/** GET /v1/status */
export interface StatusAnswer {
  readonly cluster: string;
  readonly epoch: Epoch;
  readonly run: string;
  /** `grace` or `open`; a store that can't be reached says why. */
  readonly storeState: string;
  readonly startedAtMs: number;
  readonly members: readonly MemberRow[];
  readonly nodes: readonly NodeRow[];
  readonly queue: { readonly messages: number; readonly oldestAgeMs: number };
  /** Users whose admissions wait, and why; '' where none do. */
  readonly holds: { readonly users: number; readonly reason: string };
}

export interface RankingRow {
  readonly node: NodeName;
  readonly weight: number;
  readonly admin: AdminState;
  readonly health: Health;
  /** Whether it can take the user now, and why not. */
  readonly eligible: boolean;
  readonly why: string;
}

/** One session or delivery under way. GET /v1/sessions answers a list of them. */
export interface ActivityRow {
  readonly user: User;
  readonly protocol: Protocol;
  readonly node: NodeName;
  /** `address:port` */
  readonly client: string;
  /** Unix time, ms. */
  readonly sinceMs: number;
}

/** GET /v1/explain?user=RAW */
export interface ExplainAnswer {
  /** As it was asked. */
  readonly input: string;
  readonly user: User;
  readonly affinityKey: string;
  /** The first of the ranking, whatever its state; null where no node has weight. */
  readonly home: NodeName | null;
  readonly place: Place;
  readonly ranking: readonly RankingRow[];
  readonly override: { readonly target: Target; readonly why: string } | null;
  readonly map: { readonly target: Target; readonly why: string } | null;
  readonly pin: { readonly node: NodeName; readonly why: string } | null;
  readonly sessions: readonly ActivityRow[];
}

/** GET /v1/sessions */
export interface SessionsAnswer {
  readonly sessions: readonly ActivityRow[];
}

export interface QueueRow {
  readonly id: string;
  readonly from: string;
  readonly to: readonly string[];
  readonly bytes: number;
  readonly ageMs: number;
  readonly attempts: number;
  /** Until the next try; 0: now. */
  readonly nextInMs: number;
  /** What the last try came to. */
  readonly why: string;
}

/** GET /v1/queue: the oldest first, bounded; `messages` counts all. */
export interface QueueAnswer {
  readonly messages: number;
  readonly entries: readonly QueueRow[];
}

/** POST /v1/nodes/NAME: one of both. */
export interface NodeOrder {
  readonly admin?: AdminState;
  readonly weight?: number;
}

export interface NodeOrderAnswer {
  /** The view that the order came into force with. */
  readonly epoch: Epoch;
}

/** Any 4xx or 5xx. */
export interface ErrorAnswer {
  readonly error: string;
}
