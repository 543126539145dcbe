/**
 * From credentials to an open connection at the user's node: canonical user → admitted and registered → connect, log in → our own
 * entry looked up again. The step between a session's dialect and its relay.
 *
 *     admit ──▶ log in ──ok, entry live──▶ attached
 *       ▲         ├─ refused by the node ──▶ refused
 *       │         ├─ connection broke ── once more at the same place; then evidence, and a wait for the view to change
 *       └─────────┴─ barrier wants the user elsewhere ── placed anew
 *
 * Must never send a byte to a node without a live entry, nor keep an entry beyond its connection.
 */
import type { LoggedIn, LoginOptions, LoginResult, LoginTimes } from '../backend/session-login.ts';
import type { Admission, Admitting, CloseReason, Entry } from '../cluster/admission.ts';
import { canonicalUser, type UserRules } from '../core/canonical.ts';
import type { Failure, FailureKind } from '../core/failure.ts';
import { reach } from '../core/reach.ts';
import type { NodeName, Protocol } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import type { ResponseCode } from '../wire/imap-response.ts';
import type { Credentials } from '../wire/sasl.ts';

export interface AttachWorld {
  readonly admitting: Admitting;
  readonly userRules: () => UserRules;
  readonly clock: Clock;
  readonly times: LoginTimes;
  /** As `failover.hold`: how long a login whose node broke off waits for the view to change. */
  readonly holdMs: number;
  /** The node that this machine is itself, or null. */
  readonly self: NodeName | null;
}

export interface AttachOptions {
  readonly world: AttachWorld;
  readonly protocol: Protocol;
  readonly credentials: Credentials;
  /** `address:port`, for listings. */
  readonly client: string;
  readonly logIn: (options: LoginOptions) => Promise<LoginResult>;
  readonly signal: AbortSignal;
}

/** Who the session is, and where, as far as it is known; for listings and the log line. */
export interface Whereabouts {
  readonly user: string;
  readonly node: string | null;
  readonly why: string;
}

export type Attached = { readonly at: Whereabouts } & (
  | { readonly kind: 'ok'; readonly claim: Claim; readonly entry: Entry; readonly login: LoggedIn }
  | { readonly kind: 'refused'; readonly code: ResponseCode | null; readonly text: string }
  | { readonly kind: 'failed'; readonly failure: Failure }
);

/** Takes the barrier's order to close, whoever holds the entry at that moment. */
export class Claim {
  #reason: CloseReason | null = null;
  #then: ((reason: CloseReason) => void) | null = null;
  #cut: (() => void) | null = null;

  get reason(): CloseReason | null {
    return this.#reason;
  }

  /** There is no more time: whoever follows resets the node's side now. */
  readonly cut = (): void => {
    this.#cut?.();
  };

  readonly mark = (reason: CloseReason): void => {
    this.#reason ??= reason;
    this.#then?.(reason);
  };

