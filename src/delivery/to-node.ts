/**
 * The courier `node`: hands a letter to the LMTP port of the node that its recipients' place names, and asks nodes about recipients.
 * The node's own words pass as they are; what we could not do gets a failure of ours, which lets dispatch try another way.
 * Must never say `deferred` of a recipient whose final dot left us without a reply: that one is in doubt.
 */
import type { Handed, LmtpMessage } from '../backend/lmtp-client.ts';
import type { LmtpFault } from '../backend/lmtp-link.ts';
import {
  createLmtpPool,
  type LmtpAddress,
  type LmtpPool,
  type LmtpPoolOptions,
} from '../backend/lmtp-pool.ts';
import type { Admitting } from '../cluster/admission.ts';
import { type Failure, type FailureKind, lmtpReply } from '../core/failure.ts';
import { reach } from '../core/reach.ts';
import type { ClusterNode, NodeName, Outcome, Reply } from '../core/types.ts';
import type { Courier, Errand } from './courier.ts';
import { createRecipientCheck, type RecipientCheckLimits } from './recipient-check.ts';

export interface NodeCourierOptions extends Omit<LmtpPoolOptions, 'onEvidence'> {
  readonly admitting: Pick<Admitting, 'report'>;
  /** The node that this machine is itself, or null. */
  readonly self: NodeName | null;
  readonly check?: Partial<RecipientCheckLimits>;
}

export interface NodeCourier extends Courier {
  /**
   * The node's own reply to RCPT, asked on a kept connection; equal questions are asked once. 4.4.x or 421: not reached.
   * Never rejects; ends by `deadlineAtMs` (monotonic).
   */
  verifyRecipient(
    node: ClusterNode,
    from: string,
    rcpt: string,
    options: { readonly deadlineAtMs: number },
  ): Promise<Reply>;
  /** The node went down or is gone: its kept connections are closed. */
  nodeGone(name: NodeName): void;
  close(): void;
  readonly pool: LmtpPool;
}

export function createNodeCourier(options: NodeCourierOptions): NodeCourier {
  const pool = createLmtpPool({
    ...options,
    onEvidence: (node, evidence) => options.admitting.report(node, 'lmtp', evidence),
  });
  const checks = createRecipientCheck({
    ask: async (node, from, recipients, deadlineAtMs) => {
      const to = lmtpOf(node, options.self);
      if (to === null) return recipients.map(() => lmtpReply(noLmtp(node)));
      const handed = await pool.check(to, from, recipients, deadlineAtMs);
      return handed.map(each => outcomeOf(node.name, each).reply);
    },
    clock: options.clock,
    ...options.check,
  });
  return {
    name: 'node',
    carry: errand => carry(pool, errand, options.self),
    verifyRecipient: (node, from, rcpt, { deadlineAtMs }) => checks.verify(node, from, rcpt, deadlineAtMs),
    nodeGone: name => pool.closeNode(name),
    close: () => pool.close(),
    pool,
  };
}

async function carry(pool: LmtpPool, errand: Errand, self: NodeName | null): Promise<readonly Outcome[]> {
  const { letter, recipients, node, deadlineAtMs, leash } = errand;
  if (node === null) throw new Error('broken invariant: an errand to a node names its node');
  const to = lmtpOf(node, self);
  if (to === null) return recipients.map(() => ours(node.name, noLmtp(node)));
  const { from, body, eightBit, smtpUtf8 } = letter;
  const addresses = recipients.map(recipient => recipient.address);
  const message: LmtpMessage = { from, recipients: addresses, body, eightBit, smtpUtf8 };
  const handed = await pool.deliver(to, message, deadlineAtMs, leash);
  return handed.map(each => outcomeOf(node.name, each));
}

function lmtpOf(node: ClusterNode, self: NodeName | null): LmtpAddress | null {
  const { name, ports } = node;
  return ports.lmtp === undefined ? null : { name, address: reach(node, self), port: ports.lmtp };
}

function noLmtp(node: ClusterNode): Failure {
  return { kind: 'node-unreachable', node: node.name, text: 'it has no LMTP port' };
}

function outcomeOf(node: NodeName, handed: Handed): Outcome {
  switch (handed.kind) {
    case 'replied':
      return repliedBy(node, handed.reply);
    case 'unsayable': {
      const failure: Failure = { kind: handed.why, node };
      return { kind: 'rejected', courier: 'node', node, reply: lmtpReply(failure), failure };
    }
    case 'unsent':
      return ours(node, { kind: kindOf(handed.fault), node, text: handed.fault.text });
    case 'in-doubt': {
      const failure: Failure = { kind: 'in-doubt', node, text: `${handed.fault.kind} ${handed.fault.text}` };
      return { kind: 'in-doubt', courier: 'node', node, reply: lmtpReply(failure), failure };
    }
  }
}

function repliedBy(node: NodeName, reply: Reply): Outcome {
  const kind = reply.code < 300 ? 'delivered' : reply.code >= 500 ? 'rejected' : 'deferred';
  return { kind, courier: 'node', node, reply };
}

function ours(node: NodeName, failure: Failure): Outcome {
  return { kind: 'deferred', courier: 'node', node, reply: lmtpReply(failure), failure };
}

const faultKinds: Readonly<Record<LmtpFault['kind'], FailureKind>> = {
  unreachable: 'node-unreachable',
  refused: 'node-refused',
  silent: 'node-silent',
  'broke-off': 'node-broke-off',
  'lost-step': 'node-refused',
  withdrawn: 'aborted',
  'body-failed': 'io-error',
  busy: 'node-refused',
};

function kindOf(fault: LmtpFault): FailureKind {
  return faultKinds[fault.kind];
}
