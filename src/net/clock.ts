/**
 * The only real time and chance in the program. Everything above takes a `Clock`, so tests and the simulation can lend their own.
 */
import { randomBytes } from 'node:crypto';

export interface Clock {
  /** Monotonic, ms with fractions; origin is arbitrary. All deadlines are on it. */
  now(): number;
  /** Unix time, ms; may jump. For names, headers and files only, never for deadlines. */
  wall(): number;
  /** A number in [0, 1). For jitter only. */
  chance(): number;
  /** `bytes` random bytes as lower-case hex. */
  token(bytes: number): string;
  /** Runs `then` once after `ms`. Returns the function that cancels it. The timer keeps the process alive. */
  after(ms: number, then: () => void): () => void;
}

export const realClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  chance: () => Math.random(),
  token: bytes => randomBytes(bytes).toString('hex'),
  after: (ms, then) => {
    const timer = setTimeout(then, ms);
    return () => clearTimeout(timer);
  },
};
