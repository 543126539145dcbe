/**
 * One client's session, from accept to its log line: the one machine for every protocol; a dialect reads and writes its words.
 *
 *     handshake ◀──STARTTLS── talking ──login──▶ attaching ──node's OK──▶ relaying
 *         └────TLS is up────────▶ ▲ └──────refused, outage──────┘            │
 *                                 └─ last word ─▶ closing ─▶ over ◀──────────┘
 *
 * Must never be without a deadline before the relay, never log a credential, and keep neither parser nor dialect once relaying.
 */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { CloseReason, Entry } from '../cluster/admission.ts';
import { type Failure, logText } from '../core/failure.ts';
import type { Protocol } from '../core/types.ts';
import { Channel, type ChannelSink } from '../net/channel.ts';
import { createRelay, type Relay, type RelayEnd } from '../net/relay.ts';
import type { Log } from '../observe/log.ts';
import { logSession } from '../observe/maillog.ts';
import { type Attached, type AttachWorld, attach, type Whereabouts } from './attach.ts';
import type { Dialect, DialectFacts, Step } from './dialect.ts';

export type SessionState = 'handshake' | 'talking' | 'attaching' | 'relaying' | 'closing' | 'over';

const legal: Readonly<Record<SessionState, readonly SessionState[]>> = {
  handshake: ['talking', 'closing', 'over'],
  talking: ['handshake', 'attaching', 'closing', 'over'],
  attaching: ['talking', 'relaying', 'closing', 'over'],
  relaying: ['over'],
  closing: ['over'],
  over: [],
};

/** What all sessions of a service share. */
export interface SessionWorld extends AttachWorld {
  readonly protocol: Protocol;
  readonly log: Log;
  readonly tls: () => SecureContext | null;
  readonly createDialect: (facts: DialectFacts) => Dialect;
  /** From accept to the node's OK, but for the time that we take ourselves to attach. */
  readonly preAuthMs: number;
  /** What a client may send ahead of the answer to its login. */
  readonly pipelinedBytes: number;
  readonly quietMs: number;
  readonly onOver: (session: Session) => void;
}

export interface SessionStart {
  readonly socket: Socket;
  readonly mode: 'plain' | 'tls';
  readonly plaintextAllowed: boolean;
}

export interface SessionRow extends Whereabouts {
  readonly session: string;
  readonly protocol: Protocol;
  readonly client: string;
  readonly state: SessionState;
  readonly tls: boolean;
  readonly seconds: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

const nowhere: Whereabouts = { user: '', node: null, why: '' };

export class Session implements ChannelSink {
  readonly id: string;
  readonly client: string;
  readonly #world: SessionWorld;
  readonly #mode: 'plain' | 'tls';
  readonly #startedAtMs: number;
  #state: SessionState;
  #at: Whereabouts = nowhere;
  /** How the last login ended, while the session is not relaying: it names the end of a client that then gives up. */
  #lastLogin: 'refused' | 'unavailable' | null = null;
  #end = '';
  #isSecure = false;
  #clientEnded = false;
  #deadlinePassed = false;
  // Both are dropped when the relay starts.
  #channel: Channel | null;
  #dialect: Dialect | null;
  #breakOff: AbortController | null = null;
  #relay: Relay | null = null;
  #entry: Entry | null = null;

