/**
 * One user's mail client during a drill: holds an IMAP session, notes when it is cut, and comes back as real clients do.
 * It tells an outage from a wrong password by what it was answered; that difference is a promise.
 */
import { ImapFlow } from 'imapflow';
import type { User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { RefusedLogin } from './report.ts';
import { pause } from './wait.ts';

export interface Account {
  readonly user: User;
  readonly password: string;
}

export interface ImapAt {
  readonly address: string;
  readonly port: number;
}

/** Times on the monotonic clock. */
export interface CutNote {
  readonly atMs: number;
  backAtMs: number | null;
}

export interface Holder {
  readonly user: User;
  readonly cuts: readonly CutNote[];
  readonly refused: readonly RefusedLogin[];
  isIn(): boolean;
  /** Logs out, and stays out until `comeIn`. */
  goOut(): Promise<void>;
  comeIn(): void;
}

const retryAfterMs = 200;

export function holdSession(clock: Clock, at: ImapAt, { user, password }: Account): Holder {
  const cuts: CutNote[] = [];
  const refused: RefusedLogin[] = [];
  let client: ImapFlow | null = null;
  let wanted = true;
  let trying = false;

  async function comeIn(): Promise<void> {
    if (trying) return;
    trying = true;
    while (wanted && client === null) {
      const one = openClient(at, { user, password });
      try {
        await one.connect();
        await one.mailboxOpen('INBOX');
        client = one;
        const cut = cuts.at(-1);
        if (cut !== undefined) cut.backAtMs ??= clock.now();
        one.once('close', () => whenClosed(one));
      } catch (error) {
        one.close();
        refused.push({ user, ...readRefusal(error) });
        await pause(clock, retryAfterMs);
      }
    }
    trying = false;
    // Told to leave while the login was under way.
    if (!wanted) await leave();
  }

  function whenClosed(one: ImapFlow): void {
    if (client !== one) return;
    client = null;
    if (!wanted) return;
    cuts.push({ atMs: clock.now(), backAtMs: null });
    comeIn().catch(() => undefined);
  }

  function leave(): Promise<void> {
    const one = client;
    client = null;
    return one === null ? Promise.resolve() : one.logout().catch(() => one.close());
  }

  comeIn().catch(() => undefined);
  return {
    ...{ user, cuts, refused },
    isIn: () => client !== null,
    goOut: () => {
      wanted = false;
      return leave();
    },
    comeIn: () => {
      wanted = true;
      comeIn().catch(() => undefined);
    },
  };
}

export function openClient({ address, port }: ImapAt, { user, password }: Account): ImapFlow {
  const client = new ImapFlow({
    ...{ host: address, port, secure: false, doSTARTTLS: false, logger: false, emitLogs: false },
    ...{ auth: { user, pass: password }, tls: { rejectUnauthorized: false } },
    ...{ connectionTimeout: 15_000, greetingTimeout: 15_000, socketTimeout: 120_000 },
  });
  // Without a listener an error event would end the drill; `close` follows it and is what counts.
  client.on('error', () => undefined);
  return client;
}

/** RFC 5530: AUTHENTICATIONFAILED and its like are about the user, UNAVAILABLE is about us. */
function readRefusal(error: unknown): Pick<RefusedLogin, 'kind' | 'text'> {
  const told = (typeof error === 'object' && error !== null ? error : {}) as { [field: string]: unknown };
  const answer = typeof told.response === 'string' ? told.response : '';
  const text = `${answer} ${error instanceof Error ? error.message : String(error)}`.trim();
  if (told.serverResponseCode === 'UNAVAILABLE' || answer.includes('[UNAVAILABLE]'))
    return { kind: 'unavailable', text };
  // imapflow calls every NO to a login an authentication failure; so does every user.
  if (/\b(NO|BAD)\b/.test(answer)) return { kind: 'wrong-password', text };
  const code = typeof told.code === 'string' ? told.code : '';
  if (/^E|NoConnection|Timeout/i.test(code)) return { kind: 'no-connection', text };
  return { kind: 'other', text };
}
