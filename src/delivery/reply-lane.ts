/**
 * RCPT replies of one client, in the order of its commands, though the questions behind them run side by side.
 * Stands between a conversation's RCPTs and its socket. Must never let a reply overtake an earlier one, nor hold more than its limit.
 */
import type { Reply } from '../core/types.ts';

interface Slot {
  reply: Reply | null;
}

export class ReplyLane {
  readonly #limit: number;
  readonly #send: (reply: Reply) => void;
  #slots: Slot[] = [];
  #onRoom: (() => void) | null = null;
  #onEmpty: (() => void) | null = null;

  constructor(limit: number, send: (reply: Reply) => void) {
    this.#limit = limit;
    this.#send = send;
  }

  get isEmpty(): boolean {
    return this.#slots.length === 0;
  }

  /** Takes the next place. `reply` must not reject. `onRoom` is called once there is a place for another, perhaps at once. */
  add(reply: Reply | Promise<Reply>, onRoom: () => void): void {
    const slot: Slot = { reply: null };
    this.#slots.push(slot);
    if (reply instanceof Promise) {
      void reply.then(late => {
        slot.reply = late;
        this.#flush();
      });
    } else slot.reply = reply;
    this.#onRoom = onRoom;
    this.#flush();
  }

  /** Called once, when all are answered. */
  whenEmpty(then: () => void): void {
    this.#onEmpty = then;
  }

  /** The client is gone, or sent away: nothing more is answered, nothing goes on. */
  drop(): void {
    this.#slots = [];
    this.#onRoom = null;
    this.#onEmpty = null;
  }

  #flush(): void {
    for (let slot = this.#slots[0]; slot !== undefined && slot.reply !== null; slot = this.#slots[0]) {
      this.#slots.shift();
      this.#send(slot.reply);
    }
    if (this.#slots.length < this.#limit) {
      const next = this.#onRoom;
      this.#onRoom = null;
      next?.();
    }
    if (this.#slots.length === 0) {
      const next = this.#onEmpty;
      this.#onEmpty = null;
      next?.();
    }
  }
}