  /** Calls `then` at the order, or at once where it was given already. Replaces the one before. */
  follow(then: ((reason: CloseReason) => void) | null, cut: (() => void) | null = null): void {
    this.#then = then;
    this.#cut = cut;
    if (this.#reason !== null) then?.(this.#reason);
  }
}

/** A user that is placed anew so often is not settled by one more round. */
const placementsLimit = 8;
const pollMs = 250;

type Round =
  | Attached
  /** The connection broke: worth another attempt. */
  | {
      readonly kind: 'broke';
      readonly failed: Extract<Attached, { kind: 'failed' }>;
      readonly node: string;
      readonly report: () => void;
    }
  | { readonly kind: 'anew'; readonly failed: Extract<Attached, { kind: 'failed' }> };

/** Never rejects. After anything but `ok`, no entry is held and no connection is open. */
export async function attach(options: AttachOptions): Promise<Attached> {
  const { world, credentials } = options;
  const named = canonicalName(credentials, world.userRules());
  // The same answer as for a wrong password: it tells a stranger nothing.
  if (!named.ok) {
    const at = { user: '', node: null, why: `the user name ${named.why}` };
    return {
      kind: 'refused',
      at,
      code: { name: 'AUTHENTICATIONFAILED', value: '' },
      text: 'Authentication failed.',
    };
  }
  const giveUpAtMs = world.clock.now() + world.holdMs;
  let brokeAt: string | null = null;
  for (let placements = 1; ; placements += 1) {
    const round = await placeAndLogIn(options, named.user);
    if (round.kind === 'ok' || round.kind === 'refused' || round.kind === 'failed') return round;
    if (placements >= placementsLimit || options.signal.aborted) return round.failed;
    if (round.kind === 'anew') continue;
    if (brokeAt !== round.node) {
      brokeAt = round.node;
      continue;
    }
    round.report();
    if (!(await placeChanged(options, named.user, round.node, giveUpAtMs))) return round.failed;
  }
}

function canonicalName({ authzid, name }: Credentials, rules: UserRules) {
  const bytes = authzid.length > 0 ? authzid : name;
  const text = bytes.toString('utf8');
  // Bytes that are no UTF-8 would all become the same replacement character: many names, one user.
  if (!Buffer.from(text, 'utf8').equals(bytes)) return { ok: false, why: 'is not UTF-8' } as const;
  return canonicalUser(text, rules);
}

async function placeAndLogIn(options: AttachOptions, user: string): Promise<Round> {
  const { world, protocol, client, signal } = options;
  const claim = new Claim();
  const admission = await world.admitting.admit({
    user,
    activity: 'session',
    protocol,
    client,
    onClose: claim.mark,
    onCut: claim.cut,
    signal,
  });
  if (!admission.ok) return notAdmitted(user, admission);
  const { entry } = admission;
  const at: Whereabouts = { user, node: entry.node.name, why: entry.place.why };
  const port = entry.node.ports[protocol];
  if (port === undefined) {
    entry.release({ nodeEnded: true });
    return failed(at, 'no-node', `the node has no ${protocol} backend`);
  }
  const result = await logInAt(options, claim, entry, port);
  // Looked up before the release, after which it is never live.
  const order = claim.reason ?? (entry.isLive() ? null : 'lease-lost');
  if (result.kind === 'ok' && order === null) {
    world.admitting.report(entry.node.name, protocol, 'ok');
    return { kind: 'ok', at, claim, entry, login: result };
  }
  if (result.kind === 'ok') result.socket.resetAndDestroy();
  entry.release({ nodeEnded: result.kind === 'refused' });
  return judge(options, at, result, order);
}

async function logInAt(
  options: AttachOptions,
  claim: Claim,
  entry: Entry,
  port: number,
): Promise<LoginResult> {
  const { world, credentials, logIn, signal } = options;
  const breakOff = new AbortController();
  const abort = () => breakOff.abort();
  claim.follow(abort);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  const address = reach(entry.node, world.self);
  const { times, clock } = world;
  const result = await logIn({ address, port, credentials, times, clock, signal: breakOff.signal });
  signal.removeEventListener('abort', abort);
  claim.follow(null);
  return result;
}

/** What a login that did not end in a session means. `reason`: the barrier's order, where one was given meanwhile. */
function judge(
  options: AttachOptions,
  at: Whereabouts,
  result: LoginResult,
  reason: CloseReason | null,
): Round {
  const { world, protocol, signal } = options;
  const node = at.node ?? '';
  if (signal.aborted) return failed(at, 'aborted', 'the client went away');
  if (reason === 'shutdown') return failed(at, 'shutdown', reason);
  if (reason === 'kicked') return failed(at, 'held', reason);
  // Also a refusal: a node that is going down is not believed about a password.
  if (reason !== null)
    return { kind: 'anew', failed: failed(at, reason === 'lease-lost' ? 'stale' : 'held', reason) };
  if (result.kind === 'refused') {
    world.admitting.report(node, protocol, 'ok');
    return { kind: 'refused', at, code: result.code, text: result.text };
  }
  if (result.kind === 'ok') return failed(at, 'stale', 'entry gone');
  const { evidence, failure, why } = result;
  const report = () => {
    if (evidence !== null) world.admitting.report(node, protocol, evidence);
  };
  const outage = failed(at, failure, why);
  if (failure === 'node-unreachable' || failure === 'node-broke-off')
    return { kind: 'broke', failed: outage, node, report };
  report();
  return outage;
}

function failed(at: Whereabouts, kind: FailureKind, text: string): Extract<Attached, { kind: 'failed' }> {
  return { kind: 'failed', at, failure: { kind, node: at.node ?? undefined, text } };
}

const admissionFailures = {
  none: 'no-node',
  held: 'held',
  stale: 'stale',
  shutdown: 'shutdown',
  aborted: 'aborted',
} as const;

function notAdmitted(user: string, admission: Extract<Admission, { ok: false }>): Attached {
  return failed({ user, node: null, why: admission.why }, admissionFailures[admission.reason], admission.why);
}

/** Waits, not beyond `giveUpAtMs`, until the user's place is no longer at `node`. */
async function placeChanged(
  options: AttachOptions,
  user: string,
  node: string,
  giveUpAtMs: number,
): Promise<boolean> {
  const { admitting, clock } = options.world;
  while (!options.signal.aborted && clock.now() < giveUpAtMs) {
    const place = admitting.peek(user);
    if (place.kind === 'none' || place.node !== node || place.kind === 'held') return true;
    await pause(clock, pollMs * (0.8 + 0.4 * clock.chance()), options.signal);
  }
  return false;
}

function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const end = () => {
      cancel();
      signal.removeEventListener('abort', end);
      resolve();
    };
    const cancel = clock.after(ms, end);
    signal.addEventListener('abort', end);
  });
}
