/**
 * The serving process: a member of the cluster with the listeners, sessions, deliveries and the queue. Loads its code, asks its parent
 * for everything else, gives up root, and only then meets a client.
 *
 *     hello → (root given up) → member joins → queue, couriers, services → listeners → ready ─drain→ left
 */
import { hostname } from 'node:os';
import type { SecureContext } from 'node:tls';
import type { ServingStatus } from '../admin/desk.ts';
import { createMember, type Member } from '../cluster/cluster.ts';
import type { UserRules } from '../core/canonical.ts';
import type { ActivityRow } from '../core/status.ts';
import type { View } from '../core/view.ts';
import { createMail, type Mail } from '../delivery/mail.ts';
import { realClock } from '../net/clock.ts';
import { type Ipc, openIpc } from '../net/ipc.ts';
import { type Listener, openListener } from '../net/listener.ts';
import { type Account, dropPrivileges, isRoot } from '../net/privileges.ts';
import { secureContextOf, type TlsTexts } from '../net/tls.ts';
import { type Log, type LogOptions, openLog } from '../observe/log.ts';
import { createImapService, type ImapService } from '../session/imap-service.ts';
import { timersOf, userRules } from '../settings/derived.ts';
import type { Settings } from '../settings/schema.ts';
import type { MemberIdentity } from '../storage/store.ts';
import { createRemoteStore } from '../storage/store-remote.ts';

export type ListenerKind = 'imap' | 'imaps' | 'lmtp' | 'smtp';

export interface ServingInit {
  readonly settings: Settings;
  readonly tls: TlsTexts | null;
  readonly log: LogOptions;
  readonly identity: MemberIdentity;
  /** Members of this machine that are certainly dead. */
  readonly dead: readonly string[];
  readonly runAs: Account | null;
  readonly folders: { readonly queue: string; readonly bodies: string };
  /** Null: no direct delivery. */
  readonly writerSocket: string | null;
  readonly listeners: readonly { readonly kind: ListenerKind; readonly fd: number; readonly name: string }[];
}

/** What a reload brings. */
export interface ServingChange {
  readonly settings: Settings;
  readonly tls: TlsTexts | null;
}

const clock = realClock;
const waitingLimit = 20_000;
const listLimit = 10_000;

export async function runServing(): Promise<void> {
  // The parent decides when this process ends: a terminal's Ctrl-C must not cut what drains.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  const serving = new Serving();
  const why = await serving.start();
  await serving.parent.call('ready', [why === null ? { ok: true } : { ok: false, why }]);
}

class Serving {
  readonly parent: Ipc;
  readonly #store;
  #settings: Settings | null = null;
  #rules: UserRules | null = null;
  #context: SecureContext | null = null;
  #log: Log | null = null;
  #reopenLog = () => {};
  #member: Member | null = null;
  #imap: ImapService | null = null;
  #mail: Mail | null = null;
  #listeners: Listener[] = [];
  #view: View | null = null;

  constructor() {
    this.#store = createRemoteStore(() => this.parent, 2000);
    this.parent = openIpc({
      channel: process,
      timeoutMs: 5000,
      maxPending: 10_000,
      onLost: () => this.#orphaned(),
      answers: {
        'store.hint': () => this.#store.hint(),
        status: () => this.#status(),
        activities: ([user]) => this.#activities(typeof user === 'string' ? user : null),
        queue: () => this.#mail?.queueRows(listLimit) ?? { messages: 0, entries: [] },
        change: ([change]) => this.#change(change as ServingChange),
        'reopen-log': () => this.#reopenLog(),
        drain: ([limitMs]) => this.#drain(Number(limitMs)),
      },
    });
  }

  /** Null where it serves, else why it can't. */
  async start(): Promise<string | null> {
    const hello = await this.parent.call('hello', []);
    if (!hello.ok) return hello.why;
    const init = hello.value as ServingInit;
    const { log, reopen } = openLog(init.log);
    this.#log = log;
    this.#reopenLog = reopen;
    if (init.runAs !== null && isRoot()) dropPrivileges(init.runAs);
    this.#change(init);
    await this.#join(init, log);
    const why = await this.#serve(init, log);
    return why ?? this.#listen(init, log);
  }

