/**
 * One client's SMTP or LMTP connection: smtp-server's, with its greeting, envelope commands, DATA, timeouts and farewell our own.
 *
 *   greeted ─LHLO/EHLO─> ready ─MAIL─> envelope ─DATA─> body ─final dot─> settling ─replies─> ready
 *                          ^             │ RSET, LHLO      │ too slow, gone                     │ draining
 *                          └─────────────┘                 └────────────> closed <──────────────┘
 *
 * RCPTs that a client pipelines are verified side by side and answered in order. Must never run bytes of a message as commands, answer
 * twice or not at all for an accepted recipient, or wait without a deadline. Leans on private members of the library, each held by
 * test/unit/delivery/library.test.ts.
 */
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { SMTPServer } from 'smtp-server';
import { SMTPConnection, type SMTPConnectionOptions } from 'smtp-server/lib/smtp-connection.js';
import { closingReply, type Failure, lmtpReply, smtpReply } from '../core/failure.ts';
import type { Reply } from '../core/types.ts';
import { CommandStream, swallow } from './command-stream.ts';
import { type EnvelopeRules, readMail, readRcpt } from './envelope-command.ts';
import { ReplyLane } from './reply-lane.ts';
import { type Peer, Transaction, type TransactionTools } from './transaction.ts';

export interface ConversationLimits {
  /** Between two commands, however slowly the bytes of one trickle in. */
  readonly idleTimeoutMs: number;
  /** Between two chunks of a message. */
  readonly stallTimeoutMs: number;
  /** From 354 to the final dot. */
  readonly bodyTimeoutMs: number;
  readonly commandLineBytes: number;
  /** Commands without a message, RCPT and DATA not counted. */
  readonly maxIdleCommands: number;
  /** Refused recipients and bad commands, SMTP alone: strangers guess. */
  readonly maxRefusals: number;
}

export interface ConversationTools {
  readonly transaction: TransactionTools;
  readonly limits: ConversationLimits;
  readonly smtpUtf8: boolean;
  /** Null where STARTTLS is not offered. Asked each time, so that a renewed certificate counts at once. */
  readonly tls: () => SecureContext | null;
  readonly draining: () => boolean;
  readonly onClosed: (conversation: Conversation) => void;
  /** Brackets what must not be cut off by a drain: from the final dot to the replies. */
  readonly onSettling: (delta: 1 | -1) => void;
}

/** RCPT replies in flight for one client. */
const laneLimit = 100;

export class Conversation extends SMTPConnection {
  /** Monotonic, ms; the receiver's sweep calls `expire` once it is past. */
  deadlineAtMs: number;
  readonly #tools: ConversationTools;
  #transaction: Transaction | null = null;
  #settling = false;
  readonly #lane = new ReplyLane(laneLimit, reply => this.#answerRcpt(reply));
  #corked = false;
  #idleCommands = 0;
  #refusals = 0;

  constructor(server: SMTPServer, socket: Socket, tools: ConversationTools, options: SMTPConnectionOptions) {
    super(server, socket, options);
    this.#tools = tools;
    this.deadlineAtMs = this.#now() + tools.limits.idleTimeoutMs;
  }

