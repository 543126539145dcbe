/**
 * Takes accepted sockets and lets clients bring messages by LMTP or SMTP: smtp-server, mended (see conversation.ts), without its
 * listener, its DNS and its way of closing. Must never cut a message that is being settled before the drain's limit.
 */
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { SMTPServer } from 'smtp-server';
import { Conversation, type ConversationLimits, type ConversationTools } from './conversation.ts';
import type { TransactionLimits, TransactionTools } from './transaction.ts';

export interface ReceiverLimits extends TransactionLimits, ConversationLimits {}

export const receiverLimits: ReceiverLimits = {
  maxBytes: 100 * 1024 * 1024,
  maxHops: 50,
  maxOwnHops: 10,
  bareNewline: 'normalise',
  maxRecipients: 1000,
  verifyTimeoutMs: 30_000,
  deliverTimeoutMs: 540_000, // RFC 5321 §4.5.3.2.6: the client waits ten minutes
  idleTimeoutMs: 300_000, // RFC 5321 §4.5.3.2.7
  stallTimeoutMs: 180_000, // RFC 5321 §4.5.3.2.5
  bodyTimeoutMs: 3_600_000,
  commandLineBytes: 4096,
  maxIdleCommands: 200,
  maxRefusals: 100,
};

export interface ReceiverOptions extends Omit<TransactionTools, 'limits'> {
  /** What is left out is as in `receiverLimits`. */
  readonly limits?: Partial<ReceiverLimits>;
  /** Whether nodes and storage carry UTF-8 addresses (RFC 6531). */
  readonly smtpUtf8?: boolean;
  /** Asked at each STARTTLS; null: not offered. */
  readonly tls?: () => SecureContext | null;
}

export interface Receiver {
  /** Greets at once. `remote` is the client where another than the socket's peer is believed (PROXY). */
  accept(socket: Socket, remote?: { readonly address: string; readonly port: number }): void;
  /** No new messages; those under way may finish for so long, then all is cut. Idempotent. */
  drain(limitMs: number): Promise<void>;
  connections(): number;
}

export function createReceiver(options: ReceiverOptions): Receiver {
  return new OurReceiver(options);
}

/** Commands of the library that a stranger has no business with (the last four are jokes of old). */
const disabled = ['AUTH', 'XCLIENT', 'XFORWARD', 'WIZ', 'SHELL', 'KILL', 'DEBUG'];

class OurServer extends SMTPServer {
  readonly #tools: ConversationTools;
  readonly conversations = new Set<Conversation>();

  constructor(tools: ConversationTools) {
    const { kind, name, limits } = tools.transaction;
    super({
      lmtp: kind === 'lmtp',
      name,
      logger: false,
      disableReverseLookup: true,
      disabledCommands: [...disabled],
      hideENHANCEDSTATUSCODES: false,
      heloResponse: '%s',
      size: limits.maxBytes,
      // Our own deadlines do its work; the library still takes the smaller of this and 5 s for a client that won't go.
      socketTimeout: tools.limits.idleTimeoutMs,
      maxCommandLength: tools.limits.commandLineBytes,
    });
    this.#tools = tools;
    // The library's test key is public: better no TLS than that one. STARTTLS puts ours here.
    this.secureContext.clear();
    this.on('error', error => tools.transaction.log.debug({ error }, 'a client connection broke'));
  }

  override connect(
    socket: Socket,
    options: { remoteAddress?: string; remotePort?: number } | null = null,
  ): void {
    const conversation = new Conversation(this, socket, this.#tools, options ?? {});
    this.connections.add(conversation);
    this.conversations.add(conversation);
    conversation.on('error', error => this._onError(error));
    conversation.init();
  }
}

class OurReceiver implements Receiver {
  readonly #options: ReceiverOptions;
  readonly #server: OurServer;
  readonly #sweepMs: number;
  #draining: Promise<void> | null = null;
  #settling = 0;
  #cancelSweep: (() => void) | null = null;
  #onQuiet: (() => void) | null = null;

  constructor(options: ReceiverOptions) {
    this.#options = options;
    const limits = { ...receiverLimits, ...options.limits };
    this.#sweepMs = Math.max(
      10,
      Math.min(1000, limits.idleTimeoutMs / 4, limits.stallTimeoutMs / 4, limits.bodyTimeoutMs / 4),
    );
    this.#server = new OurServer({
      transaction: { ...options, limits },
      limits,
      smtpUtf8: options.smtpUtf8 ?? false,
      tls: options.tls ?? (() => null),
      draining: () => this.#draining !== null,
      onClosed: conversation => this.#forget(conversation),
      onSettling: delta => {
        this.#settling += delta;
        this.#tellQuiet();
      },
    });
  }

  accept(socket: Socket, remote?: { readonly address: string; readonly port: number }): void {
    // Our listener leaves it open when the client ends its side, as a relay wants it. Here nobody would ever close it: a client that
    // went without QUIT held its place until a timeout, and a drain to its limit. Read at the end; a TLS socket on top inherits it.
    socket.allowHalfOpen = false;
    this.#server.connect(
      socket,
      remote === undefined ? null : { remoteAddress: remote.address, remotePort: remote.port },
    );
    this.#cancelSweep ??= this.#options.clock.after(this.#sweepMs, () => this.#sweep());
  }

  connections(): number {
    return this.#server.conversations.size;
  }

  drain(limitMs: number): Promise<void> {
    this.#draining ??= this.#drain(limitMs);
    return this.#draining;
  }

  async #drain(limitMs: number): Promise<void> {
    // `#draining` is set once this has returned its promise: only then may conversations ask.
    await Promise.resolve();
    for (const conversation of this.#server.conversations) conversation.drain();
    await new Promise<void>(resolve => {
      const cancel = this.#options.clock.after(limitMs, () => {
        for (const conversation of this.#server.conversations) conversation.cut();
        resolve();
      });
      this.#onQuiet = () => {
        cancel();
        resolve();
      };
      this.#tellQuiet();
    });
    this.#cancelSweep?.();
    this.#cancelSweep = null;
  }

  #sweep(): void {
    const { clock } = this.#options;
    const nowMs = clock.now();
    for (const conversation of this.#server.conversations) conversation.expire(nowMs);
    this.#cancelSweep = this.connections() === 0 ? null : clock.after(this.#sweepMs, () => this.#sweep());
  }

  #forget(conversation: Conversation): void {
    this.#server.conversations.delete(conversation);
    this.#tellQuiet();
  }

  #tellQuiet(): void {
    if (this.connections() === 0 && this.#settling === 0) this.#onQuiet?.();
  }
}
