/**
 * What a protocol's dialect does for the session machine: it reads the client's bytes and says what to do next, in the client's own
 * protocol. One a session, dropped when the relay starts. Must never touch a socket, a clock or the cluster: bytes in, steps out.
 */
import type { LoggedIn, LoginOptions, LoginResult, Refused } from '../backend/session-login.ts';
import type { Failure } from '../core/failure.ts';
import type { Credentials } from '../wire/sasl.ts';

export type Step =
  | { readonly kind: 'say'; readonly text: string }
  /** Say it, drop what was pipelined behind it, shake hands. */
  | { readonly kind: 'starttls'; readonly text: string }
  /** Ends in exactly one of `welcome`, `refused`, `failed`. */
  | { readonly kind: 'login'; readonly credentials: Credentials }
  /** The last word, and how the log names this end. */
  | { readonly kind: 'end'; readonly text: string; readonly end: string };

export interface Dialect {
  greeting(): string;
  /** The client's bytes. They are read by `next`, which gives null until there is a whole command. */
  push(bytes: Buffer): void;
  next(): Step | null;
  /** Bytes held unread. */
  readonly heldBytes: number;
  /** Takes the bytes that were not read. */
  rest(): Buffer;
  /** TLS is up; what was known of the client before counts no more. */
  secured(): void;
  logIn(options: LoginOptions): Promise<LoginResult>;
  /** The node's answers to its login, and ours, in latin1. */
  welcome(login: LoggedIn): string;
  refused(answer: Pick<Refused, 'code' | 'text'>): string;
  failed(failure: Failure): string;
  /** For an end that the client did not ask for. */
  goodbye(failure: Failure): string;
}

/** What a dialect must know of its connection. */
export interface DialectFacts {
  readonly canStartTls: boolean;
  /** Passwords may cross this connection without TLS. */
  readonly plaintextAllowed: boolean;
}
