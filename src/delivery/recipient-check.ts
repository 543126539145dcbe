/**
 * Questions to nodes about recipients at RCPT time: gathered, so that a burst of RCPTs is one round trip, and remembered for seconds.
 * Stands between the transaction's RCPT and the LMTP pool. Only a yes is remembered: a no or a failure must be the node's word of now.
 * Must never hold more than its limits, nor keep anybody waiting past their deadline.
 */
import { lmtpReply } from '../core/failure.ts';
import type { ClusterNode, Reply } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';

export interface RecipientCheckLimits {
  /** How long a node's yes stands. */
  readonly rememberMs: number;
  readonly rememberMax: number;
  /** Recipients in one question. */
  readonly batchMax: number;
}

export interface RecipientCheckOptions extends Partial<RecipientCheckLimits> {
  /** One reply per recipient, in order; never rejects. */
  readonly ask: (
    node: ClusterNode,
    from: string,
    recipients: readonly string[],
    deadlineAtMs: number,
  ) => Promise<readonly Reply[]>;
  readonly clock: Clock;
}

export interface RecipientCheck {
  verify(node: ClusterNode, from: string, rcpt: string, deadlineAtMs: number): Promise<Reply>;
}

interface Batch {
  readonly node: ClusterNode;
  readonly from: string;
  readonly rcpts: string[];
  readonly replies: Promise<readonly Reply[]>;
  deadlineAtMs: number;
}

interface Yes {
  readonly reply: Reply;
  readonly untilMs: number;
}

export function createRecipientCheck(options: RecipientCheckOptions): RecipientCheck {
  const { ask, clock, rememberMs = 5_000, rememberMax = 10_000, batchMax = 100 } = options;
  const yeses = new Map<string, Yes>();
  const gathering = new Map<string, Batch>();

  const remember = (key: string, reply: Reply): void => {
    if (reply.code >= 300 || rememberMs <= 0) return;
    yeses.delete(key);
    yeses.set(key, { reply, untilMs: clock.now() + rememberMs });
    // The oldest is at the front.
    const oldest = yeses.keys().next().value;
    if (yeses.size > rememberMax && oldest !== undefined) yeses.delete(oldest);
  };

  const gather = (node: ClusterNode, from: string, deadlineAtMs: number): Batch => {
    const key = `${node.name}\n${from}`;
    const open = gathering.get(key);
    if (open !== undefined && open.rcpts.length < batchMax) {
      open.deadlineAtMs = Math.min(open.deadlineAtMs, deadlineAtMs);
      return open;
    }
    // The rest of this turn of the event loop may join: that is what one read from the client brought.
    const replies = new Promise<void>(resolve => setImmediate(resolve)).then(() => {
      if (gathering.get(key) === batch) gathering.delete(key);
      return ask(node, from, batch.rcpts, batch.deadlineAtMs);
    });
    const batch: Batch = { node, from, rcpts: [], replies, deadlineAtMs };
    gathering.set(key, batch);
    return batch;
  };

  return {
    async verify(node, from, rcpt, deadlineAtMs) {
      const key = `${node.name}\n${endpointOf(node)}\n${rcpt}`;
      const yes = yeses.get(key);
      if (yes !== undefined && yes.untilMs > clock.now()) return yes.reply;
      const batch = gather(node, from, deadlineAtMs);
      let at = batch.rcpts.indexOf(rcpt);
      if (at === -1) at = batch.rcpts.push(rcpt) - 1;
      const reply = (await batch.replies)[at] ?? lmtpReply({ kind: 'node-broke-off', node: node.name });
      remember(key, reply);
      return reply;
    },
  };
}

/** A node that moved is asked again. */
function endpointOf({ address, ports }: ClusterNode): string {
  return `${address}:${ports.lmtp ?? 0}`;
}
