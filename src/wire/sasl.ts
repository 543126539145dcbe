/**
 * SASL messages: PLAIN (RFC 4616) and strict base64 (RFC 4648 §3.5). Used towards clients to read, towards nodes to write.
 * Pure. Must never put a password into an error text, and a `Secret` never shows itself in a log, in JSON or in an inspection.
 */

const hidden = '[hidden]';

/** A password or token on its way from the client to the node. */
export class Secret {
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Only for writing to the node. */
  reveal(): Buffer {
    return this.#bytes;
  }

  toString(): string {
    return hidden;
  }

  toJSON(): string {
    return hidden;
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return hidden;
  }
}

/** What a client logs in with. Names are bytes as it sent them: they reach the node as they were typed. */
export interface Credentials {
  /** How it was given; the node may be spoken to in the other form. */
  readonly form: 'login' | 'plain';
  /** Whose mailbox, where it is not the name's own; empty otherwise. */
  readonly authzid: Buffer;
  readonly name: Buffer;
  readonly secret: Secret;
}

/** Null where the text is not canonical base64: wrong length, alphabet, padding, or stray bits at the end. */
export function decodeBase64(text: string): Buffer | null {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : null;
}

export type PlainMessage =
  | { readonly ok: true; readonly credentials: Credentials }
  | { readonly ok: false; readonly why: string };

/** RFC 4616 §2: `[authzid] NUL authcid NUL passwd`. */
export function readPlain(message: Buffer): PlainMessage {
  const first = message.indexOf(0);
  const second = first === -1 ? -1 : message.indexOf(0, first + 1);
  if (second === -1 || message.indexOf(0, second + 1) !== -1)
    return { ok: false, why: 'not a PLAIN message' };
  const name = message.subarray(first + 1, second);
  if (name.length === 0) return { ok: false, why: 'no user name' };
  const authzid = message.subarray(0, first);
  const secret = new Secret(message.subarray(second + 1));
  return { ok: true, credentials: { form: 'plain', authzid, name, secret } };
}

/** The PLAIN message in base64, ready for the wire. */
export function writePlain({ authzid, name, secret }: Credentials): string {
  const nul = Buffer.alloc(1);
  return Buffer.concat([authzid, nul, name, nul, secret.reveal()]).toString('base64');
}
