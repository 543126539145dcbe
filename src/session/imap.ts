/**
 * The IMAP dialect before login (RFC 9051 §6.1, §6.2; SASL-IR RFC 4959, LITERAL+ RFC 7888, ID RFC 2971, codes RFC 5530).
 * It offers only what we can do ourselves; the node's own CAPABILITY comes with its OK.
 * Must never echo a byte of the client's but its checked tag, nor answer an outage like a wrong password.
 */
import {
  type LoggedIn,
  type LoginOptions,
  type LoginResult,
  logInToImap,
  type Refused,
} from '../backend/session-login.ts';
import { type Failure, imapAnswer } from '../core/failure.ts';
import { type CommandEvent, type CommandLimits, CommandParser, type Token } from '../wire/imap-command.ts';
import { type ResponseCode, withoutReferrals } from '../wire/imap-response.ts';
import { type Credentials, decodeBase64, readPlain, Secret } from '../wire/sasl.ts';
import type { Dialect, DialectFacts, Step } from './dialect.ts';

export interface ImapLimits {
  readonly command: CommandLimits;
  /** Commands before login, wrong ones among them; then BYE. */
  readonly commands: number;
  readonly badCommands: number;
  /** Refused logins; then BYE. */
  readonly refusals: number;
}

type Command = Extract<CommandEvent, { kind: 'command' }>;

/** Cross-protocol attacks: a browser that was made to speak to us. */
const httpVerbs: ReadonlySet<string> = new Set([
  'GET',
  'POST',
  'PUT',
  'HEAD',
  'OPTIONS',
  'DELETE',
  'PATCH',
  'TRACE',
  'CONNECT',
]);
const empty = Buffer.alloc(0);

export class ImapDialect implements Dialect {
  readonly #facts: DialectFacts;
  readonly #limits: ImapLimits;
  readonly #parser: CommandParser;
  #isSecure = false;
  /** Of the command that is being answered over more than one step: AUTHENTICATE, and every login. */
  #tag = '';
  #commands = 0;
  #bad = 0;
  #refusals = 0;

  constructor(facts: DialectFacts, limits: ImapLimits) {
    this.#facts = facts;
    this.#limits = limits;
    this.#parser = new CommandParser(limits.command);
  }

  get heldBytes(): number {
    return this.#parser.heldBytes;
  }

  greeting(): string {
    return `* OK [CAPABILITY ${this.#capabilities()}] Homing ready.\r\n`;
  }

  push(bytes: Buffer): void {
    this.#parser.push(bytes);
  }

  rest(): Buffer {
    return this.#parser.rest();
  }

  secured(): void {
    this.#isSecure = true;
  }

  next(): Step | null {
    // The limit counts refused logins too; it is checked here, because their answer is given elsewhere.
    if (this.#refusals >= this.#limits.refusals) return bye('too-many-refusals', 'Too many failed logins');
    const event = this.#parser.next();
    if (event === null) return null;
    if (event.kind === 'literal') return say('+ OK');
    if (event.kind === 'line') return this.#saslResponse(event.bytes);
    if (event.kind === 'fatal') return bye(event.why.replaceAll(' ', '-'), 'That is too much');
    this.#commands += 1;
    if (this.#commands > this.#limits.commands)
      return bye('too-many-commands', 'Too many commands before login');
    if (event.kind === 'command') return this.#command(event);
    if (httpVerbs.has(event.firstWord)) return { kind: 'end', text: '', end: 'not-imap' };
    return this.#badCommand(event.tag, event.why);
  }

  #command(command: Command): Step {
    const { tag, name, tokens } = command;
    switch (name) {
      case 'CAPABILITY':
        return say(`* CAPABILITY ${this.#capabilities()}\r\n${tag} OK Capability completed.`);
      case 'NOOP':
        return say(`${tag} OK NOOP completed.`);
      case 'ID':
        return say(`* ID ("name" "Homing")\r\n${tag} OK ID completed.`);
      case 'LOGOUT':
        return { kind: 'end', text: `* BYE Logging out\r\n${tag} OK Logout completed.\r\n`, end: 'logout' };
      case 'STARTTLS':
        return this.#startTls(tag, tokens);
      case 'LOGIN':
        return this.#login(tag, tokens);
      case 'AUTHENTICATE':
        return this.#authenticate(tag, tokens);
      default:
        return this.#badCommand(tag, 'unknown command, or one for after login');
    }
  }

  #startTls(tag: string, tokens: readonly Token[]): Step {
    if (tokens.length > 0) return this.#badCommand(tag, 'STARTTLS takes no arguments');
    if (this.#isSecure) return this.#badCommand(tag, 'TLS is on already');
    if (!this.#facts.canStartTls) return this.#badCommand(tag, 'there is no TLS here');
    return { kind: 'starttls', text: `${tag} OK Begin TLS negotiation now.\r\n` };
  }

  /** RFC 9051 §6.2.3: user name and password, each an astring. */
  #login(tag: string, tokens: readonly Token[]): Step {
    const [name, secret, ...more] = tokens.map(astring);
    if (name == null || secret == null || more.length > 0)
      return this.#badCommand(tag, 'LOGIN takes a name and a password');
    return this.#attempt(tag, { form: 'login', authzid: empty, name, secret: new Secret(secret) });
  }

  /** RFC 9051 §6.2.2, RFC 4959 §3: `=` is an initial response of no bytes. */
  #authenticate(tag: string, tokens: readonly Token[]): Step {
    const [mechanism, initial, ...more] = tokens;
    if (mechanism?.kind !== 'atom' || (initial !== undefined && initial.kind !== 'atom') || more.length > 0)
      return this.#badCommand(tag, 'AUTHENTICATE takes a mechanism and at most one response');
    if (mechanism.bytes.toString('latin1').toUpperCase() !== 'PLAIN')
      return this.#countBad(say(`${tag} NO [CANNOT] This mechanism is not offered.`));
    if (!this.#mayLogIn()) return this.#privacyRequired(tag);
    this.#tag = tag;
    if (initial === undefined) {
      this.#parser.expectLine();
      return say('+ ');
    }
    return this.#saslResponse(initial.bytes.equals(Buffer.from('=')) ? empty : initial.bytes);
  }

  #saslResponse(bytes: Buffer): Step {
    const tag = this.#tag;
    const text = bytes.toString('latin1');
    if (text === '*') return this.#badCommand(tag, 'authentication aborted');
    const message = decodeBase64(text);
    if (message === null) return this.#badCommand(tag, 'not base64');
    const plain = readPlain(message);
    if (!plain.ok) return this.#badCommand(tag, plain.why);
    return this.#attempt(tag, plain.credentials);
  }

