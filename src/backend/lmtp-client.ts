/**
 * LMTP to a node (RFC 2033), by hand: MAIL, all RCPTs and DATA in one write, the body in another, one reply a recipient.
 * One kept connection; the pool (lmtp-pool.ts) holds it between messages. Floor backend: knows no view, no courier.
 * DANGER: says for each recipient whether the final dot was handed to the kernel. Before that, it was surely not delivered and may go
 * another way; after it, only the node's reply tells, and without one the recipient is in doubt (promises 2 and 3).
 *
 *   connect → greeting → LHLO → idle ⇄ envelope ─354→ body → dot → one reply each → idle
 *                                        └─ nobody accepted: RSET → idle
 */
import type { Readable } from 'node:stream';
import type { Reply } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { DotStuffer } from '../wire/dot-stuff.ts';
import { lhloCommand, mailCommand, type Offers, rcptCommand, readOffers } from '../wire/smtp-command.ts';
import { type LmtpFault, LmtpLink } from './lmtp-link.ts';

/** Each phase's own limit, ms. Longer than a cluster file system's failover: silence is not death (design §3). */
export interface LmtpTimeouts {
  readonly connectMs: number;
  readonly greetingMs: number;
  /** LHLO, MAIL, RCPT, RSET. */
  readonly commandMs: number;
  /** DATA until 354. */
  readonly goAheadMs: number;
  /** The node takes no bytes of the body. */
  readonly stallMs: number;
  /** From the dot to each reply. RFC 5321 §4.5.3.2.6 asks for ten minutes: a shorter wait makes doubles. */
  readonly finalMs: number;
}

export const lmtpTimeouts: LmtpTimeouts = {
  connectMs: 5_000,
  greetingMs: 30_000,
  commandMs: 60_000,
  goAheadMs: 60_000,
  stallMs: 180_000,
  finalMs: 600_000,
};

export interface LmtpOptions {
  readonly address: string;
  readonly port: number;
  /** What we call ourselves in LHLO. */
  readonly ownName: string;
  readonly timeouts: LmtpTimeouts;
  readonly clock: Clock;
}

export interface LmtpBody {
  readonly bytes: number;
  readonly memory: Buffer | null;
  open(): Readable;
}

export interface LmtpMessage {
  readonly from: string;
  readonly recipients: readonly string[];
  readonly body: LmtpBody;
  readonly eightBit: boolean;
  readonly smtpUtf8: boolean;
}

/** Structurally delivery's Leash: how hard somebody pulls at this transaction. */
export interface Pull {
  pull: 'none' | 'unless-sent' | 'now';
  onPull: (() => void) | null;
}

/** What became of one recipient. */
export type Handed =
  /** The node's own word: at RCPT or for the whole transaction (before the dot), or at the end. */
  | { readonly kind: 'replied'; readonly reply: Reply; readonly atEnd: boolean }
  /** It can't be said in the node's protocol. */
  | { readonly kind: 'unsayable'; readonly why: 'bad-address' | 'no-utf8-route' }
  /** The dot was not handed over: surely not delivered. */
  | { readonly kind: 'unsent'; readonly fault: LmtpFault }
  | { readonly kind: 'in-doubt'; readonly fault: LmtpFault };

export interface Transaction {
  readonly handed: readonly Handed[];
  /** The kept connection was found dead before the node said anything: the whole may be tried on a fresh one. */
  readonly stale: boolean;
}

export type Opened =
  | { readonly ok: true; readonly client: LmtpClient }
  | { readonly ok: false; readonly fault: LmtpFault };

/** Connects and says LHLO. Never rejects. */
export async function openLmtp(options: LmtpOptions, deadlineAtMs: number): Promise<Opened> {
  const { timeouts, clock } = options;
  const until = (ms: number) => Math.min(clock.now() + ms, deadlineAtMs);
  const link = new LmtpLink({
    address: options.address,
    port: options.port,
    connectMs: Math.max(0, until(timeouts.connectMs) - clock.now()),
    clock,
  });
  const failed = (reply: Reply | null): Opened => {
    if (reply !== null) link.break({ kind: 'refused', evidence: 'explicit-error', text: textOf(reply) });
    return { ok: false, fault: link.fault ?? noFault };
  };
  if (!(await link.untilConnected())) return failed(null);
  const greeting = await link.reply(until(timeouts.greetingMs), 'greeting-timeout');
  if (greeting?.code !== 220) return failed(greeting);
  link.write(lhloCommand(options.ownName));
  const hello = await link.reply(until(timeouts.commandMs));
  if (hello?.code !== 250) return failed(hello);
  link.rest();
  return { ok: true, client: new LmtpClient(link, readOffers(hello.lines), timeouts, clock) };
}

