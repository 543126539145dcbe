/**
 * The shallow check of one backend, every second: connect, read the greeting, say goodbye.
 * It tells what it saw as evidence and judges nothing: core/health decides what that means.
 * Must never count silence as death by itself, and never leave a socket behind.
 */
import { connect } from 'node:net';
import type { Evidence, Protocol } from '../core/types.ts';

export interface ProbeOptions {
  readonly address: string;
  readonly port: number;
  readonly protocol: Protocol;
  /** For the connect, and once more for the greeting after it. */
  readonly timeoutMs: number;
}

export interface ProbeResult {
  readonly evidence: Evidence;
  /** For people: "ECONNREFUSED", "greeted in 2 ms", "* BYE …". */
  readonly why: string;
}

interface Dialect {
  readonly welcome: RegExp;
  readonly goodbye: string;
}

/** RFC 9051 §7.1, RFC 1939 §4, RFC 5804 §1.3, RFC 5321 §4.2: how each protocol greets, and its polite end. */
const dialects: Readonly<Record<Protocol, Dialect>> = {
  imap: { welcome: /^\* (OK|PREAUTH)\b/i, goodbye: 'p LOGOUT\r\n' },
  pop3: { welcome: /^\+OK\b/i, goodbye: 'QUIT\r\n' },
  sieve: { welcome: /^("|OK\b)/i, goodbye: 'LOGOUT\r\n' },
  lmtp: { welcome: /^220[ -]/, goodbye: 'QUIT\r\n' },
  submission: { welcome: /^220[ -]/, goodbye: 'QUIT\r\n' },
};

const greetingLimitBytes = 1024;

/** Never rejects; ends within twice `timeoutMs`. */
export function probeBackend({ address, port, protocol, timeoutMs }: ProbeOptions): Promise<ProbeResult> {
  const dialect = dialects[protocol];
  return new Promise(resolve => {
    const socket = connect({ host: address, port, noDelay: true });
    let isConnected = false;
    let seen = '';
    let timer = setTimeout(() => end('connect-failed', `no connection within ${timeoutMs} ms`), timeoutMs);

    const end = (evidence: Evidence, why: string) => {
      clearTimeout(timer);
      socket.removeAllListeners();
      // After `end` an error (the node's RST) is of no interest, but must not crash anybody.
      socket.on('error', () => {});
      if (evidence === 'ok') {
        socket.end(dialect.goodbye);
        socket.resume();
        socket.setTimeout(timeoutMs, () => socket.destroy());
      } else socket.destroy();
      resolve({ evidence, why });
    };

    socket.on('connect', () => {
      isConnected = true;
      clearTimeout(timer);
      timer = setTimeout(() => end('greeting-timeout', `no greeting within ${timeoutMs} ms`), timeoutMs);
    });
    socket.on('data', chunk => {
      seen += chunk.toString('latin1', 0, greetingLimitBytes);
      const lineEnd = seen.indexOf('\n');
      if (lineEnd < 0 && seen.length < greetingLimitBytes) return;
      const line = seen.slice(0, lineEnd < 0 ? greetingLimitBytes : lineEnd).trimEnd();
      end(
        dialect.welcome.test(line) ? 'ok' : 'explicit-error',
        line.replace(/[^\x20-\x7e]/g, '?').slice(0, 200),
      );
    });
    // A connection that is accepted and then dropped before its greeting failed as surely as a refused one.
    socket.on('error', error => end('connect-failed', 'code' in error ? String(error.code) : error.message));
    socket.on('close', () => end('connect-failed', isConnected ? 'closed before its greeting' : 'closed'));
  });
}
