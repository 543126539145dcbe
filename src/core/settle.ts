/**
 * From what became of each recipient to what the client is told: the last step of a message's way. Design §5.
 * DANGER: a wrong line here loses mail or doubles it. Once a 2xx is sent the message is ours; once a 4xx is, the client sends all again.
 *
 * LMTP (RFC 2033 §4.2) has one reply for each accepted RCPT: each outcome answers for itself.
 * SMTP has one reply for all, so the outcomes are weighed together:
 *
 *     delivered  in-doubt  deferred  rejected    reply
 *     all                                        250
 *     some        any       any       any        250 once in-doubt and deferred are queued; a DSN for the rejected
 *     none        some      any       any        the same: it may have arrived, so the client must not send it again
 *     none        none      some      any        the first deferral, 4xx: nobody has it, the client keeps it, no DSN
 *     none        none      none      all        the first rejection, 5xx: the client tells the sender
 *
 * `delivered` by the courier `queue` counts as delivered: it is ours and durable. A 4xx never follows a delivery, with one exception
 * that has no good answer: the queue cannot be written after someone was delivered. Then 451, since twice is better than lost.
 */
import { type Failure, lmtpReply, smtpReply } from './failure.ts';
import type { Outcome, Reply } from './types.ts';

/** What an SMTP transaction still needs before its reply. Numbers are positions in the given outcomes. */
export interface SmtpSettlement {
  /** To be written to the queue, durably, before `reply` is sent. In-doubt ones stay bound to their outcome's node or courier. */
  readonly queue: readonly number[];
  /** A DSN is due for these, with their outcome's reply; queue it like them. */
  readonly bounce: readonly number[];
  /** Refused after others were delivered, and the sender is null: RFC 5321 §4.5.5 forbids a DSN. Log them; nobody is told. */
  readonly dropped: readonly number[];
  /** Sent once `queue` and `bounce` are on disk. */
  readonly reply: Reply;
  /** Sent where they could not be. The same as `reply` if both are empty. */
  readonly ifQueueFails: Reply;
}

export interface SmtpOptions {
  /** Envelope sender; '' is the null sender. */
  readonly from: string;
  /** Our queue id, told to the client with the 250. */
  readonly id: string;
}

/** One reply for each outcome, in order: RCPTs that name one mailbox twice have two. A missing outcome is in doubt. */
export function settleLmtp(outcomes: readonly (Outcome | null)[]): readonly Reply[] {
  return outcomes.map(outcome =>
    outcome === null ? lmtpReply({ kind: 'in-doubt' }) : replyOf(outcome, lmtpReply),
  );
}

/** The one reply for all, and what must be on disk first. At least one outcome. */
export function settleSmtp(outcomes: readonly Outcome[], { from, id }: SmtpOptions): SmtpSettlement {
  if (outcomes.length === 0)
    throw new Error('settleSmtp: a transaction without recipients has nothing to settle');
  const ours = outcomes.some(outcome => outcome.kind === 'delivered' || outcome.kind === 'in-doubt');
  if (!ours) return nobodyHasIt(outcomes);
  const queue = positions(outcomes, ['in-doubt', 'deferred']);
  const rejected = positions(outcomes, ['rejected']);
  const bounce = from === '' ? [] : rejected;
  const reply: Reply = { code: 250, enhanced: '2.0.0', lines: [`OK, ${id}`] };
  const durable = queue.length === 0 && bounce.length === 0;
  const ifQueueFails = durable ? reply : smtpReply({ kind: 'queue-failed' });
  return { queue, bounce, dropped: from === '' ? rejected : [], reply, ifQueueFails };
}

function nobodyHasIt(outcomes: readonly Outcome[]): SmtpSettlement {
  const spokesman = outcomes.find(outcome => outcome.kind === 'deferred') ?? outcomes[0];
  const reply = spokesman === undefined ? smtpReply({ kind: 'internal' }) : replyOf(spokesman, smtpReply);
  return { queue: [], bounce: [], dropped: [], reply, ifQueueFails: reply };
}

function positions(outcomes: readonly Outcome[], kinds: readonly Outcome['kind'][]): number[] {
  return outcomes.flatMap((outcome, position) => (kinds.includes(outcome.kind) ? [position] : []));
}

/** The outcome's own reply, unless it says something else than its kind: then ours. A 250 for a deferral would lose mail. */
function replyOf({ kind, node, reply }: Outcome, say: (f: Failure) => Reply): Reply {
  const class_ = Math.trunc(reply.code / 100);
  switch (kind) {
    case 'delivered':
      return class_ === 2 ? reply : { code: 250, enhanced: '2.0.0', lines: ['OK'] };
    case 'rejected':
      // Without a permanent code we have nobody's word for a permanent refusal: the client keeps the message.
      return class_ === 5 ? reply : say({ kind: 'internal', node: node ?? undefined });
    case 'deferred':
      return class_ === 4 ? reply : say({ kind: 'node-refused', node: node ?? undefined });
    case 'in-doubt':
      return class_ === 4 ? reply : say({ kind: 'in-doubt', node: node ?? undefined });
  }
}