export class LmtpClient {
  readonly offers: Offers;
  private readonly link: LmtpLink;
  private readonly timeouts: LmtpTimeouts;
  private readonly clock: Clock;
  private deadlineAtMs = 0;
  private transactions = 0;
  private sawReply = false;
  private busy = false;

  constructor(link: LmtpLink, offers: Offers, timeouts: LmtpTimeouts, clock: Clock) {
    this.link = link;
    this.offers = offers;
    this.timeouts = timeouts;
    this.clock = clock;
    // A node that speaks between messages says goodbye (421), whatever the words are.
    link.onUnasked = () => {
      if (!this.busy) link.break({ kind: 'broke-off', evidence: null, text: 'spoke unasked' });
    };
  }

  /** False once it can take no further transaction. */
  get usable(): boolean {
    return this.link.fault === null;
  }

  set onBreak(then: () => void) {
    this.link.onBreak = then;
  }

  /** Says goodbye and closes. */
  quit(): void {
    this.link.quit();
  }

  /** One message, one outcome per recipient in order. Never rejects; ends by `deadlineAtMs` (monotonic). */
  async deliver(message: LmtpMessage, deadlineAtMs: number, leash?: Pull): Promise<Transaction> {
    this.begin(deadlineAtMs);
    let body: 'not yet' | 'flowing' = 'not yet';
    const pulled = () => {
      if (leash?.pull === 'now' || (leash?.pull === 'unless-sent' && body === 'not yet'))
        this.link.break(withdrawn);
    };
    if (leash !== undefined) {
      leash.onPull = pulled;
      pulled();
    }
    const envelope = await this.envelope(message, true);
    let handed = envelope.handed;
    if (envelope.goAhead && this.link.fault === null) {
      body = 'flowing';
      handed = await this.body(message.body, handed);
    }
    if (leash !== undefined) leash.onPull = null;
    return this.end(handed);
  }

  /** Asks the node whether it would take these recipients: MAIL, RCPTs and RSET in one write. */
  async check(from: string, recipients: readonly string[], deadlineAtMs: number): Promise<Transaction> {
    this.begin(deadlineAtMs);
    const body = { bytes: 0, memory: null, open: () => assertNever('check has no body') };
    const { handed } = await this.envelope(
      { from, recipients, body, eightBit: false, smtpUtf8: false },
      false,
    );
    return this.end(handed);
  }

  private begin(deadlineAtMs: number): void {
    if (this.busy) assertNever('one transaction at a time on a connection');
    this.busy = true;
    this.sawReply = false;
    this.deadlineAtMs = deadlineAtMs;
    this.transactions += 1;
  }

  private end(handed: readonly Handed[]): Transaction {
    this.busy = false;
    this.link.rest();
    if (this.link.unread.length > 0) this.link.break(lostStep('more replies than commands'));
    const stale = this.transactions > 1 && !this.sawReply && handed.some(each => each.kind === 'unsent');
    const kind = this.link.fault?.kind;
    return { handed, stale: stale && (kind === 'broke-off' || kind === 'refused') };
  }

