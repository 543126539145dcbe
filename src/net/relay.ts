/**
 * The opaque way of bytes between a client and its node after login. Nothing is ever injected: a literal may be under way, or
 * COMPRESS hides all, so death, move and kick are a plain close (design §5). This is the way on public streams; `createRelay` is the
 * one seam behind which another may stand.
 *
 *     flowing ──one side's FIN──▶ half-closed ──the other's FIN──▶ ended          (after a while without progress: ended)
 *        └── close(reason) ──▶ closing: FIN to the node, client closed ──node's FIN or RST, or quietMs──▶ ended
 *
 * While `isLive` says no (our lease is over) nothing is passed on; it goes on where the lease is renewed (barrier §5). Must never
 * hold more than a socket's buffers for a slow reader.
 */
import type { Socket } from 'node:net';
import type { Clock } from './clock.ts';

export interface RelayOptions {
  readonly clock: Clock;
  /** What the client sent behind its login; goes to the node first. */
  readonly toNode: Buffer;
  /** What is for the client before the node's next byte: the answer to its login, and what the node sent behind it. */
  readonly toClient: Buffer;
  /** The client's FIN was seen before the relay began. */
  readonly clientEnded: boolean;
  /** False while the lease is over, or once the entry is to be closed: asked before each chunk is passed on. Cheap. */
  readonly isLive: () => boolean;
  /** How long a closed node may take for its end of the connection (`move.quiet`). */
  readonly quietMs: number;
  /** After one side's end, how long the other may be without progress. */
  readonly lingerMs?: number;
  /** Called once. */
  readonly onEnd: (end: RelayEnd) => void;
}

export interface RelayEnd {
  /** `client-closed`, `node-closed` (whose FIN came first), `client-reset`, `node-reset`, or the reason given to `close`. */
  readonly why: string;
  /** The node's own FIN or RST was seen: it is quiet for certain. */
  readonly nodeEnded: boolean;
  /** From the client to the node, and back. */
  readonly bytesIn: number;
  readonly bytesOut: number;
}

export interface Relay {
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** The first reason counts. `onEnd` comes within `quietMs`. */
  close(reason: string): void;
  /** After `close`: no more time. The node's side is reset before this returns. */
  cut(): void;
}

/** RFC 9051 §5.4: a client may be silent for 30 minutes. Only probes of the peer's system tell that it is gone. */
const clientProbeMs = 30 * 60_000;
const nodeProbeMs = 2 * 60_000;
const defaultLingerMs = 60_000;
const heldLookMs = 50;
const heldLimitMs = 30_000;

export function createRelay(client: Socket, node: Socket, options: RelayOptions): Relay {
  return new StreamRelay(client, node, options);
}

class StreamRelay implements Relay {
  readonly #client: Socket;
  readonly #node: Socket;
  // Single fields, not the options: those hold the pipelined bytes, which must not live as long as the session.
  readonly #clock: Clock;
  readonly #isLive: () => boolean;
  readonly #onEnd: (end: RelayEnd) => void;
  readonly #quietMs: number;
  readonly #lingerMs: number;
  #why: string | null = null;
  #closing = false;
  #clientEnded = false;
  #nodeEnded = false;
  #finished = false;
  #cancelTimer: (() => void) | null = null;
  /** Chunks that came while we were not live: at most one from each side, since both are paused then. */
  readonly #held: { readonly chunk: Buffer; readonly from: Socket; readonly to: Socket }[] = [];
  #cancelLook: (() => void) | null = null;
  bytesIn = 0;
  bytesOut = 0;

  constructor(client: Socket, node: Socket, options: RelayOptions) {
    this.#client = client;
    this.#node = node;
    this.#clock = options.clock;
    this.#isLive = options.isLive;
    this.#onEnd = options.onEnd;
    this.#quietMs = options.quietMs;
    this.#lingerMs = options.lingerMs ?? defaultLingerMs;
    client.setKeepAlive(true, clientProbeMs);
    node.setKeepAlive(true, nodeProbeMs);
    this.#listen();
    if (options.toNode.length > 0) this.#pass(options.toNode, client, node);
    if (options.toClient.length > 0) this.#pass(options.toClient, node, client);
    // Ends that came between the login and us are not told again.
    if (client.destroyed) this.#clientGone('client-reset');
    else if (options.clientEnded) this.#clientEnd();
    if (node.destroyed || node.readableEnded) this.#nodeEnd();
    this.#resume();
  }