  #attempt(tag: string, credentials: Credentials): Step {
    if (!this.#mayLogIn()) return this.#privacyRequired(tag);
    this.#tag = tag;
    return { kind: 'login', credentials };
  }

  #privacyRequired(tag: string): Step {
    return this.#countBad(say(`${tag} NO [PRIVACYREQUIRED] Login is allowed over TLS only.`));
  }

  #badCommand(tag: string | null, why: string): Step {
    return this.#countBad(say(`${tag ?? '*'} BAD ${why[0]?.toUpperCase() ?? ''}${why.slice(1)}.`));
  }

  #countBad(step: Extract<Step, { kind: 'say' }>): Step {
    this.#bad += 1;
    if (this.#bad < this.#limits.badCommands) return step;
    return {
      kind: 'end',
      text: `${step.text}* BYE Too many wrong commands\r\n`,
      end: 'too-many-bad-commands',
    };
  }

  #mayLogIn(): boolean {
    return this.#isSecure || this.#facts.plaintextAllowed;
  }

  #capabilities(): string {
    const startTls = this.#facts.canStartTls && !this.#isSecure ? ' STARTTLS' : '';
    return `IMAP4rev1 SASL-IR LITERAL+ ID${startTls} ${this.#mayLogIn() ? 'AUTH=PLAIN' : 'LOGINDISABLED'}`;
  }

  logIn(options: LoginOptions): Promise<LoginResult> {
    return logInToImap(options);
  }

  welcome({ code, text, untagged }: LoggedIn): string {
    const lines = untagged.map(line => {
      if (line.name === 'CAPABILITY') return `* CAPABILITY ${withoutReferrals(line.text)}\r\n`;
      if (line.code !== null) return `* ${line.name} ${responseText(line.code, line.text)}\r\n`;
      return line.raw.toString('latin1');
    });
    return `${lines.join('')}${this.#tag} OK ${responseText(code, text)}\r\n`;
  }

  refused({ code, text }: Pick<Refused, 'code' | 'text'>): string {
    this.#refusals += 1;
    return `${this.#tag} NO ${responseText(code, text)}\r\n`;
  }

  failed(failure: Failure): string {
    const { code, text } = imapAnswer(failure);
    return `${this.#tag} NO [${code}] ${text}.\r\n`;
  }

  goodbye(failure: Failure): string {
    const { code, text } = imapAnswer(failure);
    return `* BYE [${code}] ${text}.\r\n`;
  }
}

function say(line: string): Extract<Step, { kind: 'say' }> {
  return { kind: 'say', text: `${line}\r\n` };
}

function bye(end: string, text: string): Step {
  return { kind: 'end', text: `* BYE ${text}\r\n`, end };
}

function astring(token: Token): Buffer | null {
  return token.kind === 'atom' || token.kind === 'string' ? token.bytes : null;
}

/** RFC 9051 §9 resp-text, as the node said it, but without the ways past us (RFC 2221). */
function responseText(code: ResponseCode | null, text: string): string {
  const words = text === '' ? 'Done.' : text;
  if (code === null || code.name === 'REFERRAL') return words;
  const value = code.name === 'CAPABILITY' ? withoutReferrals(code.value) : code.value;
  return `[${code.name}${value === '' ? '' : ` ${value}`}] ${words}`;
}