  /**
   * MAIL, RCPT*, and DATA or RSET. With PIPELINING (RFC 2920) all in one write, and then every reply is read, whatever it says.
   * `goAhead`: 354 came and somebody is accepted. Recipients accepted so far are `unsent` in the result.
   */
  private async envelope(
    message: LmtpMessage,
    wantsData: boolean,
  ): Promise<{ handed: Handed[]; goAhead: boolean }> {
    const mail = mailCommand({ ...message, bytes: message.body.bytes }, this.offers);
    const rcpts = message.recipients.map(address => rcptCommand(address, this.offers));
    const handed: Handed[] = rcpts.map(rcpt => {
      if (!mail.ok) return { kind: 'unsayable', why: mail.why };
      return rcpt.ok ? { kind: 'unsent', fault: noFault } : { kind: 'unsayable', why: rcpt.why };
    });
    const said = rcpts.flatMap((rcpt, i) => (mail.ok && rcpt.ok ? [{ line: rcpt.line, i }] : []));
    if (!mail.ok || said.length === 0) return { handed, goAhead: false };
    const last = wantsData ? 'DATA\r\n' : 'RSET\r\n';
    const { pipelining } = this.offers;
    if (pipelining) this.link.write(mail.line + said.map(rcpt => rcpt.line).join('') + last);
    const step = (line: string, limitMs: number) => {
      if (!pipelining) this.link.write(line);
      return this.reply(limitMs, line === 'DATA\r\n');
    };
    const { commandMs, goAheadMs } = this.timeouts;

    const mailed = await step(mail.line, commandMs);
    const refused = mailed !== null && !isOk(mailed);
    let accepted = 0;
    if (mailed !== null && (!refused || pipelining)) {
      for (const { line, i } of said) {
        const reply = await step(line, commandMs);
        if (reply === null) break;
        // A transaction that was refused as a whole gets MAIL's words, not the 503 that follows from it.
        if (!refused && isOk(reply)) accepted += 1;
        handed[i] =
          isOk(reply) && !refused && wantsData
            ? { kind: 'unsent', fault: noFault }
            : replied(refused ? mailed : reply);
      }
    } else if (refused) for (const { i } of said) handed[i] = replied(mailed);

    let goAhead = false;
    if (this.link.fault === null && (pipelining || (wantsData ? accepted > 0 : !refused))) {
      const answer = await step(last, goAheadMs);
      goAhead = wantsData && answer !== null && this.goAhead(answer, accepted, handed);
    }
    if (wantsData && !goAhead && this.link.fault === null) await this.reset();
    return { handed: this.blame(handed), goAhead };
  }

  private goAhead(answer: Reply, accepted: number, handed: Handed[]): boolean {
    if (answer.code === 354) {
      if (accepted > 0) return true;
      // RFC 2920 §3.1: a 354 with nobody accepted is answered with a lone dot. How many replies follow is anybody's guess (RFC 2033 §4.2
      // wants none), so the connection ends here.
      this.link.write('.\r\n');
      this.link.quit();
      return false;
    }
    // 503 for want of recipients is expected where none was accepted (RFC 2033 §4.2), and each has its own reply already.
    const protocolTrouble = isOk(answer) || answer.code === 500 || (answer.code >= 502 && answer.code <= 504);
    if (accepted > 0 && protocolTrouble) this.link.break(lostStep(textOf(answer)));
    else for (const [i, each] of handed.entries()) if (each.kind === 'unsent') handed[i] = replied(answer);
    return false;
  }

  /** A failure here costs the connection only: everybody has a reply. */
  private async reset(): Promise<void> {
    this.link.write('RSET\r\n');
    const reply = await this.link.reply(this.until(this.timeouts.commandMs));
    if (reply !== null && !isOk(reply)) this.link.break(lostStep(textOf(reply)));
  }

  private async body(body: LmtpBody, handed: readonly Handed[]): Promise<Handed[]> {
    const stuffer = new DotStuffer();
    // Set by the kernel's taking of the last byte. Until then the node can't have seen the end, so nothing was delivered.
    let dotHanded = false;
    const dot = () => {
      dotHanded = true;
    };
    if (this.link.unread.length > 0) this.spokeEarly();
    if (body.memory !== null) {
      const { memory } = body;
      this.link.together(() => {
        this.link.write(stuffer.stuff(memory));
        this.link.write(stuffer.end(), dot);
      });
      await this.link.drained(this.until(this.timeouts.stallMs));
    } else if (await this.stream(body, stuffer)) {
      this.link.write(stuffer.end(), dot);
      await this.link.drained(this.until(this.timeouts.stallMs));
    }
    const results = [...handed];
    for (const [i, each] of handed.entries()) {
      if (each.kind !== 'unsent') continue;
      const reply = await this.link.reply(this.until(this.timeouts.finalMs));
      // Whatever was said before the node could have seen the end is no answer to the message.
      if (reply === null || !dotHanded) return this.lost(results, dotHanded, reply);
      if (reply.code >= 300 && reply.code < 400) this.link.break(lostStep(textOf(reply)));
      else results[i] = { kind: 'replied', reply, atEnd: true };
    }
    return this.link.fault === null ? results : this.lost(results, dotHanded, null);
  }

