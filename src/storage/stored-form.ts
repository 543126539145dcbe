/**
 * A message as Maildir stores it: LF line ends (Dovecot's default, mail_save_crlf=no), chunk by chunk at any split, and its two sizes as
 * Dovecot counts them: physical (bytes of the file, `S=`) and virtual (each LF without a CR before it counted as two, `W=`).
 * Must give the same bytes and sizes for the same message every time: the final file name is made of them.
 */

export interface StoredForm {
  /** The stored bytes of this chunk. A CR at its end is kept back until the next one, or `end`. */
  push(chunk: Buffer): Buffer;
  /** What was kept back. */
  end(): Buffer;
  readonly physicalBytes: number;
  readonly virtualBytes: number;
}

const cr = 0x0d;
const lf = 0x0a;
const empty = Buffer.alloc(0);
const oneCr = Buffer.from([cr]);

export function createStoredForm(): StoredForm {
  let heldCr = false;
  let lastOut = 0;
  let physicalBytes = 0;
  let virtualBytes = 0;

  /** Copies `chunk` without the CRs that precede an LF. Runs between CRs are copied whole: this is the hot loop of a delivery. */
  function convert(chunk: Buffer): Buffer {
    const out = Buffer.allocUnsafe(chunk.length + 1);
    let length = 0;
    let start = 0;
    if (heldCr && chunk[0] !== lf) {
      out[length] = cr;
      length += 1;
    }
    heldCr = false;
    for (let at = chunk.indexOf(cr); at >= 0; at = chunk.indexOf(cr, at + 1)) {
      if (at === chunk.length - 1) {
        heldCr = true;
        length += chunk.copy(out, length, start, at);
        start = chunk.length;
      } else if (chunk[at + 1] === lf) {
        length += chunk.copy(out, length, start, at);
        start = at + 1;
      }
    }
    length += chunk.copy(out, length, start);
    return out.subarray(0, length);
  }

  function count(out: Buffer): Buffer {
    physicalBytes += out.length;
    virtualBytes += out.length;
    for (let at = out.indexOf(lf); at >= 0; at = out.indexOf(lf, at + 1)) {
      if ((at === 0 ? lastOut : out[at - 1]) !== cr) virtualBytes += 1;
    }
    lastOut = out.at(-1) ?? lastOut;
    return out;
  }

  return {
    push: chunk => (chunk.length === 0 ? empty : count(convert(chunk))),
    end() {
      if (!heldCr) return empty;
      heldCr = false;
      return count(oneCr);
    },
    get physicalBytes() {
      return physicalBytes;
    },
    get virtualBytes() {
      return virtualBytes;
    },
  };
}