  async #join({ settings, identity, dead }: ServingInit, log: Log): Promise<void> {
    const { failover, move } = settings;
    this.#member = createMember({
      identity,
      dead,
      store: this.#store.store,
      clock,
      timers: timersOf(settings),
      log,
      quietMs: move.quiet,
      spreadMs: failover.spread,
      waitingLimit,
      onView: view => this.#adopt(view),
      onEvidence: (node, protocol, evidence) => this.parent.note('evidence', [node, protocol, evidence]),
      onEnd: why => this.#end(why),
    });
    await this.#member.start();
  }

  async #serve(init: ServingInit, log: Log): Promise<string | null> {
    const { settings, folders, writerSocket } = init;
    const member = this.#member;
    if (member === null) return 'no member';
    const { limits, delivery, queue, failover, move } = settings;
    const rules = () => this.#rules ?? userRules(settings);
    const tls = () => this.#context;
    const started = await createMail({
      admitting: member,
      userRules: rules,
      name: hostname(),
      self: settings.self,
      whenHomeDown: delivery.whenHomeDown,
      multiHome: delivery.multiHome,
      limits: {
        maxBytes: limits.message,
        maxRecipients: limits.recipients,
        maxHops: limits.hops,
        bareNewline: delivery.bareNewlines,
      },
      tls,
      schedule: {
        firstMs: queue.backoff.first,
        factor: 2,
        longestMs: queue.backoff.most,
        lifeMs: queue.lifetime,
        jitter: 0.25,
      },
      settleMs: failover.settle,
      queuePath: folders.queue,
      bodiesPath: folders.bodies,
      writerSocket,
      onHung: () => this.parent.note('writer-hung', []),
      clock,
      log,
    });
    if (!started.ok) return started.why;
    this.#mail = started.mail;
    this.#imap = createImapService({
      admitting: member,
      userRules: rules,
      clock,
      log,
      tls,
      self: settings.self,
      limits: {
        // The setting counts for each listener, and each has its own wall.
        maxSessions:
          limits.connections * Math.max(1, settings.listen.imap.length + settings.listen.imaps.length),
        preAuthMs: limits.preAuth,
        plaintextAuth: settings.login.plaintext,
        commands: limits.commands,
        command: {
          lineBytes: limits.line,
          literalBytes: limits.literal,
          commandBytes: limits.command,
          tokens: 80,
        },
      },
      holdMs: failover.hold,
      quietMs: move.quiet,
    });
    return null;
  }

  async #listen({ listeners, settings }: ServingInit, log: Log): Promise<string | null> {
    for (const { kind, fd, name } of listeners) {
      const opened = await openListener({
        fd,
        maxConnections: settings.limits.connections,
        maxPerAddress: settings.limits.connectionsPerAddress,
        onSocket: socket => {
          switch (kind) {
            case 'imap':
              return this.#imap?.accept(socket, 'plain');
            case 'imaps':
              return this.#imap?.accept(socket, 'tls');
            case 'lmtp':
              return this.#mail?.lmtp.accept(socket);
            case 'smtp':
              return this.#mail?.smtp.accept(socket);
          }
        },
        log,
        clock,
      });
      if (!opened.ok) return `listen.${kind} ${name}: ${opened.why}`;
      this.#listeners.push(opened.listener);
    }
    return null;
  }

  #change({ settings, tls }: ServingChange): void {
    this.#settings = settings;
    this.#rules = userRules(settings);
    if (this.#log !== null) this.#log.level = settings.log.level;
    if (tls === null) {
      this.#context = null;
      return;
    }
    // The parent tried the pair before it sent it.
    const made = secureContextOf(tls);
    if (made.ok) this.#context = made.context;
    else this.#log?.error({ why: made.why }, 'certificate not changed');
  }

  /** Within the step that adopts a view: who of the nodes left or came back since the last one. */
  #adopt(view: View): void {
    const before = new Map(this.#view?.nodes.map(node => [node.name, node]));
    this.#view = view;
    for (const node of view.nodes) {
      const old = before.get(node.name);
      before.delete(node.name);
      if (old === undefined) continue;
      if (old.health === 'down' && node.health === 'up') this.#mail?.nodeUp(node.name);
      const isMoved = old.address !== node.address || old.ports.lmtp !== node.ports.lmtp;
      if (isMoved || (old.health === 'up' && node.health === 'down')) this.#mail?.nodeGone(node.name);
    }
    for (const name of before.keys()) this.#mail?.nodeGone(name);
  }

  #status(): ServingStatus | null {
    const told = this.#member?.status();
    if (!told || !this.#mail) return null;
    const nodes = Object.fromEntries(
      Object.entries(told.usersByNode).map(([node, users]) => [node, { users, ...this.#countOn(node) }]),
    );
    return {
      member: told.member,
      phase: told.state,
      nodes,
      queue: this.#mail.queueCounts(),
      waiting: told.waiting,
      waitingFor: told.proposal === null ? '' : `change ${told.proposal.id} of the view`,
    };
  }

  #countOn(node: string): { sessions: number; deliveries: number } {
    return this.#member?.countsOn(node) ?? { sessions: 0, deliveries: 0 };
  }

  #activities(user: string | null): readonly ActivityRow[] {
    return this.#member?.activities({ user, limit: listLimit }) ?? [];
  }

  async #drain(limitMs: number): Promise<void> {
    this.#log?.info({ limitMs }, 'draining');
    await Promise.all(this.#listeners.map(listener => listener.close()));
    await Promise.all([this.#mail?.drain(limitMs), this.#imap?.drain(limitMs)]);
    this.#member?.drain();
    await this.#member?.stop();
    this.#log?.info('drained');
  }

  /** The parent is gone: no store, no view. The member closes all and ends within its lease; nothing new is let in. */
  #orphaned(): void {
    this.#log?.error('the parent is gone');
    void Promise.all(this.#listeners.map(listener => listener.close()));
    this.#member?.drain();
    const leaseMs = this.#settings?.state.lease ?? 0;
    clock.after(leaseMs, () => this.#end('the parent is gone'));
    void Promise.all([this.#mail?.drain(leaseMs / 2), this.#imap?.drain(leaseMs / 2)]).then(() =>
      this.#end('the parent is gone'),
    );
  }

  #end(why: string): never {
    this.#log?.error({ why }, 'this process ends');
    process.exit(70);
  }
}
