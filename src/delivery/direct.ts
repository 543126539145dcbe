/**
 * Courier `direct`: the message goes into the user's own spool, through a writer process, while the home node is away.
 * Each recipient is a request of its own under its fixed Maildir name, so that asking twice delivers once:
 *
 *   ask ─done→ delivered
 *     ├─failure→ deferred (another courier may try), or in-doubt where it may stand in new/ all the same
 *     ├─the writer went away→ ask again, same name, `again`: it looks first ─ until the deadline
 *     └─silent by the deadline→ hung: deferred if the request never was whole, else in-doubt, and only this courier may try again
 * Must never answer `delivered` on anything but the writer's word, nor give a name up while a write under it may still happen.
 */
import { type Failure, lmtpReply } from '../core/failure.ts';
import type { Outcome, Recipient, User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { Log } from '../observe/log.ts';
import type { Courier, Errand, Letter } from './courier.ts';
import { createRecentNames } from './recent-names.ts';
import { createWriterClient } from './writer-client.ts';

export interface DirectOptions {
  /** Of the writer; a new writer takes the same place. */
  readonly socketPath: string;
  readonly clock: Clock;
  readonly log: Log;
  /** A request without progress for so long is hung. Default 20 s: longer than most cluster file systems' own failover stalls. */
  readonly requestTimeoutMs?: number;
  readonly verifyTimeoutMs?: number;
  /** Requests at the same time, a connection each. More wait for their turn. */
  readonly requestsLimit?: number;
  /** The writer hangs: replace it. At most once in `requestTimeoutMs`. */
  readonly onHung: () => void;
}

export interface Direct extends Courier {
  /** Whether the user's spool folder stands under a present mark. `unknown`: no mark, no writer, or trouble. */
  verify(user: User): Promise<'present' | 'absent' | 'unknown'>;
  close(): void;
}

/** How often one name is asked for within one errand: a message that kills each writer must not kill many. */
const attemptsMax = 3;
/** A letter younger than this, accepted by this process and not tried before, cannot have been written: no look into the mailbox. */
const freshMs = 30_000;
const namesLimit = 100_000;

export function createDirect(options: DirectOptions): Direct {
  const { clock, log, onHung } = options;
  const { requestTimeoutMs = 20_000, verifyTimeoutMs = 5000, requestsLimit = 128 } = options;
  const startedAtWallMs = clock.wall();
  const tried = createRecentNames({ now: clock.now, spanMs: freshMs, limit: namesLimit });
  const client = createWriterClient({
    socketPath: options.socketPath,
    clock,
    linksLimit: requestsLimit,
    hungAfterMs: requestTimeoutMs,
    onHung: () => {
      log.error({ ms: requestTimeoutMs }, 'the writer hangs');
      onHung();
    },
  });

  /** Names of letters from before this process (queue), or of some age, may have been written by an earlier try. */
  function mayBeWritten(letter: Letter, name: string): boolean {
    const ageMs = clock.wall() - letter.acceptedAtMs;
    return letter.acceptedAtMs < startedAtWallMs || ageMs < 0 || ageMs > freshMs || tried.has(name);
  }

  async function carryOne({ letter, deadlineAtMs }: Errand, recipient: Recipient): Promise<Outcome> {
    const endAtMs = Math.min(deadlineAtMs, clock.now() + requestTimeoutMs);
    const name = recipient.maildirName;
    const { body } = letter;
    let again = mayBeWritten(letter, name);
    let doubt = false;
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      const request = {
        kind: 'deliver',
        user: recipient.user,
        name,
        from: letter.from,
        to: recipient.address,
        again,
        bytes: body.bytes,
      } as const;
      const asked = await client.ask(request, body, endAtMs);
      if (asked.kind !== 'away') tried.add(name);
      again = true;
      switch (asked.kind) {
        case 'answer': {
          const { answer } = asked;
          if (answer.kind === 'done') return delivered(letter);
          if (answer.kind !== 'failure')
            return notDelivered({ kind: 'internal', text: 'wrong answer' }, true);
          return notDelivered(answer.failure, doubt || answer.mayBeThere);
        }
        case 'silent':
          return notDelivered({ kind: 'hung' }, doubt || asked.sent);
        case 'away':
          return notDelivered({ kind: 'hung', text: 'no writer' }, doubt);
        case 'broke':
          doubt ||= asked.sent;
      }
    }
    return notDelivered({ kind: 'io-error', text: 'the writer broke off' }, doubt);
  }

  return {
    name: 'direct',
    carry: errand => Promise.all(errand.recipients.map(recipient => carryOne(errand, recipient))),
    async verify(user) {
      const endAtMs = clock.now() + verifyTimeoutMs;
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const asked = await client.ask({ kind: 'verify', user }, null, endAtMs);
        if (asked.kind === 'broke') continue;
        return asked.kind === 'answer' && asked.answer.kind === 'presence'
          ? asked.answer.presence
          : 'unknown';
      }
      return 'unknown';
    },
    close: () => client.close(),
  };
}

function delivered(letter: Letter): Outcome {
  const reply = { code: 250, enhanced: '2.0.0', lines: [`${letter.id} saved in the spool`] };
  return { kind: 'delivered', courier: 'direct', node: null, reply };
}

function notDelivered(failure: Failure, doubt: boolean): Outcome {
  const kind = doubt ? 'in-doubt' : 'deferred';
  return { kind, courier: 'direct', node: null, reply: lmtpReply(failure), failure };
}
