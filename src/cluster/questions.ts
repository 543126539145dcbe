/**
 * How a member talks to the store: one question at a time, and no reply after its timeout.
 * So replies are seen in the order of the store's steps. An old one seen late could end a hold that is still on.
 */
import type { Clock } from '../net/clock.ts';
import type { Refused } from '../storage/store.ts';

export class Questions {
  private asking = false;
  private next: (() => Promise<unknown>) | null = null;
  private wantsMore = false;
  private readonly onIdle: () => void;

  /** `onIdle`: something came in while a question was out, so ask again. */
  constructor(onIdle: () => void) {
    this.onIdle = onIdle;
  }

  get busy(): boolean {
    return this.asking;
  }

  again(): void {
    this.wantsMore = true;
  }

  /** While one is out, the latest other waits for it. */
  async ask(question: () => Promise<unknown>): Promise<void> {
    if (this.asking) {
      this.next = question;
      return;
    }
    this.asking = true;
    await question();
    this.asking = false;
    const { next, wantsMore } = this;
    this.next = null;
    this.wantsMore = false;
    if (next !== null) await this.ask(next);
    else if (wantsMore) this.onIdle();
  }
}

/** A reply that does not come in time is none; the command may have run all the same. Never rejects. */
export function inTime<Reply>(
  reply: Promise<Reply>,
  limitMs: number,
  clock: Clock,
  onError: (error: unknown) => void,
): Promise<Reply | Refused<never>> {
  return new Promise(resolve => {
    const lost: Refused<never> = { ok: false, why: 'unreachable' };
    let cancel = clock.after(limitMs, () => {
      // After a pause of ours the reply may be here already, behind this timer: look once more.
      cancel = clock.after(0, () => resolve(lost));
    });
    reply.then(
      value => {
        cancel();
        resolve(value);
      },
      (error: unknown) => {
        cancel();
        onError(error);
        resolve(lost);
      },
    );
  });
}