  close(reason: string): void {
    if (this.#closing || this.#finished) return;
    this.#closing = true;
    this.#why ??= reason;
    this.#letGo();
    this.#cancelTimer = this.#clock.after(this.#quietMs, () => this.#finish());
    // What the node still says is read and dropped, so that its FIN is seen however slow the client is.
    this.#node.resume();
    this.#node.end();
    this.#client.pause();
    this.#client.end();
    if (this.#node.readableEnded) this.#nodeEnd();
    if (this.#nodeEnded) this.#settle();
  }

  cut(): void {
    this.#closing = true;
    this.#why ??= 'cut';
    this.#finish();
  }

  #listen(): void {
    const client = this.#client;
    const node = this.#node;
    client.on('data', chunk => this.#pass(chunk, client, node));
    node.on('data', chunk => this.#pass(chunk, node, client));
    client.on('drain', () => this.#resume());
    node.on('drain', () => this.#resume());
    client.on('end', () => this.#clientEnd());
    node.on('end', () => this.#nodeEnd());
    client.on('finish', () => this.#settle());
    client.on('error', () => this.#clientGone('client-reset'));
    node.on('error', () => this.#nodeGone('node-reset'));
    client.on('close', () => this.#clientGone('client-closed'));
    node.on('close', () => this.#nodeGone('node-closed'));
  }

  #pass(chunk: Buffer, from: Socket, to: Socket): void {
    if (this.#closing || this.#finished) return;
    if (this.#held.length > 0 || !this.#isLive()) {
      this.#hold(chunk, from, to);
      return;
    }
    if (from === this.#client) this.bytesIn += chunk.length;
    else this.bytesOut += chunk.length;
    if (to.writable && !to.write(chunk)) from.pause();
  }

  /** Reads on, each side as far as the other takes it. */
  #resume(): void {
    if (this.#closing || this.#finished || this.#held.length > 0) return;
    if (!this.#client.writableNeedDrain) this.#node.resume();
    if (!this.#node.writableNeedDrain) this.#client.resume();
  }

  #hold(chunk: Buffer, from: Socket, to: Socket): void {
    this.#held.push({ chunk, from, to });
    this.#client.pause();
    this.#node.pause();
    if (this.#held.length === 1) this.#lookAgain(this.#clock.now() + heldLimitMs);
  }

  #lookAgain(untilMs: number): void {
    this.#cancelLook = this.#clock.after(heldLookMs, () => {
      if (this.#isLive()) this.#goOn();
      // The cluster closes us long before; this is the belt.
      else if (this.#clock.now() >= untilMs) this.close('lease-lost');
      else this.#lookAgain(untilMs);
    });
  }

  #goOn(): void {
    for (const { chunk, from, to } of this.#held.splice(0)) this.#pass(chunk, from, to);
    if (this.#client.readableEnded) this.#clientEnd();
    if (this.#node.readableEnded) this.#nodeEnd();
    this.#resume();
  }

  #clientEnd(): void {
    // Behind a held chunk: its turn comes in `goOn`.
    if (this.#clientEnded || this.#held.length > 0) return;
    this.#clientEnded = true;
    this.#why ??= 'client-closed';
    this.#node.end();
    this.#settle();
  }

  #nodeEnd(): void {
    if (this.#nodeEnded || (this.#held.length > 0 && !this.#closing)) return;
    this.#nodeEnded = true;
    this.#why ??= 'node-closed';
    this.#client.end();
    this.#settle();
  }

  /** The client cannot be written to any more: the node's side is closed as well. */
  #clientGone(why: string): void {
    this.#clientEnded = true;
    if (this.#nodeEnded) this.#finish();
    else this.close(why);
  }

  /** The node takes nothing any more, so the client has nothing more to say; it still gets what the node said. */
  #nodeGone(why: string): void {
    this.#nodeEnded = true;
    this.#clientEnded = true;
    this.#why ??= why;
    this.#client.end();
    this.#settle();
  }

  /** One side has ended, or both: ends the relay now, or when the other stops making progress. */
  #settle(): void {
    if (this.#finished) return;
    if (this.#closing) {
      if (this.#nodeEnded) this.#finish();
    } else if (this.#nodeEnded && this.#clientEnded && this.#client.writableFinished) this.#finish();
    else if (this.#nodeEnded || this.#clientEnded) this.#watchProgress(this.#progress());
  }

  #watchProgress(before: number): void {
    this.#cancelTimer?.();
    this.#cancelTimer = this.#clock.after(this.#lingerMs, () => {
      const now = this.#progress();
      if (now === before) this.#finish();
      else this.#watchProgress(now);
    });
  }

  /** Changes while bytes move, also while one side merely takes what was written long ago. */
  #progress(): number {
    return 2 * (this.bytesIn + this.bytesOut) - this.#client.writableLength - this.#node.writableLength;
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    // Before the reset: Node tells its close within it, as if the node had ended by itself.
    const nodeEnded = this.#nodeEnded;
    this.#letGo();
    // Without its own end the node gets a reset: nothing that we sent may still be worked on as if we were there.
    if (nodeEnded) this.#node.destroySoon();
    // A FIN that is being sent cannot be turned into a reset (libuv: EINVAL, and the descriptor would stay open).
    else if (this.#isEndUnderWay()) this.#node.destroy();
    else this.#node.resetAndDestroy();
    this.#dismissClient();
    const { bytesIn, bytesOut } = this;
    this.#onEnd({ why: this.#why ?? 'ended', nodeEnded, bytesIn, bytesOut });
  }

  #isEndUnderWay(): boolean {
    const { writableEnded, writableFinished, writableLength } = this.#node;
    return writableEnded && !writableFinished && writableLength === 0;
  }

  #letGo(): void {
    this.#held.length = 0;
    this.#cancelLook?.();
    this.#cancelTimer?.();
    this.#cancelLook = null;
    this.#cancelTimer = null;
  }

  /** It gets what was written, if it takes it soon. */
  #dismissClient(): void {
    const client = this.#client;
    client.resume();
    client.destroySoon();
    if (client.destroyed) return;
    const cancel = this.#clock.after(this.#quietMs, () => client.destroy());
    client.once('close', cancel);
  }
}
