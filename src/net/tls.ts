/**
 * Our side of TLS: certificate and key, read and followed by the parent (the key may be root's alone), handed as text to whoever
 * serves, and there a SecureContext and the server's end of a handshake. A renewed certificate counts from the next handshake on;
 * TLS 1.2 is the least. Must never take a broken renewal: the last good pair stays, and the log says what is wrong with the new files.
 */
import { readFile, stat } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { createSecureContext, type SecureContext, TLSSocket } from 'node:tls';
import type { Log } from '../observe/log.ts';
import type { Clock } from './clock.ts';

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
}

/** PEM texts. A secret: never logged. */
export interface TlsTexts {
  readonly cert: string;
  readonly key: string;
}

export type ContextResult =
  | { readonly ok: true; readonly context: SecureContext }
  | { readonly ok: false; readonly why: string };

export function secureContextOf({ cert, key }: TlsTexts): ContextResult {
  try {
    return {
      ok: true,
      context: createSecureContext({ cert, key, minVersion: 'TLSv1.2', honorCipherOrder: true }),
    };
  } catch (error) {
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
  }
}

export type TlsRead =
  | { readonly ok: true; readonly texts: TlsTexts }
  | { readonly ok: false; readonly why: string };

/** Reads both files and tries them together. A missing file, or a key that does not fit its certificate, is named in `why`. */
export async function readTls({ cert, key }: TlsFiles): Promise<TlsRead> {
  try {
    const [certText, keyText] = await Promise.all([readFile(cert, 'utf8'), readFile(key, 'utf8')]);
    const texts = { cert: certText, key: keyText };
    const tried = secureContextOf(texts);
    return tried.ok ? { ok: true, texts } : { ok: false, why: `${cert}, ${key}: ${tried.why}` };
  } catch (error) {
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
  }
}

export interface TlsWatchOptions {
  readonly files: TlsFiles;
  /** What is in use. */
  readonly texts: TlsTexts;
  readonly clock: Clock;
  readonly log: Log;
  readonly onChange: (texts: TlsTexts) => void;
  /** How often the files are looked at. */
  readonly everyMs?: number;
}

export interface TlsWatch {
  /** Looks at the files now (SIGHUP); resolves when what they hold is in use, or refused. */
  check(): Promise<void>;
  stop(): void;
}

/** Polls instead of watching: renewals come as renames and swapped symlinks, also on shared file systems without notice. */
export function watchTls(options: TlsWatchOptions): TlsWatch {
  const { files, clock, log, onChange, everyMs = 10_000 } = options;
  let { texts } = options;
  let seen = '';
  let isStopped = false;
  let cancel = () => {};

  let running: Promise<void> | null = null;

  const look = async (): Promise<void> => {
    const now = await fingerprint(files);
    if (now === seen || isStopped) return;
    // Between a new certificate and its new key the pair does not fit: `seen` moves in any case, and again with the second file.
    seen = now;
    const read = await readTls(files);
    if (isStopped) return;
    if (!read.ok) {
      log.error({ why: read.why }, 'certificate not changed: the new files cannot be used');
      return;
    }
    if (read.texts.cert === texts.cert && read.texts.key === texts.key) return;
    texts = read.texts;
    onChange(texts);
    log.info({ cert: files.cert }, 'certificate read anew');
  };
  // A look under way may have read before the change that the caller means.
  const check = async (): Promise<void> => {
    while (running !== null) await running;
    running = look().finally(() => {
      running = null;
    });
    await running;
  };
  const turn = () => {
    if (isStopped) return;
    void check().then(() => {
      if (!isStopped) cancel = clock.after(everyMs, turn);
    });
  };
  turn();
  return {
    check,
    stop: () => {
      isStopped = true;
      cancel();
    },
  };
}

async function fingerprint({ cert, key }: TlsFiles): Promise<string> {
  const one = async (path: string) => {
    try {
      const { ino, size, mtimeMs } = await stat(path);
      return `${ino}/${size}/${mtimeMs}`;
    } catch {
      return 'missing';
    }
  };
  return `${await one(cert)} ${await one(key)}`;
}

/**
 * Puts TLS on an accepted socket, as the server. The caller has stopped reading it and dropped what the client sent behind
 * STARTTLS: nothing from before the handshake may count after it (RFC 9051 §6.2.1, CVE-2011-0411).
 * Emits `secure` when the handshake is done, `error` when it fails. The handshake has no timer of its own.
 */
export function wrapServer(socket: Socket, context: SecureContext): TLSSocket {
  const secure = new TLSSocket(socket, { isServer: true, secureContext: context, requestCert: false });
  // Without a tls.Server around it, Node tells errors of the TLS layer only here, and would leave the socket open for ever.
  secure.on('_tlsError', (error: Error) => secure.destroy(error));
  return secure;
}
