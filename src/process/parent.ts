/**
 * The parent process: holds the view's store, binds the sockets, keeps its crew alive, probes the nodes, answers the admin API.
 * It meets no client but the admin's on loopback, and relays nothing.
 *
 *     prepare → hold the state → end what an earlier parent left → store → doors → settings into the view → crew → admin → serve
 *     SIGHUP: reload, or keep the old settings · SIGTERM, SIGINT: drain, end · a second one: end now
 */
import { join } from 'node:path';
import { createApi } from '../admin/api.ts';
import { createDesk, type ServingPort, type ServingStatus } from '../admin/desk.ts';
import { type AdminListener, listenAdmin } from '../admin/http.ts';
import { exit } from '../cli/exit.ts';
import { keepPins } from '../cluster/pin-keeper.ts';
import { createProber, type Prober } from '../cluster/prober.ts';
import { createProposer, type Proposer } from '../cluster/proposer.ts';
import { defaultHealthRules, type HealthRules, type HealthWish } from '../core/health.ts';
import type { ActivityRow, QueueAnswer } from '../core/status.ts';
import type { Evidence, Protocol } from '../core/types.ts';
import { defaultSieve } from '../delivery/writer.ts';
import { endRecorded, firstHandleFd } from '../net/children.ts';
import { realClock } from '../net/clock.ts';
import { type LogWriter, openLog } from '../observe/log.ts';
import { nodeSpecs, timersOf, userRules, viewRules } from '../settings/derived.ts';
import type { Settings } from '../settings/schema.ts';
import { openJournal } from '../storage/journal.ts';
import { type EmbeddedStore, type OpenedStore, openEmbeddedStore } from '../storage/store-embedded.ts';
import { storeAnswers } from '../storage/store-remote.ts';
import { type Crew, createCrew } from './crew.ts';
import { type Current, createCurrent } from './current.ts';
import { type Door, doorKinds, openDoors, splitAddress } from './doors.ts';
import { createRoll } from './roll.ts';
import type { ServingInit } from './serving.ts';
import { holdState, type Prepared, prepare } from './startup.ts';
import type { WriterInit } from './writer.ts';

const clock = realClock;

/** The exit code of `homing serve`. */
export async function runParent(settingsPath: string): Promise<number> {
  // Before there is anything to reload it must not end us, which is what it does by default.
  process.on('SIGHUP', () => {});
  const preparation = await prepare(settingsPath);
  if (!preparation.ok) return refuse(preparation.lines, preparation.exit);
  const { prepared } = preparation;
  const release = await holdState(prepared.folders.state);
  if (release === null)
    return refuse([`state ${prepared.folders.state}: another Homing on this machine holds it`], exit.no);
  const code = await startParent(settingsPath, prepared);
  release();
  return code;
}

async function startParent(settingsPath: string, prepared: Prepared): Promise<number> {
  const { settings, folders } = prepared;
  const logWriter = openLog({ ...settings.log, role: 'parent', ...logOwner(prepared) });
  const recordPath = join(folders.state, 'children.json');
  const left = await endRecorded(recordPath, clock, 5000);
  if (left.found.length > 0) logWriter.log.warn({ left: left.found }, 'processes of an earlier start ended');
  if (!left.allGone) return refuse(['processes of an earlier start do not end'], exit.no);
  // Only now: what an earlier start left behind holds its listening sockets.
  const doors = openDoors(settings);
  if (!doors.ok) return refuse(doors.lines, exit.no);
  const opened = openStore(prepared, logWriter);
  if (!opened.ok) return refuse([opened.why], exit.no);
  const { store } = opened;
  return new Parent({ settingsPath, prepared, logWriter, store, doors: doors.doors, recordPath }).run();
}

/** All three processes write the log: as root, as its owner, and as its group. */
function logOwner({ servingAccount, spoolAccount }: Prepared) {
  if (servingAccount === null) return {};
  return { owner: { uid: servingAccount.uid, gid: spoolAccount?.gid ?? servingAccount.gid } };
}

function refuse(lines: readonly string[], code: number): number {
  for (const line of lines) process.stderr.write(`homing: ${line}\n`);
  return code;
}

function openStore({ settings, folders }: Prepared, { log }: LogWriter): OpenedStore {
  const opened = openJournal({ folder: folders.state, name: 'journal' });
  if (!opened.ok) return opened;
  const { journal, records, tornBytes } = opened;
  if (tornBytes > 0)
    log.warn({ tornBytes }, 'the journal ended in the middle of a record that nobody was told of: cut off');
  return openEmbeddedStore({ journal, records, rules: viewRules(settings), run: clock.token(8) });
}

