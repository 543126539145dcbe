/**
 * What the evidence says of one backend, seen one way: its greeting (every second) or its canary mailbox (deep, seldom).
 *
 *            silence, a failure that counts, a live failure            `fall` failures in a row, the last a probe's
 *      up ───────────────────────────────────────────────→ suspect ─────────────────────────────────────→ down
 *       ↑ ↑                     ok                            │                                             │
 *       │ └───────────────────────────────────────────────────┘      `rise` good probes in a row            │
 *       └──────────────── doubled with each fall of the last ten minutes, up to 32 times (damping) ─────────┘
 *
 * What counts as a failure: a refused or failed connect or TLS handshake, at once. Silence never: a cluster file system that fails over
 * stalls every node for seconds, so a late reply only makes `suspect`, and a missing greeting counts only after `greetingFallMs`
 * of it. An explicit error counts only while another node answers the same probe well: else the fault may be common, or ours.
 * Live traffic hurries and never decides: it counts once per client, for at most `fall` - 2, and brings the first probe forward. So
 * at least two probes, an interval apart, must fail: no banned client or broken user takes a node down, nor does a quick restart.
 */
import type { Evidence, Health, Protocol } from './types.ts';

export interface FallRules {
  /** Good probes in a row before `up`, at least 1. */
  readonly rise: number;
  /** Failures in a row before `down`, at least 1. */
  readonly fall: number;
  /** How long greetings must be missing before that counts as failing. Longer than the file system's own failover. */
  readonly greetingFallMs: number;
  /** Falls younger than this make the next rise longer. */
  readonly flapWindowMs: number;
}

export type Depth = 'greeting' | 'canary';

/** One thing seen. Times are monotonic. */
export interface Sighting {
  readonly evidence: Evidence;
  readonly source: 'probe' | 'live';
  /** Live only: which user or client; '' (not known) counts as one for all. */
  readonly who: string;
  /** For people: "ECONNREFUSED", "greeted in 2 ms". Cleaned by whoever saw it. */
  readonly text: string;
  readonly nowMs: number;
}

export interface Track {
  readonly protocol: Protocol;
  readonly depth: Depth;
  readonly health: Health;
  /** Probes that failed in a row, and counted. */
  readonly bad: number;
  /** Good probes in a row while down. */
  readonly good: number;
  /** Clients whose connects failed since the last good sign: at most `fall` - 2. */
  readonly liveBad: readonly string[];
  /** Since when greetings are missing; null while they come. */
  readonly silentSinceMs: number | null;
  /** When it fell, within the flap window; the newest last. */
  readonly fallsAtMs: readonly number[];
  readonly lastProbe: Evidence | null;
  readonly lastProbeAtMs: number;
  /** A live failure asks for the first probe before its time. */
  readonly isProbeDue: boolean;
  readonly text: string;
}

const fallsKept = 6;

export function newTrack(protocol: Protocol, depth: Depth, health: 'up' | 'down'): Track {
  const counters = { bad: 0, good: 0, liveBad: [], silentSinceMs: null, fallsAtMs: [] };
  const last = { lastProbe: null, lastProbeAtMs: 0, isProbeDue: false, text: 'not probed yet' };
  return { protocol, depth, health, ...counters, ...last };
}

/** `peerIsGood`: another node answers the same probe well at present. */
export function see(track: Track, seen: Sighting, rules: FallRules, peerIsGood: boolean): Track {
  return seen.source === 'live' ? seeLive(track, seen, rules) : seeProbe(track, seen, rules, peerIsGood);
}

/** Good probes in a row that a backend which is down still owes. */
export function riseNeeded(track: Track, rules: FallRules, nowMs: number): number {
  const falls = track.fallsAtMs.filter(atMs => nowMs - atMs < rules.flapWindowMs).length;
  return rules.rise * 2 ** Math.min(5, Math.max(0, falls - 1));
}

/** True while it is down, or on its way there by failures that count, and the last probe was not good. */
export function isFailing(track: Track): boolean {
  return (track.health === 'down' || track.bad > 0) && track.lastProbe !== 'ok';
}

function seeLive(track: Track, seen: Sighting, rules: FallRules): Track {
  // A straggler's word does not raise the dead, nor does it matter.
  if (track.health === 'down') return track;
  if (seen.evidence === 'ok') {
    if (track.health === 'up' && track.bad === 0 && track.liveBad.length === 0) return track;
    return { ...track, health: 'up', bad: 0, liveBad: [], silentSinceMs: null, text: 'live traffic passes' };
  }
  const hard = seen.evidence === 'connect-failed' || seen.evidence === 'tls-failed';
  const isNew = hard && track.liveBad.length < rules.fall - 2 && !track.liveBad.includes(seen.who);
  const liveBad = isNew ? [...track.liveBad, seen.who] : track.liveBad;
  const text = `${describe(seen)}, seen by live traffic`;
  return { ...track, health: 'suspect', liveBad, isProbeDue: track.bad === 0, text };
}

function seeProbe(track: Track, seen: Sighting, rules: FallRules, peerIsGood: boolean): Track {
  const probed = { ...track, lastProbe: seen.evidence, lastProbeAtMs: seen.nowMs, isProbeDue: false };
  if (seen.evidence === 'ok') return seeGood(probed, seen, rules);
  const silentSinceMs =
    seen.evidence === 'greeting-timeout' ? (track.silentSinceMs ?? seen.nowMs) : track.silentSinceMs;
  const failed = { ...probed, silentSinceMs, good: 0 };
  if (track.health === 'down') return { ...failed, text: describe(seen) };
  if (!counts(seen, silentSinceMs, rules, peerIsGood)) {
    return { ...failed, health: 'suspect', text: `${describe(seen)}, which is no death by itself` };
  }
  const bad = track.bad + 1;
  const total = Math.min(rules.fall, bad + track.liveBad.length);
  const text = `${describe(seen)} (${total} of ${rules.fall})`;
  if (total < rules.fall) return { ...failed, health: 'suspect', bad, text };
  const fallsAtMs = [...track.fallsAtMs, seen.nowMs].slice(-fallsKept);
  return { ...failed, health: 'down', bad, liveBad: [], fallsAtMs, text };
}

function seeGood(track: Track, seen: Sighting, rules: FallRules): Track {
  const clear = { ...track, bad: 0, liveBad: [], silentSinceMs: null };
  if (track.health !== 'down') return { ...clear, health: 'up', good: 0, text: describe(seen) };
  const good = track.good + 1;
  const needed = riseNeeded(track, rules, seen.nowMs);
  if (good < needed) return { ...clear, good, text: `answers again (${good} of ${needed})` };
  return { ...clear, health: 'up', good: 0, text: describe(seen) };
}

function counts(
  seen: Sighting,
  silentSinceMs: number | null,
  rules: FallRules,
  peerIsGood: boolean,
): boolean {
  switch (seen.evidence) {
    case 'connect-failed':
    case 'tls-failed':
      return true;
    case 'greeting-timeout':
      return silentSinceMs !== null && seen.nowMs - silentSinceMs >= rules.greetingFallMs;
    case 'explicit-error':
      return peerIsGood;
    case 'reply-timeout':
    case 'ok':
      return false;
  }
}

function describe({ evidence, text }: Sighting): string {
  return text === '' ? evidence : `${evidence}: ${text}`;
}