  constructor(world: SessionWorld, { socket, mode, plaintextAllowed }: SessionStart) {
    this.#world = world;
    this.id = world.clock.token(8);
    this.client = clientText(socket);
    this.#mode = mode;
    this.#startedAtMs = world.clock.now();
    this.#dialect = world.createDialect({
      canStartTls: mode === 'plain' && world.tls() !== null,
      plaintextAllowed,
    });
    this.#channel = new Channel(socket, this, world.clock);
    this.#channel.setDeadline(world.preAuthMs);
    this.#state = mode === 'tls' ? 'handshake' : 'talking';
    if (mode === 'tls') this.#shakeHands(this.#channel);
    else this.#channel.write(this.#dialect.greeting());
  }

  get state(): SessionState {
    return this.#state;
  }

  get at(): Whereabouts {
    return this.#at;
  }

  row(): SessionRow {
    const { id, client } = this;
    const { protocol, clock } = this.#world;
    const { bytesIn, bytesOut } = this.#relay ?? { bytesIn: 0, bytesOut: 0 };
    const seconds = (clock.now() - this.#startedAtMs) / 1000;
    return {
      session: id,
      protocol,
      client,
      state: this.#state,
      tls: this.#isSecure,
      seconds,
      bytesIn,
      bytesOut,
      ...this.#at,
    };
  }

  /** Ends it from our side; `over` follows within `quietMs` and the moment a client has for our last word. */
  close(reason: CloseReason): void {
    if (this.#relay !== null) this.#relay.close(reason);
    else this.#part(this.#goodbye({ kind: 'shutdown' }), reason);
  }

  // ── what the channel tells ──

  onBytes(bytes: Buffer): void {
    const dialect = this.#dialect;
    if (dialect === null) return;
    dialect.push(bytes);
    if (this.#state === 'talking') this.#pump();
    else if (this.#state === 'attaching' && dialect.heldBytes >= this.#world.pipelinedBytes)
      this.#channel?.pause();
  }

  onSecure(): void {
    const dialect = this.#dialect;
    if (dialect === null) return;
    this.#isSecure = true;
    dialect.secured();
    this.#go('talking');
    // After STARTTLS there is no second greeting.
    if (this.#mode === 'tls') this.#channel?.write(dialect.greeting());
  }

  onEnd(): void {
    this.#clientEnded = true;
    // While attaching it may still read: `LOGIN`, `LOGOUT` and FIN in one go is a whole session.
    if (this.#state === 'talking') this.#part('', this.#endOf('client-closed'));
    else if (this.#state === 'handshake') this.#part('', 'client-closed');
  }

  onDeadline(): void {
    this.#deadlinePassed = true;
    // A client whose node is slow is not at fault; `attach` has deadlines of its own.
    if (this.#state === 'attaching') return;
    this.#part(this.#goodbye({ kind: 'client-timeout' }), this.#endOf('timeout'));
  }

  onGone(error: string): void {
    if (this.#state === 'over') return;
    const isHandshake = this.#state === 'handshake';
    if (this.#end === '') {
      if (error === '') this.#end = this.#endOf('client-closed');
      else this.#end = isHandshake ? 'tls-failed' : this.#endOf('client-reset');
      if (isHandshake && error !== '') this.#at = { ...this.#at, why: error };
    }
    this.#over();
  }

  // ── talking ──

  #pump(): void {
    while (this.#state === 'talking' && this.#dialect !== null) {
      const step = this.#dialect.next();
      if (step === null) break;
      this.#take(step, this.#dialect);
    }
    if (this.#state === 'talking' && this.#clientEnded) this.#part('', this.#endOf('client-closed'));
  }

  #take(step: Step, dialect: Dialect): void {
    switch (step.kind) {
      case 'say':
        this.#channel?.write(step.text);
        return;
      case 'end':
        this.#part(step.text, this.#endOf(step.end));
        return;
      case 'starttls':
        this.#channel?.write(step.text);
        dialect.rest();
        this.#go('handshake');
        if (this.#channel !== null) this.#shakeHands(this.#channel);
        return;
      case 'login': {
        this.#go('attaching');
        const breakOff = new AbortController();
        this.#breakOff = breakOff;
        const { client } = this;
        const { protocol } = this.#world;
        const { credentials } = step;
        const attached = attach({
          world: this.#world,
          protocol,
          credentials,
          client,
          logIn: options => dialect.logIn(options),
          signal: breakOff.signal,
        });
        void attached.then(result => this.#attached(result));
      }
    }
  }

  #shakeHands(channel: Channel): void {
    const context = this.#world.tls();
    // It was there when TLS was offered; taken away since, there is nothing to shake hands with.
    if (context === null) this.#part('', 'tls-failed');
    else channel.startTls(context);
  }

  // ── attaching ──

  #attached(result: Attached): void {
    if (this.#state !== 'attaching') {
      if (result.kind === 'ok') dropLogin(result);
      return;
    }
    this.#breakOff = null;
    this.#at = result.at;
    if (result.kind === 'ok') this.#startRelay(result);
    else this.#goOnTalking(result);
  }

  #goOnTalking(result: Exclude<Attached, { kind: 'ok' }>): void {
    const dialect = this.#dialect;
    assert(dialect !== null, 'a session that talks has its dialect');
    this.#go('talking');
    if (result.kind === 'refused') {
      this.#lastLogin = 'refused';
      this.#note(`refused${result.code === null ? '' : ` ${result.code.name}`}`);
      this.#channel?.write(dialect.refused(result));
    } else {
      this.#lastLogin = 'unavailable';
      this.#note(logText(result.failure));
      this.#world.log.warn(
        { session: this.id, user: this.#at.user, node: this.#at.node, why: logText(result.failure) },
        'login not possible',
      );
      this.#channel?.write(dialect.failed(result.failure));
    }
    if (this.#deadlinePassed) {
      this.#part(dialect.goodbye({ kind: 'client-timeout' }), this.#endOf('timeout'));
      return;
    }
    this.#channel?.resume();
    this.#pump();
  }

  #note(what: string): void {
    this.#at = { ...this.#at, why: this.#at.why === '' ? what : `${this.#at.why}; ${what}` };
  }

  #startRelay({ claim, entry, login }: Extract<Attached, { kind: 'ok' }>): void {
    const { clock, quietMs } = this.#world;
    const channel = this.#channel;
    const dialect = this.#dialect;
    assert(channel !== null && dialect !== null, 'a session that attaches has channel and dialect');
    this.#go('relaying');
    this.#channel = null;
    this.#dialect = null;
    this.#entry = entry;
    this.#relay = createRelay(channel.detach(), login.socket, {
      clock,
      quietMs,
      clientEnded: this.#clientEnded,
      toNode: dialect.rest(),
      toClient: Buffer.concat([Buffer.from(dialect.welcome(login), 'latin1'), login.leftover]),
      isLive: () => entry.isLive(),
      onEnd: end => this.#relayEnded(end),
    });
    claim.follow(
      reason => this.#relay?.close(reason),
      () => this.#relay?.cut(),
    );
  }

  // ── ends ──

  #relayEnded(end: RelayEnd): void {
    this.#end = end.why;
    this.#entry?.release({ nodeEnded: end.nodeEnded });
    this.#entry = null;
    this.#over();
  }

  /** Our last word, then the channel's end. */
  #part(text: string, end: string): void {
    if (this.#state === 'closing' || this.#state === 'over' || this.#channel === null) return;
    const isHandshake = this.#state === 'handshake';
    this.#end = end;
    this.#go('closing');
    this.#breakOff?.abort();
    this.#breakOff = null;
    // In the middle of a handshake there is nobody who could read a word.
    if (isHandshake) this.#channel.destroy();
    else this.#channel.end(text);
  }

  #goodbye(failure: Failure): string {
    return this.#dialect?.goodbye(failure) ?? '';
  }

  /** A client that leaves after a login that failed ends by that, not by how it closed. */
  #endOf(end: string): string {
    return this.#lastLogin ?? end;
  }

  #over(): void {
    this.#go('over');
    this.#breakOff?.abort();
    this.#breakOff = null;
    this.#channel?.destroy();
    const { protocol, log, onOver } = this.#world;
    const { session, tls, client, seconds, bytesIn, bytesOut, user, node, why } = this.row();
    logSession(log, {
      session,
      protocol,
      user,
      node,
      why,
      client,
      tls,
      bytesIn,
      bytesOut,
      seconds,
      end: this.#end,
    });
    this.#channel = null;
    this.#dialect = null;
    onOver(this);
  }

  /** The only way states change. */
  #go(next: SessionState): void {
    assert(legal[this.#state].includes(next), `a session went from ${this.#state} to ${next}`);
    this.#state = next;
  }
}

function dropLogin({ entry, login }: Extract<Attached, { kind: 'ok' }>): void {
  login.socket.resetAndDestroy();
  entry.release({ nodeEnded: false });
}

/** `192.0.2.1:4711` or `[2001:db8::1]:4711`. */
function clientText({ remoteAddress = '?', remotePort = 0 }: Socket): string {
  const address = remoteAddress.replace(/^::ffff:(?=\d+\.)/i, '');
  return address.includes(':') ? `[${address}]:${remotePort}` : `${address}:${remotePort}`;
}
