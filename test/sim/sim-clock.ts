/**
 * The simulation's time: nothing happens but by its events, in order, and chance comes from a seed.
 * A process (member) has a clock of its own on it, so that a crash drops its timers and a pause puts them off.
 */
import type { Clock } from '../../src/net/clock.ts';

export type Chance = () => number;

/** mulberry32. */
export function seeded(seed: number): Chance {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

interface Timer {
  readonly atMs: number;
  readonly order: number;
  readonly then: () => void;
  cancelled: boolean;
}

export class SimClock implements Clock {
  private timers: Timer[] = [];
  private nowMs = 0;
  private count = 0;
  readonly chance: Chance;

  constructor(chance: Chance) {
    this.chance = chance;
  }

  now(): number {
    return this.nowMs;
  }

  wall(): number {
    return 1_700_000_000_000 + this.nowMs;
  }

  token(bytes: number): string {
    let text = '';
    for (let i = 0; i < bytes * 2; i += 1) text += Math.floor(this.chance() * 16).toString(16);
    return text;
  }

  after(ms: number, then: () => void): () => void {
    this.count += 1;
    const timer: Timer = { atMs: this.nowMs + Math.max(0, ms), order: this.count, then, cancelled: false };
    let low = 0;
    let high = this.timers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.timers[middle]?.atMs ?? 0) <= timer.atMs) low = middle + 1;
      else high = middle;
    }
    this.timers.splice(low, 0, timer);
    return () => {
      timer.cancelled = true;
    };
  }

  /** Runs all events up to `untilMs`; promises settle between any two. */
  async run(untilMs: number): Promise<void> {
    for (;;) {
      await settle();
      const next = this.timers[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.timers.shift();
      if (next.cancelled) continue;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      next.then();
    }
    this.nowMs = untilMs;
  }
}

export function settle(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}

/** One process's clock: dead after a crash, late after a pause. */
export class ProcessClock implements Clock {
  private readonly world: SimClock;
  private dead = false;
  private pausedUntilMs = 0;

  constructor(world: SimClock) {
    this.world = world;
  }

  now(): number {
    return this.world.now();
  }
  wall(): number {
    return this.world.wall();
  }
  chance(): number {
    return this.world.chance();
  }
  token(bytes: number): string {
    return this.world.token(bytes);
  }
  get alive(): boolean {
    return !this.dead;
  }
  get paused(): boolean {
    return this.world.now() < this.pausedUntilMs;
  }

  after(ms: number, then: () => void): () => void {
    let cancelled = false;
    this.world.after(ms, () => this.inProcess(() => !cancelled && then()));
    return () => {
      cancelled = true;
    };
  }

  /** Runs something that reaches this process: never once it is dead, later while it is paused. */
  inProcess(then: () => void): void {
    if (this.dead) return;
    if (this.paused) this.world.after(this.pausedUntilMs - this.world.now(), () => this.inProcess(then));
    else then();
  }

  crash(): void {
    this.dead = true;
  }

  pause(ms: number): void {
    this.pausedUntilMs = this.world.now() + ms;
  }
}