  private lost(results: readonly Handed[], dotHanded: boolean, early: Reply | null): Handed[] {
    if (early !== null) this.link.break(early.code === 421 ? refusedBy(early) : lostStep(textOf(early)));
    const fault = this.link.fault ?? noFault;
    return results.map(each =>
      each.kind === 'unsent' ? { kind: dotHanded ? 'in-doubt' : 'unsent', fault } : each,
    );
  }

  /** False where the body could not be sent whole; the link is broken then, and the node has seen no end. */
  private async stream(body: LmtpBody, stuffer: DotStuffer): Promise<boolean> {
    const { link } = this;
    const source = body.open();
    const ownEnd = link.onBreak;
    link.onBreak = () => {
      source.destroy();
      ownEnd?.();
    };
    let sentBytes = 0;
    const bodyMustCome = () => link.limit(this.until(this.timeouts.stallMs), bodyFailed('it does not come'));
    bodyMustCome();
    try {
      for await (const chunk of source as AsyncIterable<Buffer>) {
        sentBytes += chunk.length;
        if (link.fault === null && link.unread.length > 0) this.spokeEarly();
        if (link.fault !== null) break;
        const full = !link.write(stuffer.stuff(chunk));
        if (full && !(await link.drained(this.until(this.timeouts.stallMs)))) break;
        bodyMustCome();
      }
    } catch (error) {
      link.break(bodyFailed(String(error)));
    }
    // A reader that ends short (a file that was cut) must not become a shorter message.
    if (link.fault === null && sentBytes !== body.bytes) {
      link.break(bodyFailed(`${sentBytes} of ${body.bytes} bytes`));
    }
    if (link.fault === null) link.onBreak = ownEnd;
    return link.fault === null;
  }

  private spokeEarly(): void {
    const early = this.link.unread.shift();
    if (early !== undefined) this.link.break(early.code === 421 ? refusedBy(early) : lostStep(textOf(early)));
  }

  private async reply(limitMs: number, mayGoAhead: boolean): Promise<Reply | null> {
    const reply = await this.link.reply(this.until(limitMs));
    if (reply === null) return null;
    if (reply.code >= 300 && reply.code < 400 && !mayGoAhead) {
      this.link.break(lostStep(textOf(reply)));
      return null;
    }
    // RFC 5321 §3.8: 421 is no answer to the command, it ends the connection.
    if (reply.code === 421) {
      this.link.break(refusedBy(reply));
      return null;
    }
    this.sawReply = true;
    return reply;
  }

  private blame(handed: Handed[]): Handed[] {
    const { fault } = this.link;
    if (fault === null) return handed;
    return handed.map(each => (each.kind === 'unsent' ? { kind: 'unsent', fault } : each));
  }

  private until(ms: number): number {
    return Math.min(this.clock.now() + ms, this.deadlineAtMs);
  }
}

const noFault: LmtpFault = { kind: 'broke-off', evidence: null, text: '' };
const withdrawn: LmtpFault = { kind: 'withdrawn', evidence: null, text: 'the view changed' };

function bodyFailed(text: string): LmtpFault {
  return { kind: 'body-failed', evidence: null, text };
}

function lostStep(text: string): LmtpFault {
  return { kind: 'lost-step', evidence: 'explicit-error', text };
}

function refusedBy(reply: Reply): LmtpFault {
  return { kind: 'refused', evidence: null, text: textOf(reply) };
}

function replied(reply: Reply): Handed {
  return { kind: 'replied', reply, atEnd: false };
}

function isOk({ code }: Reply): boolean {
  return code >= 200 && code < 300;
}

function textOf({ code, enhanced, lines }: Reply): string {
  return [code, enhanced, lines.join(' / ')].filter(part => part !== null && part !== '').join(' ');
}

function assertNever(what: string): never {
  throw new Error(`broken invariant: ${what}`);
}
