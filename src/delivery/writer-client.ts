/**
 * The serving process's side of the writer's socket: a bounded number of connections, one request at a time on each, opened when needed
 * and again when the writer was replaced. Each question gets exactly one answer by its deadline, and it says whether the writer may have
 * acted on it: `sent` is true once the whole request was handed over.
 *
 *   ask ─link free or opened→ sending ─whole→ sent ─answer→ answered          link is free again
 *    └no link by the deadline→ away      └─ link breaks → broke               link is gone
 *                                        └─ deadline → silent                 sent: the link stays busy until the writer answers, or hangs
 *   A link without progress for `hungAfterMs` is hung: `onHung`, once for that long, so that the parent replaces the writer.
 */
import { connect, type Socket } from 'node:net';
import type { Clock } from '../net/clock.ts';
import type { Body } from './courier.ts';
import {
  createFrameReader,
  encodeFrame,
  parseAnswer,
  type WriterAnswer,
  type WriterRequest,
} from './writer-wire.ts';

export type Asked =
  | { readonly kind: 'answer'; readonly answer: WriterAnswer }
  | { readonly kind: 'broke' | 'silent'; readonly sent: boolean }
  | { readonly kind: 'away' };

export interface WriterClientOptions {
  readonly socketPath: string;
  readonly clock: Clock;
  readonly linksLimit: number;
  readonly hungAfterMs: number;
  readonly onHung: () => void;
}

export interface WriterClient {
  /** Ends by `deadlineAtMs` (monotonic), never rejects. `body` goes with `deliver` only. */
  ask(request: WriterRequest, body: Body | null, deadlineAtMs: number): Promise<Asked>;
  close(): void;
}

/** Questions that wait for a link. More than these are turned away at once. */
const waitingLimit = 10_000;
const reconnectMs = 50;

export function createWriterClient(options: WriterClientOptions): WriterClient {
  const { clock, linksLimit, hungAfterMs } = options;
  const idle: Link[] = [];
  const links = new Set<Link>();
  const waiting: ((link: Link | null) => void)[] = [];
  let opening = 0;
  let hungToldAtMs = Number.NEGATIVE_INFINITY;
  let closed = false;

  function tellHung(): void {
    if (closed || clock.now() - hungToldAtMs < hungAfterMs) return;
    hungToldAtMs = clock.now();
    options.onHung();
  }

  function offer(link: Link): void {
    const next = waiting.shift();
    if (next !== undefined) next(link);
    else idle.push(link);
  }

  /** Opens one more link where somebody waits for it and the bound allows. */
  function grow(): void {
    if (closed || waiting.length <= opening || links.size + opening >= linksLimit) return;
    opening += 1;
    const socket = connect(options.socketPath);
    const failed = (): void => lost(null);
    socket.once('error', () => undefined);
    socket.once('close', failed);
    socket.once('connect', () => {
      socket.off('close', failed);
      opening -= 1;
      if (closed) {
        socket.destroy();
        return;
      }
      const link = new Link(socket, { clock, hungAfterMs, onHung: tellHung, onFree: offer, onGone: lost });
      links.add(link);
      offer(link);
    });
  }

  function lost(link: Link | null): void {
    if (link === null) opening -= 1;
    else {
      links.delete(link);
      const at = idle.indexOf(link);
      if (at >= 0) idle.splice(at, 1);
    }
    // A writer that is being replaced: those who wait have their deadlines.
    if (waiting.length > 0) clock.after(link === null ? reconnectMs : 0, grow);
  }

  function acquire(deadlineAtMs: number): Promise<Link | null> {
    const free = idle.pop();
    if (free !== undefined) return Promise.resolve(free);
    if (closed || waiting.length >= waitingLimit) return Promise.resolve(null);
    return new Promise(resolve => {
      const answer = (link: Link | null): void => {
        cancel();
        resolve(link);
      };
      const cancel = clock.after(Math.max(0, deadlineAtMs - clock.now()), () => {
        waiting.splice(waiting.indexOf(answer), 1);
        resolve(null);
      });
      waiting.push(answer);
      grow();
    });
  }

  return {
    async ask(request, body, deadlineAtMs) {
      const link = clock.now() < deadlineAtMs ? await acquire(deadlineAtMs) : null;
      return link === null ? { kind: 'away' } : link.ask(request, body, deadlineAtMs);
    },
    close() {
      closed = true;
      for (const link of links) link.break();
      for (const answer of waiting.splice(0)) answer(null);
    },
  };
}

