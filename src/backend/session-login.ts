/**
 * Logs a user in at a node's IMAP port with the credentials the client gave, and hands back the open connection.
 * Below `session/attach`, above the wire. Each wait has its own deadline, because silence and refusal are different evidence:
 *
 *     connect (connectMs) → greeting (greetingMs) → LOGIN or AUTHENTICATE PLAIN (replyMs) → tagged OK | NO | neither
 *
 * Must never take an outage for a refusal (promise 6): only the node's own tagged NO is one. Must never log or keep the secret.
 */
import { connect, type Socket } from 'node:net';
import type { FailureKind } from '../core/failure.ts';
import type { Evidence } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import {
  capabilitySet,
  type ResponseCode,
  type ResponseEvent,
  ResponseParser,
} from '../wire/imap-response.ts';
import { type Credentials, writePlain } from '../wire/sasl.ts';

export interface LoginTimes {
  readonly connectMs: number;
  readonly greetingMs: number;
  /** Longer than the cluster file system's own failover: while that runs every node is silent (design §3). */
  readonly replyMs: number;
}

export const defaultLoginTimes: LoginTimes = { connectMs: 3000, greetingMs: 15_000, replyMs: 60_000 };

export interface LoginOptions {
  readonly address: string;
  readonly port: number;
  readonly credentials: Credentials;
  readonly times: LoginTimes;
  readonly clock: Clock;
  /** The client has gone, or the barrier wants the user elsewhere: breaks off at once. */
  readonly signal: AbortSignal;
}

export interface LoggedIn {
  readonly kind: 'ok';
  /** Paused, without listeners but one for errors; `leftover` was read from it beyond the OK. */
  readonly socket: Socket;
  readonly code: ResponseCode | null;
  readonly text: string;
  /** Untagged responses that came with the answer, as they came. */
  readonly untagged: readonly UntaggedLine[];
  readonly leftover: Buffer;
}

export interface UntaggedLine {
  readonly name: string;
  readonly code: ResponseCode | null;
  readonly text: string;
  readonly raw: Buffer;
}

export interface Refused {
  readonly kind: 'refused';
  readonly code: ResponseCode | null;
  readonly text: string;
}

export interface LoginFailed {
  readonly kind: 'failed';
  readonly failure: FailureKind;
  /** For the health of the node; null where it says nothing about it (we broke off ourselves). */
  readonly evidence: Evidence | null;
  /** For the log, never for the client: an errno, a node's line. */
  readonly why: string;
}

export type LoginResult = LoggedIn | Refused | LoginFailed;

/** What the node may send with its answer before we call it broken. */
const untaggedLimit = 32;

/** Never rejects. Every way out but `ok` has closed the connection. */
export function logInToImap(options: LoginOptions): Promise<LoginResult> {
  return new Promise(resolve => {
    if (options.signal.aborted) resolve(broken('aborted', null, 'broken off'));
    else new ImapLogin(options, resolve).start();
  });
}

function broken(failure: FailureKind, evidence: Evidence | null, why: string): LoginFailed {
  return { kind: 'failed', failure, evidence, why };
}

type Phase = 'connect' | 'greeting' | 'capability' | 'reply' | 'done';

const tag = 'h';
const capabilityTag = 'c';

class ImapLogin {
  readonly #options: LoginOptions;
  readonly #resolve: (result: LoginResult) => void;
  readonly #socket: Socket;
  readonly #parser = new ResponseParser();
  #phase: Phase = 'connect';
  #cancelTimer: () => void = () => {};
  /** What goes out at the node's next `+`, in order. */
  #waiting: Buffer[] = [];
  #untagged: UntaggedLine[] = [];
  #capabilities: ReadonlySet<string> | null = null;

  constructor(options: LoginOptions, resolve: (result: LoginResult) => void) {
    this.#options = options;
    this.#resolve = resolve;
    this.#socket = connect({ host: options.address, port: options.port, noDelay: true, allowHalfOpen: true });
  }

