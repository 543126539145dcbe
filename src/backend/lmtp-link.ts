/**
 * One TCP connection to a node's LMTP port: bytes out, whole replies in, one limit at a time, one fault for its whole life.
 * The LMTP client speaks over it, and decides what a fault means for a message.
 * Must never wait without a limit. Its first fault is the one that counts, and after it nothing more is sent.
 *
 *   connecting ─connected→ open ─break(fault)→ broken          replies that came whole before the fault are still handed out
 *        └─ refused, timeout ──────────────────────↑
 */
import { connect, type Socket } from 'node:net';
import type { Evidence, Reply } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { ReplyReader } from '../wire/smtp-reply.ts';

/** Why a connection is of no more use. `withdrawn` and `body-failed` are ours, the rest is the node's or the network's. */
export interface LmtpFault {
  readonly kind:
    | 'unreachable'
    | 'refused'
    | 'silent'
    | 'broke-off'
    | 'lost-step'
    | 'withdrawn'
    | 'body-failed'
    | 'busy';
  /** What health should hear of it, or null. */
  readonly evidence: Evidence | null;
  /** For the operator: an errno, the node's line. Raw. */
  readonly text: string;
}

export interface LinkOptions {
  /** IP address or DNS name. */
  readonly address: string;
  readonly port: number;
  readonly connectMs: number;
  readonly clock: Clock;
}

/** Replies that came unasked or early: more than this and the node has lost step. */
const unreadRepliesLimit = 4096;

export class LmtpLink {
  fault: LmtpFault | null = null;
  /** Whole replies not yet asked for. */
  readonly unread: Reply[] = [];
  /** Called once, at the fault. */
  onBreak: (() => void) | null = null;
  /** Called when replies arrive that nobody waits for. */
  onUnasked: (() => void) | null = null;

  private readonly socket: Socket;
  private readonly clock: Clock;
  private readonly reader = new ReplyReader();
  private wake: (() => void) | null = null;
  private limitAtMs = Number.POSITIVE_INFINITY;
  private limitMeans: LmtpFault = silentFault('reply-timeout', 'no reply');
  private timerAtMs = Number.POSITIVE_INFINITY;
  private cancelTimer: (() => void) | null = null;
  private connected = false;

  constructor({ address, port, connectMs, clock }: LinkOptions) {
    this.clock = clock;
    this.setLimit(clock.now() + connectMs, unreachable(`no connection within ${connectMs} ms`));
    this.socket = connect({ host: address, port, noDelay: true });
    this.socket.on('connect', () => {
      this.connected = true;
      this.stir();
    });
    this.socket.on('data', chunk => this.take(chunk));
    this.socket.on('drain', () => this.stir());
    this.socket.on('error', error => this.break(this.brokeOff(codeOf(error))));
    this.socket.on('end', () => this.break(this.brokeOff('closed by the node')));
    this.socket.on('close', () => this.break(this.brokeOff('closed')));
  }

  /** False at a fault. */
  async untilConnected(): Promise<boolean> {
    while (!this.connected && this.fault === null) await this.stirred();
    return this.fault === null;
  }

  /** The next reply, or null at a fault. `means`: the fault when `limitAtMs` (monotonic) passes first. */
  async reply(limitAtMs: number, means: Evidence = 'reply-timeout'): Promise<Reply | null> {
    const waiting = this.unread.shift();
    if (waiting !== undefined) return waiting;
    if (this.fault === null) this.setLimit(limitAtMs, silentFault(means, 'no reply in time'));
    while (this.fault === null) {
      await this.stirred();
      const reply = this.unread.shift();
      if (reply !== undefined) return reply;
    }
    return this.unread.shift() ?? null;
  }

  /** True where the kernel took it all for now; else wait for `drained`. `handed` is called once all of it is the kernel's. */
  write(bytes: string | Buffer, handed?: () => void): boolean {
    if (this.fault !== null) return false;
    return this.socket.write(bytes, error => {
      if (!error) handed?.();
    });
  }