interface LinkOptions {
  readonly clock: Clock;
  readonly hungAfterMs: number;
  readonly onHung: () => void;
  readonly onFree: (link: Link) => void;
  readonly onGone: (link: Link) => void;
}

/** The question a link is busy with. `settle` is null once its asker has gone away at its deadline. */
interface Question {
  settle: ((asked: Asked) => void) | null;
  sent: boolean;
  progressAtMs: number;
  cancelDeadline: () => void;
  cancelHung: () => void;
}

class Link {
  private readonly socket: Socket;
  private readonly options: LinkOptions;
  private readonly reader = createFrameReader(parseAnswer);
  private question: Question | null = null;

  constructor(socket: Socket, options: LinkOptions) {
    this.socket = socket;
    this.options = options;
    socket.on('data', (bytes: Buffer) => this.take(bytes));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.options.onGone(this);
      this.end(question => ({ kind: 'broke', sent: question.sent }));
    });
  }

  break(): void {
    this.socket.destroy();
  }

  ask(request: WriterRequest, body: Body | null, deadlineAtMs: number): Promise<Asked> {
    const { clock, hungAfterMs } = this.options;
    return new Promise(settle => {
      const now = clock.now();
      const question: Question = {
        settle,
        sent: false,
        progressAtMs: now,
        cancelDeadline: clock.after(Math.max(0, deadlineAtMs - now), () => this.late(question)),
        cancelHung: clock.after(hungAfterMs, () => this.checkHung(question)),
      };
      this.question = question;
      void this.send(question, request, body);
    });
  }

  /** The asker's deadline. What was not sent whole can't be acted upon, once the link is broken. */
  private late(question: Question): void {
    const { settle, sent } = question;
    question.settle = null;
    settle?.({ kind: 'silent', sent });
    if (!sent) this.break();
  }

  private checkHung(question: Question): void {
    const { clock, hungAfterMs, onHung } = this.options;
    const leftMs = question.progressAtMs + hungAfterMs - clock.now();
    if (leftMs > 0.5) {
      question.cancelHung = clock.after(leftMs, () => this.checkHung(question));
      return;
    }
    onHung();
    this.end(() => ({ kind: 'silent', sent: question.sent }));
    this.break();
  }

  private async send(question: Question, request: WriterRequest, body: Body | null): Promise<void> {
    const head = encodeFrame(request);
    if (body === null || body.memory !== null) {
      this.socket.cork();
      this.socket.write(head);
      if (body?.memory) this.socket.write(body.memory);
      this.socket.uncork();
      question.sent = true;
      return;
    }
    this.socket.write(head);
    try {
      let leftBytes = body.bytes;
      for await (const piece of body.open() as AsyncIterable<Buffer>) {
        leftBytes -= piece.length;
        if (this.question !== question || this.socket.destroyed || leftBytes < 0) break;
        question.sent = leftBytes === 0;
        if (!this.socket.write(piece)) await this.drained();
        question.progressAtMs = this.options.clock.now();
      }
    } catch {
      // The body's file can't be read: the frame stays cut, and the writer drops it with the link.
    }
    if (!question.sent) this.break();
  }

  private drained(): Promise<void> {
    return new Promise(resolve => {
      const go = (): void => {
        this.socket.off('drain', go);
        this.socket.off('close', go);
        resolve();
      };
      this.socket.on('drain', go);
      this.socket.on('close', go);
      if (this.socket.destroyed) go();
    });
  }

  private take(bytes: Buffer): void {
    const events = this.reader.push(bytes);
    if (events === null) {
      this.break();
      return;
    }
    for (const event of events) {
      if (event.kind !== 'header') continue;
      // An early answer would leave a cut frame behind it: this writer speaks out of turn.
      if (this.question === null || !this.question.sent) {
        this.break();
        return;
      }
      this.end(() => ({ kind: 'answer', answer: event.header }));
      this.options.onFree(this);
    }
  }

  private end(asked: (question: Question) => Asked): void {
    const { question } = this;
    if (question === null) return;
    this.question = null;
    question.cancelDeadline();
    question.cancelHung();
    question.settle?.(asked(question));
  }
}