  start(): void {
    const { times, signal } = this.#options;
    this.#await('connect', times.connectMs);
    this.#socket.on('connect', this.#onConnect);
    this.#socket.on('data', this.#onBytes);
    this.#socket.on('end', this.#onEnd);
    this.#socket.on('error', this.#onError);
    signal.addEventListener('abort', this.#onAbort);
  }

  readonly #onConnect = (): void => this.#await('greeting', this.#options.times.greetingMs);
  readonly #onAbort = (): void => this.#end(broken('aborted', null, 'broken off'));
  readonly #onEnd = (): void => this.#brokeOff('closed by the node');
  readonly #onError = (error: NodeJS.ErrnoException): void => this.#brokeOff(error.code ?? error.message);

  readonly #onBytes = (bytes: Buffer): void => {
    this.#parser.push(bytes);
    while (this.#phase !== 'done') {
      const event = this.#parser.next();
      if (event === null) return;
      this.#take(event);
    }
  };

  #await(phase: Phase, ms: number): void {
    this.#phase = phase;
    this.#cancelTimer();
    this.#cancelTimer = this.#options.clock.after(ms, () => this.#timeOut(ms));
  }

  #timeOut(ms: number): void {
    const phase = this.#phase;
    if (phase === 'connect')
      this.#end(broken('node-unreachable', 'connect-failed', `no connection within ${ms} ms`));
    else if (phase === 'greeting')
      this.#end(broken('node-silent', 'greeting-timeout', `no greeting within ${ms} ms`));
    else this.#end(broken('node-silent', 'reply-timeout', `no answer to the login within ${ms} ms`));
  }

  /** Refused connections, resets and early ends: each is evidence at once (design §3). */
  #brokeOff(why: string): void {
    if (this.#phase === 'connect') this.#end(broken('node-unreachable', 'connect-failed', why));
    else if (this.#phase === 'greeting')
      this.#end(broken('node-broke-off', 'connect-failed', `before the greeting: ${why}`));
    // After the greeting a single user's mailbox may be what breaks the connection: weaker evidence.
    else this.#end(broken('node-broke-off', 'explicit-error', `before its answer: ${why}`));
  }

  #take(event: ResponseEvent): void {
    if (event.kind === 'fatal') this.#end(broken('node-refused', 'explicit-error', event.why));
    else if (event.kind === 'untagged' && event.name === 'BYE')
      this.#end(
        broken(
          'node-refused',
          'explicit-error',
          this.#phase === 'reply' ? 'BYE to the login' : `BYE ${event.text}`,
        ),
      );
    else if (this.#phase === 'greeting') this.#greeted(event);
    else if (event.kind === 'continue') this.#continue();
    else if (event.kind === 'untagged') this.#note(event);
    else if (event.tag === capabilityTag && this.#phase === 'capability') this.#logIn();
    else if (event.tag === tag && this.#phase === 'reply') this.#answered(event);
    else this.#end(broken('node-refused', 'explicit-error', 'an answer to nothing we asked'));
  }

  #greeted(event: ResponseEvent): void {
    if (event.kind !== 'untagged' || event.name !== 'OK') {
      // PREAUTH (RFC 9051 §7.1.4) would make every client that one user.
      this.#end(broken('node-refused', 'explicit-error', 'no IMAP greeting that asks for a login'));
      return;
    }
    this.#await('capability', this.#options.times.replyMs);
    this.#note(event);
    if (this.#capabilities !== null) this.#logIn();
    else this.#socket.write(`${capabilityTag} CAPABILITY\r\n`);
  }

  #note(event: Extract<ResponseEvent, { kind: 'untagged' }>): void {
    if (event.name === 'CAPABILITY') this.#capabilities = capabilitySet(event.text);
    else if (event.code?.name === 'CAPABILITY') this.#capabilities = capabilitySet(event.code.value);
    if (this.#phase !== 'reply') return;
    if (this.#untagged.length >= untaggedLimit)
      this.#end(broken('node-refused', 'explicit-error', 'too many untagged responses'));
    else this.#untagged.push({ name: event.name, code: event.code, text: event.text, raw: event.raw });
  }

  /** A literal or SASL response goes out when asked for. An unasked `+` is a node out of step. */
  #continue(): void {
    const next = this.#waiting.shift();
    if (next !== undefined) this.#socket.write(next);
    else this.#end(broken('node-refused', 'explicit-error', 'a continuation that nothing waits for'));
  }

  #logIn(): void {
    const command = writeLogin(this.#options.credentials, this.#capabilities ?? new Set());
    if (!command.ok) {
      this.#end(broken('node-refused', 'explicit-error', command.why));
      return;
    }
    const [first, ...later] = command.parts;
    this.#waiting = later;
    this.#untagged = [];
    this.#await('reply', this.#options.times.replyMs);
    if (first !== undefined) this.#socket.write(first);
  }

  #answered({ status, code, text }: Extract<ResponseEvent, { kind: 'tagged' }>): void {
    if (status === 'OK') {
      const leftover = this.#parser.rest();
      this.#end({ kind: 'ok', socket: this.#socket, code, text, untagged: this.#untagged, leftover });
    } else if (status === 'NO' && code?.name !== 'REFERRAL') this.#end({ kind: 'refused', code, text });
    // Its text is not kept: it may quote the command. A referral would lead the client past us; BAD means that the node did not understand us. Neither is a wrong password.
    else this.#end(broken('node-refused', 'explicit-error', `${status} ${code?.name ?? ''} to the login`));
  }

  #end(result: LoginResult): void {
    if (this.#phase === 'done') return;
    this.#phase = 'done';
    this.#cancelTimer();
    this.#waiting = [];
    const socket = this.#socket;
    this.#options.signal.removeEventListener('abort', this.#onAbort);
    socket.off('connect', this.#onConnect);
    socket.off('data', this.#onBytes);
    socket.off('end', this.#onEnd);
    socket.on('error', ignore);
    socket.off('error', this.#onError);
    if (result.kind === 'ok') socket.pause();
    else if (result.kind === 'refused') this.#sayGoodbye();
    // Node would reset a socket that is still connecting only once it is connected: minutes later, or never.
    else if (socket.connecting) socket.destroy();
    else socket.resetAndDestroy();
    this.#resolve(result);
  }

  /** Polite, so that the node logs no lost connection for each wrong password. */
  #sayGoodbye(): void {
    const socket = this.#socket;
    socket.end('z LOGOUT\r\n');
    socket.resume();
    const cancel = this.#options.clock.after(1000, () => socket.destroy());
    socket.once('close', cancel);
  }
}

function ignore(): void {}

type LoginCommand =
  | { readonly ok: true; readonly parts: readonly Buffer[] }
  | { readonly ok: false; readonly why: string };

/** The login in the parts that the node asks for one by one. Chosen by what it offers; RFC 9051 §6.2.2, §6.2.3, RFC 4959. */
export function writeLogin(credentials: Credentials, offered: ReadonlySet<string>): LoginCommand {
  const canPlain = offered.has('AUTH=PLAIN');
  const canLogin = !offered.has('LOGINDISABLED');
  const needsPlain = credentials.authzid.length > 0;
  if (canPlain && (needsPlain || credentials.form === 'plain' || !canLogin)) {
    const message = writePlain(credentials);
    const parts = offered.has('SASL-IR')
      ? [`${tag} AUTHENTICATE PLAIN ${message}\r\n`]
      : [`${tag} AUTHENTICATE PLAIN\r\n`, `${message}\r\n`];
    return { ok: true, parts: parts.map(part => Buffer.from(part, 'latin1')) };
  }
  if (needsPlain)
    return { ok: false, why: 'the node offers no AUTH=PLAIN, which an authorization identity needs' };
  if (!canLogin) return { ok: false, why: 'the node allows no login without TLS (LOGINDISABLED)' };
  return { ok: true, parts: loginParts(credentials, offered) };
}

function loginParts({ name, secret }: Credentials, offered: ReadonlySet<string>): Buffer[] {
  const anySize = offered.has('LITERAL+');
  const small = anySize || offered.has('LITERAL-');
  const parts: Buffer[][] = [[Buffer.from(`${tag} LOGIN `)]];
  const add = (bytes: Buffer) => parts.at(-1)?.push(bytes);
  for (const [index, value] of [name, secret.reveal()].entries()) {
    if (index > 0) add(Buffer.from(' '));
    if (isQuotable(value)) add(Buffer.from(`"${value.toString('latin1').replace(/["\\]/g, '\\$&')}"`));
    else if (anySize || (small && value.length <= 4096))
      add(Buffer.concat([Buffer.from(`{${value.length}+}\r\n`), value]));
    else {
      add(Buffer.from(`{${value.length}}\r\n`));
      parts.push([value]);
    }
  }
  add(Buffer.from('\r\n'));
  return parts.map(pieces => Buffer.concat(pieces));
}

/** Printable ASCII, short: anything else goes as a literal, which carries every byte but NUL. */
function isQuotable(value: Buffer): boolean {
  return value.length <= 512 && value.every(byte => byte >= 0x20 && byte < 0x7f);
}
