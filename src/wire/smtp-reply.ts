/**
 * Reads SMTP and LMTP replies (RFC 5321 §4.2) from a node's bytes, split anywhere, several at once.
 * The LMTP client feeds it; it knows no socket. Bounded in line length, lines and bytes: a node that talks without end is a fault.
 * The text is cleaned of control characters here, so that a node's words can stand in another protocol's reply (promise 7).
 */
import type { Reply } from '../core/types.ts';

/** RFC 5321 §4.5.3.1.5 says 512; nodes with long texts are common, so twice the text line of §4.5.3.1.6. */
const lineLimitBytes = 2048;
const linesLimit = 64;
/** Replies that nobody asked for, or more than one command can cause: the peer has lost step. */
const fedLimitBytes = 256 * 1024;

const LF = 0x0a;
const CR = 0x0d;

/** After a fault the reader is spent: the connection has lost step and must be closed. */
export class ReplyReader {
  private pending: Buffer | null = null;
  private code = 0;
  private texts: string[] = [];

  /** Appends each whole reply to `into`. Returns what is wrong with the bytes, or null. */
  feed(chunk: Buffer, into: Reply[]): string | null {
    if (chunk.length > fedLimitBytes) return 'too much at once';
    const bytes = this.pending === null ? chunk : Buffer.concat([this.pending, chunk]);
    this.pending = null;
    let start = 0;
    for (let end = bytes.indexOf(LF); end !== -1; end = bytes.indexOf(LF, start)) {
      // Some send LF alone; nothing hangs on the difference here, unlike in a message.
      const textEnd = end > start && bytes[end - 1] === CR ? end - 1 : end;
      if (textEnd - start > lineLimitBytes) return 'reply line too long';
      const fault = this.line(bytes.toString('utf8', start, textEnd), into);
      if (fault !== null) return fault;
      start = end + 1;
    }
    if (bytes.length - start > lineLimitBytes) return 'reply line too long';
    // A copy: the chunk may be a slice of a large shared buffer.
    if (start < bytes.length) this.pending = Buffer.from(bytes.subarray(start));
    return null;
  }

  /** True between replies: nothing half read. */
  get atRest(): boolean {
    return this.pending === null && this.texts.length === 0;
  }

  private line(line: string, into: Reply[]): string | null {
    const code = codeOf(line);
    if (code === 0) return 'not a reply line';
    const mark = line.charCodeAt(3);
    const more = mark === 0x2d;
    // RFC 5321 §4.2: "250" alone is sent by some, and must be taken.
    if (!more && mark !== 0x20 && line.length > 3) return 'not a reply line';
    if (this.texts.length === 0) this.code = code;
    else if (this.code !== code) return 'reply codes differ within one reply';
    this.texts.push(clean(line.slice(4)));
    if (this.texts.length > linesLimit) return 'too many lines in a reply';
    if (more) return null;
    into.push(replyOf(this.code, this.texts));
    this.texts = [];
    return null;
  }
}

/** 0 where the line does not begin with a code (RFC 5321 §4.2: first digit 2-5, second 0-5). */
function codeOf(line: string): number {
  const a = line.charCodeAt(0) - 0x30;
  const b = line.charCodeAt(1) - 0x30;
  const c = line.charCodeAt(2) - 0x30;
  if (!(a >= 2 && a <= 5 && b >= 0 && b <= 9 && c >= 0 && c <= 9)) return 0;
  return a * 100 + b * 10 + c;
}

const enhancedForm = /^([245])\.\d{1,3}\.\d{1,3}(?= |$)/;

/** RFC 2034 §4: each line of a reply repeats the enhanced code. It is believed only where its class is the code's. */
function replyOf(code: number, texts: readonly string[]): Reply {
  const found = enhancedForm.exec(texts[0] ?? '');
  if (found === null || Number(found[1]) !== Math.floor(code / 100))
    return { code, enhanced: null, lines: texts };
  const enhanced = found[0];
  const lines = texts.map(text =>
    text.startsWith(enhanced) ? text.slice(enhanced.length).trimStart() : text,
  );
  return { code, enhanced, lines };
}

/** C0, DEL and C1 controls, and the line separators that a log viewer may break at. */
const unprintable = /[\p{Cc}\p{Zl}\p{Zp}]/u;
const allUnprintable = /[\p{Cc}\p{Zl}\p{Zp}]/gu;

function clean(text: string): string {
  return unprintable.test(text) ? text.replaceAll('\t', ' ').replace(allUnprintable, '?') : text;
}
