/**
 * Our side of TLS: certificate and key as a SecureContext, read anew when the files change, and the server's end of a handshake.
 * Sessions ask for the context at each handshake, so a renewed certificate counts from the next one on; TLS 1.2 is the least.
 * Must never take a broken renewal: the last good context stays, and the log says what is wrong with the new files.
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

export type ContextResult =
  | { readonly ok: true; readonly context: SecureContext }
  | { readonly ok: false; readonly why: string };

/** Reads both files. A missing file, or a key that does not fit its certificate, is named in `why`. */
export async function loadSecureContext({ cert, key }: TlsFiles): Promise<ContextResult> {
  try {
    const [certText, keyText] = await Promise.all([readFile(cert), readFile(key)]);
    const context = createSecureContext({
      cert: certText,
      key: keyText,
      minVersion: 'TLSv1.2',
      honorCipherOrder: true,
    });
    return { ok: true, context };
  } catch (error) {
    return { ok: false, why: `${cert}, ${key}: ${error instanceof Error ? error.message : String(error)}` };
  }
}

export interface TlsKeeper {
  /** The context for the next handshake. */
  context(): SecureContext;
  /** Looks at the files now (SIGHUP); resolves when what they hold is in use, or refused. */
  check(): Promise<void>;
  close(): void;
}

export type TlsKeeperResult =
  | { readonly ok: true; readonly keeper: TlsKeeper }
  | { readonly ok: false; readonly why: string };

export interface TlsKeeperOptions extends TlsFiles {
  readonly clock: Clock;
  readonly log: Log;
  /** How often the files are looked at. */
  readonly everyMs?: number;
}

/** Polls instead of watching: renewals come as renames and swapped symlinks, also on shared file systems without notice. */
export async function keepSecureContext(options: TlsKeeperOptions): Promise<TlsKeeperResult> {
  const seen = await fingerprint(options);
  const first = await loadSecureContext(options);
  if (!first.ok) return first;
  const keeper = new FileKeeper(options, first.context, seen);
  keeper.watch();
  return { ok: true, keeper };
}

class FileKeeper implements TlsKeeper {
  readonly #options: TlsKeeperOptions;
  #context: SecureContext;
  #seen: string;
  #cancel: () => void = () => {};
  #closed = false;

  constructor(options: TlsKeeperOptions, context: SecureContext, seen: string) {
    this.#options = options;
    this.#context = context;
    this.#seen = seen;
  }

  context(): SecureContext {
    return this.#context;
  }

  watch(): void {
    if (this.#closed) return;
    this.#cancel = this.#options.clock.after(this.#options.everyMs ?? 10_000, () => {
      void this.check().then(() => this.watch());
    });
  }

  async check(): Promise<void> {
    const { log, cert } = this.#options;
    const now = await fingerprint(this.#options);
    if (now === this.#seen) return;
    const result = await loadSecureContext(this.#options);
    // Between a new certificate and its new key both are looked at once more at the next turn: `seen` moves in any case,
    // and moves again when the second file changes.
    this.#seen = now;
    if (result.ok) {
      this.#context = result.context;
      log.info({ cert }, 'certificate read anew');
    } else log.error({ why: result.why }, 'certificate not changed: the new files cannot be used');
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
  }
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
  return new TLSSocket(socket, {
    isServer: true,
    secureContext: context,
    requestCert: false,
    allowHalfOpen: true,
  } as object);
}