  /** The library waits 100 ms and asks the DNS; we greet at once (what a client says too soon is read after the greeting). */
  override init(): void {
    this._setListeners(() => {
      this._setClientHostname('');
      this._resetSession();
      this._ready = true;
      if (this.#tools.draining()) this.#bye({ kind: 'shutdown' });
      else this._sendGreeting();
    });
  }

  /** Asks an idle client to go; one that is inside a message may finish it. */
  drain(): void {
    if (this.#transaction === null && !this.#settling) this.#bye({ kind: 'shutdown' });
  }

  expire(nowMs: number): void {
    if (nowMs < this.deadlineAtMs || this._closing || this._closed) return;
    this.#drop();
    this.#bye({ kind: 'client-timeout' });
  }

  /** The end of a drain's patience. What is being settled is settled still, but nobody is told. */
  cut(): void {
    this._socket.destroy();
  }

  /** Called from the library's constructor, before this class has its own members. */
  override _createParser(): CommandStream {
    const parser = new CommandStream({ maxCommandLength: this._server.options.maxCommandLength });
    parser.oncommand = (command, callback) => this._onCommand(command, callback);
    parser.on('error', () => this.send(421, '4.5.2 Command line too long', false));
    return parser;
  }

  /** Our deadlines are the sweep's: bytes that trickle in must not extend them, as they do a socket's timeout. */
  override _armTimeout(): void {}

  /** RSET, LHLO, EHLO, HELO and a TLS handshake come through here: whatever was begun is void (RFC 5321 §4.1.1.5, RFC 3207 §4.2). */
  override _resetSession(): void {
    super._resetSession();
    this.#drop();
  }

  override _onClose(): void {
    const first = !this._closed;
    super._onClose();
    this.#lane.drop();
    this.#drop();
    if (first) this.#tools.onClosed(this);
  }

  /** All commands pass here. RCPTs run side by side; everything else waits until they are answered. */
  override _onCommand(command: Buffer, callback?: () => void): void {
    this.deadlineAtMs = this.#now() + this.#tools.limits.idleTimeoutMs;
    if (this._closing || this._closed) return;
    const verb = command.toString('latin1', 0, 5).toUpperCase();
    const isRcpt = verb === 'RCPT ';
    if (!this.#lane.isEmpty && !isRcpt) {
      this.#lane.whenEmpty(() => this._onCommand(command, callback));
      return;
    }
    if (this.#tools.draining() && this.#transaction === null && !this._upgrading) {
      this.#bye({ kind: 'shutdown' });
      return;
    }
    if (!isRcpt && !/^DATA\b/.test(verb) && ++this.#idleCommands > this.#tools.limits.maxIdleCommands) {
      this.#answer({ code: 421, enhanced: '4.7.0', lines: ['Too many commands without a message'] });
      return;
    }
    super._onCommand(command, callback);
  }

  /** RFC 5321 §4.1.1.1; also LHLO, which the library maps here (RFC 2033 §4.1). */
  override handler_EHLO(command: Buffer, callback: () => void): void {
    const words = command.toString().trim().split(/\s+/);
    const name = words[1] ?? '';
    if (words.length !== 2 || name.length > 255 || /\p{Cc}/u.test(name)) {
      this.#answer({ code: 501, enhanced: null, lines: [`Syntax: ${words[0]?.toUpperCase()} name`] });
      callback();
      return;
    }
    this.hostNameAppearsAs = name;
    this._resetSession();
    const offers = [
      'PIPELINING',
      `SIZE ${this.#tools.transaction.limits.maxBytes}`,
      '8BITMIME',
      'ENHANCEDSTATUSCODES',
    ];
    if (this.#tools.smtpUtf8) offers.push('SMTPUTF8');
    if (!this.secure && this.#tools.tls() !== null) offers.push('STARTTLS');
    this.#answer({ code: 250, enhanced: null, lines: [this.name, ...offers] });
    callback();
  }

  /** RFC 3207. The library drops what was pipelined behind it. */
  override handler_STARTTLS(command: Buffer, callback: () => void): void {
    const context = this.#tools.tls();
    if (context === null) {
      this.#answer({ code: 502, enhanced: '5.5.1', lines: ['TLS is not offered'] });
      callback();
      return;
    }
    this._server.secureContext.set('*', context);
    // What stands in the socket's buffer must be out before TLS takes its handle.
    this._socket.uncork();
    this.#corked = false;
    super.handler_STARTTLS(command, callback);
  }

  override handler_MAIL(command: Buffer, callback: () => void): void {
    if (this.#transaction !== null) this.#answer({ code: 503, enhanced: '5.5.1', lines: ['Nested MAIL'] });
    else {
      const mail = readMail(command, this.#rules());
      if (mail.ok) {
        const peer = this.#peer(mail.value.smtpUtf8);
        this.#transaction = new Transaction(this.#tools.transaction, peer, mail.value);
      }
      this.#answer(mail.ok ? { code: 250, enhanced: '2.1.0', lines: ['OK'] } : mail.reply);
    }
    callback();
  }

  override handler_RCPT(command: Buffer, callback: () => void): void {
    const transaction = this.#transaction;
    const rcpt = readRcpt(command, this.#rules());
    if (transaction === null) this.#lane.add(noMail, callback);
    else if (!rcpt.ok) this.#lane.add(rcpt.reply, callback);
    else
      this.#lane.add(
        transaction.rcpt(rcpt.value).catch(error => this.#bug(error)),
        callback,
      );
  }

  override handler_DATA(command: Buffer, callback: () => void): void {
    const transaction = this.#transaction;
    let refusal: Reply | null = null;
    if (command.toString().trim().length > 4)
      refusal = { code: 501, enhanced: '5.5.4', lines: ['Syntax: DATA'] };
    else if (transaction === null) refusal = noMail;
    else if (transaction.acceptedCount === 0)
      refusal = { code: 503, enhanced: '5.5.1', lines: ['No valid recipients'] };
    const parser = this._parser;
    if (refusal !== null || transaction === null || !(parser instanceof CommandStream)) {
      if (refusal !== null) this.#answer(refusal);
      callback();
      return;
    }
    this.#readBody(parser, transaction);
    this.#answer({ code: 354, enhanced: null, lines: ['End data with <CR><LF>.<CR><LF>'] });
    callback();
  }

  /** CHUNKING is not offered. Who sends it all the same has sent the chunk behind it too. */
  handler_BDAT(command: Buffer, callback: () => void): void {
    const bytes = /^BDAT (\d{1,10})(?: LAST)?$/i.exec(command.toString().trim())?.[1];
    const parser = this._parser;
    if (
      bytes === undefined ||
      Number(bytes) > this.#tools.transaction.limits.maxBytes ||
      !(parser instanceof CommandStream)
    ) {
      this.#answer({
        code: 421,
        enhanced: '4.5.1',
        lines: ['BDAT is not offered, and where its chunk ends is not certain'],
      });
      return;
    }
    this.#answer({ code: 502, enhanced: '5.5.1', lines: ['BDAT is not offered'] });
    if (Number(bytes) > 0) parser.divert(swallow(Number(bytes)));
    callback();
  }

  #readBody(parser: CommandStream, transaction: Transaction): void {
    const { limits } = this.#tools;
    const untilMs = this.#now() + limits.bodyTimeoutMs;
    const intake = transaction.beginBody();
    parser.divert({
      feed: chunk => {
        const { end, wait, endless } = intake.feed(chunk);
        this.deadlineAtMs = Math.min(untilMs, this.#now() + limits.stallTimeoutMs);
        if (endless && end === -1) {
          this.#drop();
          this.#answer({ code: 421, enhanced: '4.3.4', lines: ['Message has no end'] });
        }
        return { end, wait };
      },
      ended: resume => this.#finish(transaction, resume),
    });
    this.deadlineAtMs = this.#now() + limits.stallTimeoutMs;
  }

  /** From the final dot on, nothing the client does may undo the delivery: it is settled, and told if it still listens. */
  #finish(transaction: Transaction, resume: () => void): void {
    const { transaction: tools, limits, onSettling } = this.#tools;
    this.#transaction = null;
    this.#settling = true;
    this.deadlineAtMs = this.#now() + tools.limits.deliverTimeoutMs + limits.idleTimeoutMs;
    onSettling(1);
    transaction
      .settle()
      .catch(error => [this.#bug(error)])
      .then(replies => {
        this.#settling = false;
        onSettling(-1);
        this.#conclude(transaction, replies);
        resume();
      })
      .catch(error =>
        tools.log.error({ error, id: transaction.id }, 'a conversation broke after its message'),
      );
  }

  #conclude(transaction: Transaction, replies: readonly Reply[]): void {
    const { limits, draining, transaction: tools } = this.#tools;
    if (this._closing || this._closed || this._socket.destroyed) {
      const told = replies.map(reply => reply.code);
      tools.log.warn(
        { id: transaction.id, told },
        'client gone before the reply: it may send the message again',
      );
      return;
    }
    for (const reply of replies) this.#answer(reply);
    this.#idleCommands = 0;
    this._unrecognizedCommands = 0;
    this._resetSession();
    this.deadlineAtMs = this.#now() + limits.idleTimeoutMs;
    if (draining()) this.#bye({ kind: 'shutdown' });
  }

  #answerRcpt(reply: Reply): void {
    const { limits } = this.#tools;
    this.deadlineAtMs = this.#now() + limits.idleTimeoutMs;
    if (reply.code >= 500 && ++this.#refusals > limits.maxRefusals && this.#isSmtp()) {
      this.#lane.drop();
      this.#answer({ code: 421, enhanced: '4.7.0', lines: ['Too many refused recipients'] });
    } else this.#answer(reply);
  }

  /** Replies of one turn of the event loop leave together (RFC 2920 §3.2): a write is the dearest thing a small message costs. */
  override send(code: number, text?: string | string[] | null, context?: string | false): void {
    if (!this.#corked && !this._upgrading && code !== 421 && code !== 220) {
      const socket = this._socket;
      this.#corked = true;
      socket.cork();
      setImmediate(() => {
        this.#corked = false;
        socket.uncork();
      });
    }
    super.send(code, text, context);
  }

  /** Sends the reply as it is: its own enhanced code on each line (RFC 2034 §4), none of the library's. */
  #answer({ code, enhanced, lines }: Reply): void {
    const texts = lines.length === 0 ? [''] : lines;
    this.send(code, enhanced === null ? [...texts] : texts.map(text => `${enhanced} ${text}`), false);
  }

  /** A last word, and the end (RFC 5321 §3.8). */
  #bye(failure: Failure): void {
    this.#answer(closingReply(failure));
  }

  #drop(): void {
    this.#transaction?.abandon();
    this.#transaction = null;
  }

  #peer(smtpUtf8: boolean): Peer {
    const { remoteAddress: address, remotePort } = this;
    const client = address === '' ? '' : `${address.includes(':') ? `[${address}]` : address}:${remotePort}`;
    const helo = this.hostNameAppearsAs === false ? '' : this.hostNameAppearsAs;
    return { client, address, helo, protocol: this.#protocol(smtpUtf8) };
  }

  /** RFC 3848, RFC 6531 §4.3. */
  #protocol(smtpUtf8: boolean): Peer['protocol'] {
    const word = this.#isSmtp() ? 'SMTP' : 'LMTP';
    if (smtpUtf8) return this.secure ? `UTF8${word}S` : `UTF8${word}`;
    if (word === 'LMTP') return this.secure ? 'LMTPS' : 'LMTP';
    if (this.openingCommand === 'HELO') return 'SMTP';
    return this.secure ? 'ESMTPS' : 'ESMTP';
  }

  #rules(): EnvelopeRules {
    const { transaction, smtpUtf8 } = this.#tools;
    return { kind: transaction.kind, maxBytes: transaction.limits.maxBytes, smtpUtf8 };
  }

  #isSmtp(): boolean {
    return this.#tools.transaction.kind === 'smtp';
  }

  #say(failure: Failure): Reply {
    return this.#isSmtp() ? smtpReply(failure) : lmtpReply(failure);
  }

  #bug(error: unknown): Reply {
    this.#tools.transaction.log.error({ error }, 'a transaction broke');
    return this.#say({ kind: 'internal' });
  }

  #now(): number {
    return this.#tools.transaction.clock.now();
  }
}

const noMail: Reply = { code: 503, enhanced: '5.5.1', lines: ['Need MAIL'] };
