/**
 * A client's connection before the relay: bytes in and out, one absolute deadline, and TLS from the start or by STARTTLS.
 * The session above is its sink. Must never buffer without bound: while the client does not read our answers, we don't read it.
 * After `detach` the socket belongs to the relay, and nothing of the channel stays attached to it.
 */
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { Clock } from './clock.ts';
import { wrapServer } from './tls.ts';

export interface ChannelSink {
  onBytes(bytes: Buffer): void;
  /** TLS is up. */
  onSecure(): void;
  /** The client's FIN: it sends no more, but may still read. */
  onEnd(): void;
  onDeadline(): void;
  /** The connection is gone. `error` is an error code or a TLS library's reason, '' for a plain end. */
  onGone(error: string): void;
}

/** After our last word the client has this long to take it. */
const lingerMs = 2000;

export class Channel {
  #socket: Socket;
  readonly #sink: ChannelSink;
  readonly #clock: Clock;
  #cancelDeadline: (() => void) | null = null;
  #paused = false;
  #stuck = false;
  #ended = false;
  #error = '';
  isSecure = false;

  constructor(socket: Socket, sink: ChannelSink, clock: Clock) {
    this.#socket = socket;
    this.#sink = sink;
    this.#clock = clock;
    this.#listen(socket);
  }

  /** On the wall of `clock.now()`: whatever happens, `onDeadline` comes `ms` from now, once. */
  setDeadline(ms: number): void {
    this.#cancelDeadline?.();
    this.#cancelDeadline = this.#clock.after(ms, () => {
      this.#cancelDeadline = null;
      this.#sink.onDeadline();
    });
  }

  /** Latin1, so that what a node said passes byte for byte. */
  write(text: string): void {
    if (this.#ended || this.#socket.destroyed) return;
    if (!this.#socket.write(text, 'latin1') && !this.#stuck) {
      this.#stuck = true;
      this.#settleReading();
    }
  }

  pause(): void {
    this.#paused = true;
    this.#settleReading();
  }

  resume(): void {
    this.#paused = false;
    this.#settleReading();
  }

  /** From the first byte on, or after our `OK` to STARTTLS was written. */
  startTls(context: SecureContext): void {
    const plain = this.#socket;
    this.#unlisten(plain);
    plain.on('error', noteNothing);
    const secure = wrapServer(plain, context);
    this.#socket = secure;
    secure.once('secure', () => {
      this.isSecure = true;
      this.#sink.onSecure();
    });
    this.#listen(secure);
  }

  /** Our last word, then FIN; the connection is closed for certain soon after. */
  end(text: string): void {
    if (this.#ended) return;
    this.#cancelDeadline?.();
    this.#cancelDeadline = null;
    if (text === '') this.#socket.end();
    else this.#socket.end(text, 'latin1');
    this.#ended = true;
    this.#stuck = false;
    // What it still sends is read and dropped: an unread byte would turn our FIN into a reset that eats the last word.
    this.#paused = false;
    this.#socket.resume();
    const cancel = this.#clock.after(lingerMs, () => this.#socket.destroy());
    this.#socket.once('close', cancel);
  }

  destroy(): void {
    this.#cancelDeadline?.();
    this.#cancelDeadline = null;
    this.#socket.destroy();
  }

  /** Hands the socket over, paused and without listeners. The caller attaches its own at once. */
  detach(): Socket {
    this.#cancelDeadline?.();
    this.#cancelDeadline = null;
    this.#socket.pause();
    this.#unlisten(this.#socket);
    return this.#socket;
  }

  #settleReading(): void {
    if (this.#paused || this.#stuck) this.#socket.pause();
    else this.#socket.resume();
  }

  #listen(socket: Socket): void {
    socket.on('data', this.#onBytes);
    socket.on('end', this.#onEnd);
    socket.on('drain', this.#onDrain);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
  }

  #unlisten(socket: Socket): void {
    socket.off('data', this.#onBytes);
    socket.off('end', this.#onEnd);
    socket.off('drain', this.#onDrain);
    socket.off('error', this.#onError);
    socket.off('close', this.#onClose);
  }

  readonly #onBytes = (bytes: Buffer): void => {
    if (!this.#ended) this.#sink.onBytes(bytes);
  };

  readonly #onEnd = (): void => {
    if (!this.#ended) this.#sink.onEnd();
  };

  readonly #onDrain = (): void => {
    this.#stuck = false;
    if (!this.#ended) this.#settleReading();
  };

  readonly #onError = (error: NodeJS.ErrnoException): void => {
    this.#error = error.code ?? error.message;
  };

  readonly #onClose = (): void => {
    this.#cancelDeadline?.();
    this.#cancelDeadline = null;
    this.#sink.onGone(this.#error);
  };
}

function noteNothing(): void {}
