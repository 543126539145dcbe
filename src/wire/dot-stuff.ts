/**
 * Dot-stuffing on output (RFC 5321 §4.5.2), chunk by chunk: the last step of a body on its way to a node.
 * Takes a canonical body (CRLF only, unstuffed) split anywhere. DANGER: a dot after *any* LF is stuffed, also after a bare one that
 * should not be here: Dovecot 2.3 takes `\n.\n` for the end of a message, and one message in must be one message out.
 */

const LF = 0x0a;
const DOT = 0x2e;
const lineThenDot = Buffer.from('\n.');
const ending = Buffer.from('.\r\n');
const endingAfterHalfLine = Buffer.from('\r\n.\r\n');

export class DotStuffer {
  private atLineStart = true;

  /** What to write for this chunk: the chunk itself where there is nothing to stuff, else a copy. */
  stuff(chunk: Buffer): Buffer {
    if (chunk.length === 0) return chunk;
    const dotFirst = this.atLineStart && chunk[0] === DOT;
    this.atLineStart = chunk[chunk.length - 1] === LF;
    let found = chunk.indexOf(lineThenDot);
    if (found === -1 && !dotFirst) return chunk;
    const dots: number[] = dotFirst ? [0] : [];
    for (; found !== -1; found = chunk.indexOf(lineThenDot, found + 1)) dots.push(found + 1);
    const out = Buffer.allocUnsafe(chunk.length + dots.length);
    let from = 0;
    let to = 0;
    for (const dot of dots) {
      to += chunk.copy(out, to, from, dot);
      out[to] = DOT;
      to += 1;
      from = dot;
    }
    chunk.copy(out, to, from);
    return out;
  }

  /** The end of the message. A body that breaks off within a line gets its CRLF, lest its last line swallow the dot. */
  end(): Buffer {
    return this.atLineStart ? ending : endingAfterHalfLine;
  }
}