interface ParentOptions {
  readonly settingsPath: string;
  readonly prepared: Prepared;
  readonly logWriter: LogWriter;
  readonly store: EmbeddedStore;
  readonly doors: readonly Door[];
  readonly recordPath: string;
}

class Parent {
  readonly #options: ParentOptions;
  readonly #store: EmbeddedStore;
  readonly #roll = createRoll(clock);
  readonly #current: Current;
  readonly #proposer: Proposer;
  readonly #prober: Prober;
  readonly #crew: Crew;
  readonly #startedAtMs = clock.wall();
  readonly #admins: AdminListener[] = [];
  #cancelWatch = () => {};
  #stopPins = () => {};
  #isStopping = false;
  #ended: (code: number) => void = () => {};

  constructor(options: ParentOptions) {
    const { settingsPath, prepared, store, logWriter, doors, recordPath } = options;
    const { settings, tls } = prepared;
    const { log } = logWriter;
    this.#options = options;
    this.#store = store;
    const onExpelled = (member: string) => this.#kill(member, 'it does not answer a change of the view');
    this.#proposer = createProposer({ store, clock, timers: timersOf(settings), log, onExpelled });
    this.#current = createCurrent({
      settingsPath,
      settings,
      tls,
      proposer: this.#proposer,
      mapDigest: () => store.view().map.digest,
      onChange: () => this.#changed(),
      clock,
      log,
    });
    const onWish = (wish: HealthWish, settled: () => void) => void this.#pass(wish).then(settled);
    this.#prober = createProber({ clock, log, ...probing(settings), onWish });
    this.#crew = createCrew({
      program: process.argv[1] ?? '',
      clock,
      log,
      recordPath,
      hasWriter: settings.spool !== null,
      handles: doors.map(({ socket }) => socket.handle),
      hello: (role, pid) => (role === 'writer' ? this.#writerInit() : this.#servingInit(pid)),
      answers: {
        ...storeAnswers(store),
        'store.renew': ([member, beat, have]) => {
          this.#roll.renewed(String(member));
          return store.renew(String(member), Number(beat), Number(have));
        },
        evidence: ([node, protocol, evidence]) =>
          this.#prober.report(String(node), protocol as Protocol, evidence as Evidence, ''),
      },
      onServingGone: pid => {
        const member = this.#roll.gone(pid);
        if (member !== null) void store.gone(member);
      },
    });
    store.onHint(() => {
      this.#crew.note('store.hint', []);
      this.#prober.watch(store.view().nodes);
    });
  }

  async run(): Promise<number> {
    const { log } = this.#options.logWriter;
    const done = new Promise<number>(resolve => {
      this.#ended = resolve;
    });
    const why = (await this.#settle()) ?? (await this.#crew.start()) ?? (await this.#openAdmin());
    if (why !== null) {
      await this.#end(0);
      return refuse([why], exit.no);
    }
    this.#prober.watch(this.#store.view().nodes);
    this.#current.follow();
    this.#watchRoll();
    this.#stopPins = keepPins({ store: this.#store, proposer: this.#proposer, clock });
    process.on('SIGHUP', () => void this.#reload());
    process.on('SIGTERM', () => void this.#stop('SIGTERM'));
    process.on('SIGINT', () => void this.#stop('SIGINT'));
    const { listen, nodes } = this.#current.settings();
    const open = Object.fromEntries(doorKinds.map(kind => [kind, listen[kind]]));
    log.info(
      { listen: open, nodes: nodes.map(node => node.name), epoch: this.#store.view().epoch },
      'serving',
    );
    return done;
  }

  /** The settings' nodes and maps into the view, before there is any member that could be in the way. */
  async #settle(): Promise<string | null> {
    const { settings, map } = this.#options.prepared;
    const nodes = await this.#proposer.wish([{ kind: 'nodes', specs: nodeSpecs(settings) }], 'settings');
    if (!nodes.ok) return `the nodes of the settings did not come into force: ${nodes.why}`;
    const maps = await this.#proposer.wishMap({ digest: map.map.digest, lines: map.lines }, 'settings');
    return maps.ok ? null : `the map files did not come into force: ${maps.why}`;
  }

  async #pass({ kind, node, why }: HealthWish): Promise<void> {
    const { log } = this.#options.logWriter;
    log.warn({ node, why }, kind);
    const result = await this.#proposer.wish([{ kind, node }], 'health');
    if (!result.ok) log.error({ node, why: result.why }, `${kind} did not come into force`);
  }

  #writerInit(): WriterInit {
    const { folders, servingAccount, spoolAccount } = this.#options.prepared;
    const { spool, delivery, log } = this.#current.settings();
    return {
      log: { ...log, role: 'writer' },
      socketPath: join(folders.run, 'writer'),
      spool: {
        path: spool?.path ?? '',
        mark: spool?.mark ?? '',
        home: null,
        sieve: delivery.sieve === 'bypass' ? [] : defaultSieve,
        account: spoolAccount,
        create: false,
      },
      runAs: spoolAccount,
      socketOwner: servingAccount,
    };
  }

  #servingInit(pid: number): ServingInit {
    const { prepared, doors } = this.#options;
    const { folders, servingAccount } = prepared;
    const settings = this.#current.settings();
    return {
      ...this.#roll.enter(pid),
      settings,
      tls: this.#current.tls(),
      log: { ...settings.log, role: 'serving' },
      runAs: servingAccount,
      folders,
      writerSocket: settings.spool === null ? null : join(folders.run, 'writer'),
      listeners: doors.map(({ kind, name }, index) => ({ kind, name, fd: firstHandleFd + index })),
    };
  }

  #kill(member: string, why: string): void {
    const pid = this.#roll.pidOf(member);
    if (pid !== null) this.#crew.killServing(pid, why);
  }

  #watchRoll(): void {
    const { lapseMs } = timersOf(this.#current.settings());
    for (const member of this.#roll.lapsed(lapseMs)) this.#kill(member, 'its lease has lapsed');
    this.#cancelWatch = clock.after(500, () => this.#watchRoll());
  }

  #changed(): void {
    const settings = this.#current.settings();
    this.#options.logWriter.log.level = settings.log.level;
    this.#prober.change(probing(settings));
    this.#crew.note('change', [{ settings, tls: this.#current.tls() }]);
  }

  async #reload(): Promise<void> {
    // The parent first: it makes the new file, and gives it to the account that the others write it as.
    this.#options.logWriter.reopen();
    this.#crew.note('reopen-log', []);
    await this.#current.reload();
  }

  async #openAdmin(): Promise<string | null> {
    const { log } = this.#options.logWriter;
    const { cluster, listen } = this.#options.prepared.settings;
    const desk = createDesk({
      cluster,
      startedAtMs: this.#startedAtMs,
      view: () => this.#store.view(),
      prober: this.#prober,
      proposer: this.#proposer,
      serving: () => this.#servingPort(),
      userRules: () => userRules(this.#current.settings()),
      clock,
    });
    for (const name of listen.admin) {
      const opened = await listenAdmin({ api: createApi(desk), ...splitAddress(name), log });
      if (!opened.ok) return `listen.admin ${name}: ${opened.why}`;
      this.#admins.push(opened.listener);
    }
    return null;
  }

  #servingPort(): ServingPort | null {
    const serving = this.#crew.serving();
    if (serving === null) return null;
    const ask = async <T>(name: string, args: readonly unknown[]): Promise<T | null> => {
      const result = await serving.ipc.call(name, args, 3000);
      // Of this same program: the shapes are as it says.
      return result.ok ? (result.value as T) : null;
    };
    return {
      pid: serving.pid,
      status: () => ask<ServingStatus>('status', []),
      activities: user => ask<readonly ActivityRow[]>('activities', [user]),
      queue: () => ask<QueueAnswer>('queue', []),
    };
  }

  async #stop(signal: string): Promise<void> {
    const limitMs = this.#isStopping ? 0 : this.#current.settings().shutdown.limit;
    this.#options.logWriter.log.info({ signal, limitMs }, 'draining');
    // The second time: those we wait for are cut, and the first stop goes on to its end.
    if (this.#isStopping) return this.#crew.stop(0);
    this.#isStopping = true;
    await this.#end(limitMs);
    this.#ended(exit.ok);
  }

  async #end(limitMs: number): Promise<void> {
    const { logWriter, doors } = this.#options;
    // First: a port that we hold open lets clients in to nobody, even when the serving process has closed it.
    for (const { socket } of doors) socket.close();
    await this.#crew.stop(limitMs);
    this.#cancelWatch();
    this.#stopPins();
    this.#current.stop();
    this.#prober.stop();
    this.#proposer.stop();
    await Promise.all(this.#admins.map(admin => admin.close()));
    this.#store.close();
    logWriter.log.info('ended');
  }
}

function probing({ health, self }: Settings): { readonly rules: HealthRules; readonly timeoutMs: number } {
  const { interval: intervalMs, timeout: timeoutMs, rise, fall, jitter, panic: panicShare } = health;
  const rules = { rise, fall, intervalMs, jitter, panicShare, greetingFallMs: health.greetingTimeout, self };
  return { rules: { ...defaultHealthRules, ...rules }, timeoutMs };
}
