/**
 * Held admissions: a bounded list of logins and deliveries that wait, each with a reason and a limit (design §1, hold).
 * Every waiter ends exactly once: admitted, refused at its limit, or gone with its client. Must never keep one past its deadline.
 */
import type { Clock } from '../net/clock.ts';
import { inSlices } from './actives.ts';
import type { Admission, AdmissionWish } from './admission.ts';

/** What a try to admit gives: done, or why it has to wait. */
export type Tried = { readonly done: Admission } | { readonly wait: Admission & { readonly ok: false } };

interface Waiter {
  readonly wish: AdmissionWish;
  /** The refusal it gets when nothing better comes before its limit. */
  last: Admission & { readonly ok: false };
  readonly resolve: (admission: Admission) => void;
  readonly stopTimer: () => void;
  readonly onAbort: () => void;
}

export class Waiting {
  private readonly waiters = new Set<Waiter>();
  private readonly clock: Clock;
  private readonly limit: number;
  private readonly holdMs: number;
  private readonly tryAdmit: (wish: AdmissionWish) => Tried;
  private trying = false;
  private again = false;

  constructor(options: {
    readonly clock: Clock;
    readonly limit: number;
    readonly holdMs: number;
    readonly tryAdmit: (wish: AdmissionWish) => Tried;
  }) {
    this.clock = options.clock;
    this.limit = options.limit;
    this.holdMs = options.holdMs;
    this.tryAdmit = options.tryAdmit;
  }

  get size(): number {
    return this.waiters.size;
  }

  /** Resolves with the first `done`, at the latest after the hold. */
  add(wish: AdmissionWish, refusal: Admission & { readonly ok: false }): Promise<Admission> {
    if (this.waiters.size >= this.limit) {
      const why = `${refusal.why}; and ${this.limit} others wait already`;
      return Promise.resolve({ ...refusal, why });
    }
    return new Promise(resolve => {
      const waiter: Waiter = {
        wish,
        last: refusal,
        resolve,
        stopTimer: this.clock.after(this.holdMs, () => {
          this.end(waiter, waiter.last);
        }),
        onAbort: () => this.end(waiter, { ...waiter.last, reason: 'aborted', why: 'the client went away' }),
      };
      this.waiters.add(waiter);
      wish.signal?.addEventListener('abort', waiter.onAbort, { once: true });
    });
  }

  /** The view or the proposal changed: everybody tries again, in the order they came, a slice at a time. */
  retry(): void {
    this.again = true;
    if (!this.trying) void this.run();
  }

  /** Nobody waits any longer. */
  refuseAll(reason: 'shutdown', why: string): void {
    for (const waiter of this.waiters) this.end(waiter, { ...waiter.last, reason, why });
  }

  private async run(): Promise<void> {
    this.trying = true;
    while (this.again) {
      this.again = false;
      await inSlices(
        this.waiters,
        waiter => this.tryOne(waiter),
        this.clock,
        () => this.again,
      );
    }
    this.trying = false;
  }

  private tryOne(waiter: Waiter): void {
    const tried = this.tryAdmit(waiter.wish);
    if ('done' in tried) this.end(waiter, tried.done);
    else waiter.last = tried.wait;
  }

  private end(waiter: Waiter, admission: Admission): void {
    if (!this.waiters.delete(waiter)) return;
    waiter.stopTimer();
    waiter.wish.signal?.removeEventListener('abort', waiter.onAbort);
    waiter.resolve(admission);
  }
}
