/**
 * Parses what an IMAP client sends before it is logged in: tag, command, atoms, quoted strings, literals `{n}` and `{n+}`
 * (RFC 9051 §9, RFC 7888). Bytes in, events out, by `next()`: so the session can stop after LOGIN and pass the rest on unparsed.
 * Must never know a socket, never hold more than its limits, and never depend on how the bytes were split.
 *
 *     line ──complete──▶ command            line ends in {n}  ──"literal" event──▶ n bytes ──▶ line (same command)
 *       │                                   line ends in {n+} ─────────────────────▶ n bytes ──▶ line (same command)
 *       ├─ fault: the rest of the command, its {n+} literals too, is skipped, then `bad`
 *       └─ beyond a limit: `fatal`, nothing after it is trusted
 */
import { Lines } from './lines.ts';

export interface CommandLimits {
  /** One line, without CRLF. */
  readonly lineBytes: number;
  readonly literalBytes: number;
  /** All lines and literals of one command. */
  readonly commandBytes: number;
  readonly tokens: number;
}

/** Room for the largest ID (RFC 2971 §3.3: 30 pairs) and for SASL tokens; LITERAL- promises 4096 (RFC 7888 §5). */
export const defaultCommandLimits: CommandLimits = {
  lineBytes: 8192,
  literalBytes: 4096,
  commandBytes: 32_768,
  tokens: 80,
};

/** `open` and `close` are parentheses. A quoted string and a literal mean the same; both are `string`. */
export type Token =
  | { readonly kind: 'atom' | 'string'; readonly bytes: Buffer }
  | { readonly kind: 'open' | 'close' };

export type CommandEvent =
  | {
      readonly kind: 'command';
      readonly tag: string;
      readonly name: string;
      readonly tokens: readonly Token[];
    }
  /** The client waits for `+` before it sends its literal. */
  | { readonly kind: 'literal' }
  /** The line asked for by `expectLine` (a SASL response). */
  | { readonly kind: 'line'; readonly bytes: Buffer }
  /** The command was skipped; `tag` is null where none could be read. `why` never quotes the input: it may be a password. */
  | { readonly kind: 'bad'; readonly tag: string | null; readonly why: string; readonly firstWord: string }
  | { readonly kind: 'fatal'; readonly tag: string | null; readonly why: string };

interface LiteralSpec {
  readonly bytes: number;
  readonly waits: boolean;
}

const maxTagBytes = 64;
const maxNameBytes = 32;
const empty = Buffer.alloc(0);

export class CommandParser {
  readonly #limits: CommandLimits;
  readonly #lines: Lines;
  #state: 'first-line' | 'literal' | 'more-line' | 'dead' = 'first-line';
  #lineExpected = false;
  #literalBytes = 0;
  #tag: string | null = null;
  #name = '';
  #firstWord = '';
  #tokens: Token[] = [];
  #commandBytes = 0;
  #fault: string | null = null;

  constructor(limits: CommandLimits = defaultCommandLimits) {
    this.#limits = limits;
    this.#lines = new Lines(limits.lineBytes);
  }

  get heldBytes(): number {
    return this.#lines.heldBytes;
  }

  push(bytes: Buffer): void {
    this.#lines.push(bytes);
  }

  /** The next line is no command but an answer to our `+` (RFC 9051 §6.2.2). */
  expectLine(): void {
    this.#lineExpected = true;
  }

  /** What was not parsed: for the node after its OK, or dropped at STARTTLS. */
  rest(): Buffer {
    return this.#lines.rest();
  }

  next(): CommandEvent | null {
    for (;;) {
      if (this.#state === 'dead') return null;
      if (this.#state === 'literal') {
        const block = this.#lines.take(this.#literalBytes);
        if (block === null) return null;
        // A NUL can be in no string (RFC 9051 §9, CHAR8).
        if (block.includes(0)) this.#fault ??= 'NUL in a literal';
        this.#addToken({ kind: 'string', bytes: block });
        this.#state = 'more-line';
        continue;
      }
      const line = this.#lines.nextLine();
      if (line === null) return null;
      if (line === 'too-long') return this.#die('line too long');
      const event = this.#lineExpected ? this.#expectedLine(line) : this.#commandLine(line);
      if (event !== null) return event;
    }
  }

  #expectedLine(bytes: Buffer): CommandEvent {
    this.#lineExpected = false;
    return { kind: 'line', bytes };
  }

  #commandLine(line: Buffer): CommandEvent | null {
    this.#commandBytes += line.length;
    let from = 0;
    if (this.#state === 'first-line') from = this.#readHead(line);
    const literal = this.#readTokens(line, from);
    if (literal === null) return this.#endCommand();
    if (
      literal.bytes > this.#limits.literalBytes ||
      this.#commandBytes + literal.bytes > this.#limits.commandBytes
    ) {
      // A client that waits can be told so; one that doesn't is sending already (RFC 7888 §4: close).
      if (!literal.waits) return this.#die('literal too big');
      this.#fault ??= 'literal too big';
    }
    if (this.#fault !== null && literal.waits) return this.#endCommand();
    this.#commandBytes += literal.bytes;
    this.#literalBytes = literal.bytes;
    this.#state = 'literal';
    return literal.waits ? { kind: 'literal' } : null;
  }

  /** Tag and command name. Returns where the arguments begin. */
  #readHead(line: Buffer): number {
    const tagEnd = wordEnd(line, 0);
    const tag = line.toString('latin1', 0, Math.min(tagEnd, maxTagBytes + 1));
    this.#firstWord = tag;
    if (!isTag(tag)) {
      this.#fault = 'no valid tag';
      return tagEnd;
    }
    this.#tag = tag;
    const nameEnd = wordEnd(line, tagEnd + 1);
    const name = line
      .toString('latin1', tagEnd + 1, Math.min(nameEnd, tagEnd + 2 + maxNameBytes))
      .toUpperCase();
    if (!/^[A-Z][A-Z0-9._-]{0,31}$/.test(name)) this.#fault = 'no valid command';
    else this.#name = name;
    return nameEnd;
  }