  /** Several writes in one system call. */
  together(write: () => void): void {
    this.socket.cork();
    write();
    this.socket.uncork();
  }

  /** False at a fault; the node must take bytes within each `stallMs`. */
  async drained(limitAtMs: number): Promise<boolean> {
    if (this.fault === null) this.setLimit(limitAtMs, silentFault('reply-timeout', 'takes no bytes'));
    while (this.fault === null && this.socket.writableNeedDrain) await this.stirred();
    return this.fault === null;
  }

  /** A limit on something else than the node, while it is waited for; it holds until the next wait or `rest`. */
  limit(atMs: number, means: LmtpFault): void {
    if (this.fault === null) this.setLimit(atMs, means);
  }

  /** Between transactions nothing is waited for, and no timer is left behind. */
  rest(): void {
    this.limitAtMs = Number.POSITIVE_INFINITY;
    this.dropTimer();
  }

  /** RFC 5321 §4.1.1.10, without waiting for the 221: the node has nothing to lose any more. */
  quit(): void {
    if (this.fault !== null) return;
    this.socket.write('QUIT\r\n');
    this.fault = { kind: 'withdrawn', evidence: null, text: 'closed by us' };
    this.rest();
    this.socket.destroySoon();
    this.broken();
  }

  /** Ends it with a reset, so that the kernel sends nothing that is still buffered. The first fault counts. */
  break(fault: LmtpFault): void {
    if (this.fault !== null) return;
    this.fault = fault;
    this.rest();
    if (this.connected && !this.socket.destroyed) this.socket.resetAndDestroy();
    else this.socket.destroy();
    this.broken();
  }

  private broken(): void {
    this.stir();
    this.onBreak?.();
    this.onBreak = null;
  }

  private take(chunk: Buffer): void {
    if (this.fault !== null) return;
    let wrong = this.reader.feed(chunk, this.unread);
    if (this.unread.length > unreadRepliesLimit) wrong = 'replies without end';
    if (wrong !== null) this.break({ kind: 'lost-step', evidence: 'explicit-error', text: wrong });
    else if (this.unread.length === 0) return;
    else if (this.wake !== null) this.stir();
    else this.onUnasked?.();
  }

  private brokeOff(text: string): LmtpFault {
    return this.connected ? { kind: 'broke-off', evidence: null, text } : unreachable(text);
  }

  private stirred(): Promise<void> {
    return new Promise(resolve => {
      this.wake = resolve;
    });
  }

  private stir(): void {
    const wake = this.wake;
    this.wake = null;
    wake?.();
  }

  /** One timer, moved only when a limit comes earlier than it: limits mostly move later, and then it costs nothing. */
  private setLimit(atMs: number, means: LmtpFault): void {
    this.limitAtMs = atMs;
    this.limitMeans = means;
    if (this.timerAtMs <= atMs) return;
    this.dropTimer();
    this.arm(atMs);
  }

  private arm(atMs: number): void {
    this.timerAtMs = atMs;
    this.cancelTimer = this.clock.after(Math.max(0, atMs - this.clock.now()), () => {
      this.timerAtMs = Number.POSITIVE_INFINITY;
      this.cancelTimer = null;
      if (this.limitAtMs === Number.POSITIVE_INFINITY) return;
      // Timers may fire a hair early; a limit that has moved on is waited for again.
      if (this.clock.now() < this.limitAtMs - 1) this.arm(this.limitAtMs);
      else this.break(this.limitMeans);
    });
  }

  private dropTimer(): void {
    this.cancelTimer?.();
    this.cancelTimer = null;
    this.timerAtMs = Number.POSITIVE_INFINITY;
  }
}

function unreachable(text: string): LmtpFault {
  return { kind: 'unreachable', evidence: 'connect-failed', text };
}

function silentFault(evidence: Evidence, text: string): LmtpFault {
  return { kind: 'silent', evidence, text };
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}
