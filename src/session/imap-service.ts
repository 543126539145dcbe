/**
 * The IMAP service: takes accepted sockets, keeps the list of their sessions, closes them one by one or all in a drain.
 * Above it is only the wiring. Must never hold more sessions than `maxSessions`, nor let a drain last beyond its limit by more than
 * the quiet time.
 */
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { defaultLoginTimes, type LoginTimes } from '../backend/session-login.ts';
import type { Admitting, CloseReason } from '../cluster/admission.ts';
import type { UserRules } from '../core/canonical.ts';
import type { NodeName } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { isLoopback } from '../net/listener.ts';
import type { Log } from '../observe/log.ts';
import { type CommandLimits, defaultCommandLimits } from '../wire/imap-command.ts';
import { ImapDialect } from './imap.ts';
import { Session, type SessionRow, type SessionWorld } from './session.ts';

export interface ImapServiceLimits {
  readonly maxSessions: number;
  /** From accept to the node's OK, without the time that we and the node take. */
  readonly preAuthMs: number;
  readonly command: CommandLimits;
  readonly commands: number;
  readonly badCommands: number;
  readonly refusals: number;
  /** What a client may send ahead of the answer to its login. */
  readonly pipelinedBytes: number;
  /** Where passwords may come without TLS. `loopback`: from this machine only. */
  readonly plaintextAuth: 'tls' | 'always' | 'loopback';
}

export const defaultImapLimits: ImapServiceLimits = {
  maxSessions: 50_000,
  preAuthMs: 60_000,
  command: defaultCommandLimits,
  commands: 100,
  badCommands: 10,
  refusals: 5,
  pipelinedBytes: 65_536,
  plaintextAuth: 'loopback',
};

export interface ImapServiceOptions {
  readonly admitting: Admitting;
  readonly userRules: () => UserRules;
  readonly clock: Clock;
  readonly log: Log;
  /** The context for the next handshake; null where there is no certificate. */
  readonly tls: () => SecureContext | null;
  /** The node that this machine is itself, or null. */
  readonly self: NodeName | null;
  readonly limits?: Partial<ImapServiceLimits>;
  readonly times?: Partial<LoginTimes>;
  /** `failover.hold`. */
  readonly holdMs?: number;
  /** `move.quiet`. */
  readonly quietMs?: number;
}

export interface ImapService {
  /** Takes the socket over. `tls`: from the first byte. */
  accept(socket: Socket, mode: 'plain' | 'tls'): void;
  /** At most `limit` rows, the oldest sessions first. */
  list(limit?: number): SessionRow[];
  count(): number;
  /** Closes the sessions that `match` chooses; returns how many. Not for the barrier, which closes by entry. */
  kick(match: (row: SessionRow) => boolean, reason?: CloseReason): number;
  /** No new sessions; the running ones are closed, spread over `limitMs`. Resolves when the last is over. */
  drain(limitMs: number): Promise<void>;
}

const listLimit = 100_000;
const sliceMs = 50;

export function createImapService(options: ImapServiceOptions): ImapService {
  return new Service(options);
}

class Service implements ImapService {
  readonly #world: SessionWorld;
  readonly #limits: ImapServiceLimits;
  readonly #sessions = new Set<Session>();
  #draining = false;
  #onEmpty: (() => void) | null = null;

  constructor(options: ImapServiceOptions) {
    const limits = { ...defaultImapLimits, ...options.limits };
    const { admitting, userRules, clock, log, tls, self } = options;
    this.#limits = limits;
    this.#world = {
      admitting,
      userRules,
      clock,
      log,
      tls,
      self,
      protocol: 'imap',
      times: { ...defaultLoginTimes, ...options.times },
      holdMs: options.holdMs ?? 10_000,
      quietMs: options.quietMs ?? 2000,
      preAuthMs: limits.preAuthMs,
      pipelinedBytes: limits.pipelinedBytes,
      createDialect: facts => new ImapDialect(facts, limits),
      onOver: session => this.#forget(session),
    };
  }

  accept(socket: Socket, mode: 'plain' | 'tls'): void {
    const isTooMany = this.#sessions.size >= this.#limits.maxSessions;
    // A socket without an address is one whose client has left already.
    if (this.#draining || isTooMany || socket.destroyed || socket.remoteAddress === undefined) {
      socket.on('error', () => {});
      socket.destroy();
      if (isTooMany) this.#world.log.warn({ sessions: this.#sessions.size }, 'session turned away: too many');
      return;
    }
    const plaintextAllowed = this.#isPlaintextAllowed(socket.remoteAddress);
    this.#sessions.add(new Session(this.#world, { socket, mode, plaintextAllowed }));
  }

  list(limit: number = listLimit): SessionRow[] {
    const rows: SessionRow[] = [];
    for (const session of this.#sessions) {
      if (rows.length >= limit) break;
      rows.push(session.row());
    }
    return rows;
  }

  count(): number {
    return this.#sessions.size;
  }

  kick(match: (row: SessionRow) => boolean, reason: CloseReason = 'kicked'): number {
    const chosen = [...this.#sessions].filter(session => match(session.row()));
    for (const session of chosen) session.close(reason);
    return chosen.length;
  }

  drain(limitMs: number): Promise<void> {
    this.#draining = true;
    // Who is not logged in yet loses nothing by trying elsewhere at once.
    const relaying: Session[] = [];
    for (const session of [...this.#sessions]) {
      if (session.state === 'relaying') relaying.push(session);
      else session.close('shutdown');
    }
    this.#closeSpread(relaying, 0, Math.max(1, Math.ceil(limitMs / sliceMs)));
    return new Promise(resolve => {
      this.#onEmpty = resolve;
      if (this.#sessions.size === 0) resolve();
    });
  }

  /** So many at a time that the last are closed at the limit: clients come back in a stream, not in a storm. */
  #closeSpread(sessions: readonly Session[], from: number, slices: number): void {
    const to = from + Math.ceil((sessions.length - from) / slices);
    for (const session of sessions.slice(from, to)) session.close('shutdown');
    if (to < sessions.length)
      this.#world.clock.after(sliceMs, () => this.#closeSpread(sessions, to, slices - 1));
  }

  #forget(session: Session): void {
    this.#sessions.delete(session);
    if (this.#sessions.size === 0) this.#onEmpty?.();
  }

  #isPlaintextAllowed(address: string): boolean {
    const { plaintextAuth } = this.#limits;
    return plaintextAuth === 'always' || (plaintextAuth === 'loopback' && isLoopback(address));
  }
}