  /** Reads the arguments of one line; returns the literal it ends with, if any. */
  #readTokens(line: Buffer, from: number): LiteralSpec | null {
    let at = from;
    while (this.#fault === null && at < line.length) {
      const byte = line[at];
      if (byte === space) at += 1;
      else if (byte === parenOpen || byte === parenClose) {
        this.#addToken({ kind: byte === parenOpen ? 'open' : 'close' });
        at += 1;
      } else if (byte === quote) at = this.#readQuoted(line, at);
      else if (byte === braceOpen) break;
      else at = this.#readAtom(line, at);
    }
    const literal = literalAtEnd(line);
    // After a fault the literal that the client announced is skipped too, else its bytes would be taken for commands.
    if (this.#fault !== null) return literal;
    if (at < line.length && (literal === null || line.lastIndexOf(braceOpen) !== at))
      this.#fault = 'malformed literal';
    return at < line.length ? literal : null;
  }

  #readQuoted(line: Buffer, open: number): number {
    let at = open + 1;
    let escaped = false;
    for (; at < line.length; at += 1) {
      const byte = line[at];
      if (byte === quote) break;
      if (byte === 0) this.#fault = 'NUL in a string';
      if (byte === backslash) {
        at += 1;
        escaped = true;
        if (line[at] !== quote && line[at] !== backslash) this.#fault = 'wrong escape in a string';
      }
    }
    if (at >= line.length) this.#fault ??= 'string without end';
    if (!endsToken(line[at + 1])) this.#fault ??= 'no space after a string';
    const inner = line.subarray(open + 1, at);
    this.#addToken({ kind: 'string', bytes: escaped ? unquote(inner) : inner });
    return at + 1;
  }

  #readAtom(line: Buffer, from: number): number {
    let at = from;
    for (; at < line.length && !endsToken(line[at]); at += 1) {
      const byte = line[at] ?? 0;
      // Wildcards, backslash and 8-bit are let through: passwords come unquoted from real clients, and we encode anew.
      if (byte < space || byte === 0x7f || byte === quote || byte === braceOpen)
        this.#fault = 'wrong character';
    }
    this.#addToken({ kind: 'atom', bytes: line.subarray(from, at) });
    return at;
  }

  #addToken(token: Token): void {
    if (this.#tokens.length >= this.#limits.tokens) this.#fault ??= 'too many arguments';
    if (this.#fault === null) this.#tokens.push(token);
  }

  #endCommand(): CommandEvent {
    if (this.#commandBytes > this.#limits.commandBytes) this.#fault ??= 'command too long';
    const event: CommandEvent =
      this.#fault === null && this.#tag !== null
        ? { kind: 'command', tag: this.#tag, name: this.#name, tokens: this.#tokens }
        : { kind: 'bad', tag: this.#tag, why: this.#fault ?? 'no valid tag', firstWord: this.#firstWord };
    this.#state = 'first-line';
    this.#tag = null;
    this.#name = '';
    this.#firstWord = '';
    this.#tokens = [];
    this.#commandBytes = 0;
    this.#fault = null;
    return event;
  }

  #die(why: string): CommandEvent {
    this.#state = 'dead';
    this.#lines.rest();
    return { kind: 'fatal', tag: this.#tag, why };
  }
}

const space = 0x20;
const quote = 0x22;
const parenOpen = 0x28;
const parenClose = 0x29;
const backslash = 0x5c;
const braceOpen = 0x7b;

function wordEnd(line: Buffer, from: number): number {
  const end = line.indexOf(space, from);
  return end === -1 ? line.length : end;
}

function endsToken(byte: number | undefined): boolean {
  return byte === undefined || byte === space || byte === parenOpen || byte === parenClose;
}

/** RFC 9051 §9: ASTRING-CHARs except "+". Only such a tag is ever echoed. */
function isTag(tag: string): boolean {
  return tag.length <= maxTagBytes && /^[!#$&',\-./0-9:;<=>?@A-Z[\]^_`a-z|}~]+$/.test(tag);
}

function literalAtEnd(line: Buffer): LiteralSpec | null {
  const match = /\{(\d{1,10})(\+?)\}$/.exec(line.toString('latin1', Math.max(0, line.length - 14)));
  return match === null ? null : { bytes: Number(match[1]), waits: match[2] === '' };
}

function unquote(bytes: Buffer): Buffer {
  const out = Buffer.alloc(bytes.length);
  let size = 0;
  for (let at = 0; at < bytes.length; at += 1) {
    if (bytes[at] === backslash) at += 1;
    out[size] = bytes[at] ?? 0;
    size += 1;
  }
  return size === 0 ? empty : out.subarray(0, size);
}
