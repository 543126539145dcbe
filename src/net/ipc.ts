/**
 * Calls and notes between the parent and its children over Node's own process channel.
 * Every call has a deadline and the number under way is bounded; a lost channel answers all of them at once.
 * It carries plain values (structured clone) and never lets an exception of the other side through: what failed is a word.
 */
import assert from 'node:assert/strict';

/** What both `process` (in a child) and `ChildProcess` (in the parent) offer. */
export interface ProcessChannel {
  send?(message: unknown, callback?: (error: Error | null) => void): boolean;
  readonly connected: boolean;
  on(event: 'message', listener: (message: unknown) => void): unknown;
  on(event: 'disconnect', listener: () => void): unknown;
}

export type CallResult =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly why: string };

export type Answer = (args: readonly unknown[]) => unknown;

export interface IpcOptions {
  readonly channel: ProcessChannel;
  /** What the other side may call, by name. May return a promise. */
  readonly answers: Readonly<Record<string, Answer>>;
  /** Called once when the channel is gone. */
  readonly onLost: () => void;
  /** Deadline of a call that names none. */
  readonly timeoutMs: number;
  /** Calls under way at once; one more is answered `busy`. */
  readonly maxPending: number;
}

export interface Ipc {
  /** Never rejects. */
  call(name: string, args: readonly unknown[], timeoutMs?: number): Promise<CallResult>;
  /** Nothing comes back and nothing is awaited; dropped when the channel is gone. */
  note(name: string, args: readonly unknown[]): void;
  readonly isOpen: boolean;
}

interface Pending {
  readonly settle: (result: CallResult) => void;
  readonly timer: NodeJS.Timeout;
}

type Frame =
  | { readonly k: 'call'; readonly id: number; readonly name: string; readonly args: readonly unknown[] }
  | { readonly k: 'note'; readonly name: string; readonly args: readonly unknown[] }
  | { readonly k: 'reply'; readonly id: number; readonly result: CallResult };

function isFrame(message: unknown): message is Frame {
  return typeof message === 'object' && message !== null && 'k' in message;
}

/** Opens both directions on a channel. One `Ipc` a channel. */
export function openIpc(options: IpcOptions): Ipc {
  const { channel, answers, onLost, timeoutMs, maxPending } = options;
  const pending = new Map<number, Pending>();
  let nextId = 1;
  let isOpen = true;

  const lose = () => {
    if (!isOpen) return;
    isOpen = false;
    for (const one of pending.values()) {
      clearTimeout(one.timer);
      one.settle({ ok: false, why: 'channel lost' });
    }
    pending.clear();
    onLost();
  };

  const post = (frame: Frame) => {
    if (!isOpen || !channel.connected) return;
    // A failed send is a lost channel; `disconnect` may come later or never (EPIPE).
    channel.send?.(frame, error => {
      if (error) lose();
    });
  };

  const answerCall = async (frame: Extract<Frame, { k: 'call' }>) => {
    const answer = Object.hasOwn(answers, frame.name) ? answers[frame.name] : undefined;
    if (!answer) {
      post({ k: 'reply', id: frame.id, result: { ok: false, why: `no such call: ${frame.name}` } });
      return;
    }
    try {
      post({ k: 'reply', id: frame.id, result: { ok: true, value: await answer(frame.args) } });
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      post({
        k: 'reply',
        id: frame.id,
        result: { ok: false, why: error instanceof Error ? error.message : String(error) },
      });
    }
  };

  channel.on('message', message => {
    if (!isFrame(message)) return;
    switch (message.k) {
      case 'call':
        void answerCall(message);
        return;
      case 'note': {
        const answer = Object.hasOwn(answers, message.name) ? answers[message.name] : undefined;
        answer?.(message.args);
        return;
      }
      case 'reply': {
        const one = pending.get(message.id);
        if (!one) return; // late: its deadline has passed
        pending.delete(message.id);
        clearTimeout(one.timer);
        one.settle(message.result);
        return;
      }
    }
  });
  channel.on('disconnect', lose);

  return {
    call: (name, args, callTimeoutMs = timeoutMs) =>
      new Promise<CallResult>(settle => {
        if (!isOpen || !channel.connected) return settle({ ok: false, why: 'channel lost' });
        if (pending.size >= maxPending) return settle({ ok: false, why: 'busy' });
        const id = nextId++;
        const timer = setTimeout(() => {
          pending.delete(id);
          settle({ ok: false, why: `no answer to ${name} within ${callTimeoutMs} ms` });
        }, callTimeoutMs);
        pending.set(id, { settle, timer });
        post({ k: 'call', id, name, args });
      }),
    note: (name, args) => post({ k: 'note', name, args }),
    get isOpen() {
      return isOpen;
    },
  };
}
