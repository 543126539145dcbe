/**
 * The parent process: holds the view's store, binds the sockets, keeps its crew alive, probes the nodes, answers the admin API.
 * It meets no client but the admin's on loopback, and relays nothing.
 *
 *     prepare → hold the state → end what an earlier parent left → store → settings into the view → bind → crew → probe → serve
 *     SIGHUP: reload, or keep the old settings · SIGTERM, SIGINT: drain, end · a second one: end now
 */

import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { createApi } from './admin/api.ts';
import { createDesk, type ServingPort, type ServingStatus } from './admin/desk.ts';
import { type AdminListener, listenAdmin } from './admin/http.ts';
import { exit } from './cli/exit.ts';
import { keepPins } from './cluster/pin-keeper.ts';
import { createProber, type Prober } from './cluster/prober.ts';
import { createProposer, type Proposer } from './cluster/proposer.ts';
import type { HealthRules } from './core/health.ts';
import { defaultHealthRules } from './core/health.ts';
import type { ActivityRow, QueueAnswer } from './core/status.ts';
import type { Evidence, Protocol } from './core/types.ts';
import { type Crew, createCrew, type Role } from './crew.ts';
import { defaultSieve } from './delivery/writer.ts';
import { checkTargets, type LoadedMaps, loadMaps } from './directory/map-file.ts';
import { type MapWatch, watchMaps } from './directory/map-watch.ts';
import { type BoundSocket, bindSocket } from './net/bound-socket.ts';
import { endRecorded, firstHandleFd } from './net/children.ts';
import { realClock } from './net/clock.ts';
import { readTls, type TlsTexts, type TlsWatch, watchTls } from './net/tls.ts';
import { type LogWriter, openLog } from './observe/log.ts';
import type { ListenerKind, ServingInit } from './serving.ts';
import { nodeSpecs, timersOf, userRules, viewRules } from './settings/derived.ts';
import { formatError } from './settings/load.ts';
import { reload } from './settings/reload.ts';
import type { Settings } from './settings/schema.ts';
import { holdState, type Prepared, prepare } from './startup.ts';
import { openJournal } from './storage/journal.ts';
import { type EmbeddedStore, openEmbeddedStore } from './storage/store-embedded.ts';
import { storeAnswers } from './storage/store-remote.ts';
import type { WriterInit } from './writer.ts';

const clock = realClock;
const bySettings = 'settings';

export async function runParent(settingsPath: string): Promise<number> {
  const preparation = await prepare(settingsPath);
  if (!preparation.ok) return refuse(preparation.lines, preparation.exit);
  const { prepared } = preparation;
  const release = await holdState(prepared.folders.state);
  if (release === null)
    return refuse([`state ${prepared.folders.state}: another Homing on this machine holds it`], exit.no);
  const logWriter = openLogOf(prepared);
  const recordPath = join(prepared.folders.state, 'children.json');
  const left = await endRecorded(recordPath, clock, 5000);
  if (left.found.length > 0)
    logWriter.log.warn({ left: left.found, allGone: left.allGone }, 'processes of an earlier start ended');
  if (!left.allGone) return refuse(['processes of an earlier start do not end'], exit.no);
  const store = openStore(prepared, logWriter);
  if (!store.ok) return refuse([store.why], exit.no);
  const sockets = bindAll(prepared.settings);
  if (!sockets.ok) return refuse(sockets.lines, exit.no);
  const parent = new Parent({
    settingsPath,
    prepared,
    logWriter,
    store: store.store,
    sockets: sockets.sockets,
    recordPath,
  });
  const code = await parent.run();
  release();
  return code;
}

function refuse(lines: readonly string[], code: number): number {
  for (const line of lines) process.stderr.write(`homing: ${line}\n`);
  return code;
}

function openLogOf({ settings, servingAccount }: Prepared): LogWriter {
  return openLog({
    ...settings.log,
    role: 'parent',
    ...(servingAccount === null ? {} : { owner: servingAccount }),
  });
}

function openStore(
  { settings, folders }: Prepared,
  { log }: LogWriter,
): { readonly ok: true; readonly store: EmbeddedStore } | { readonly ok: false; readonly why: string } {
  const opened = openJournal({ folder: folders.state, name: 'journal' });
  if (!opened.ok) return opened;
  const { journal, records, tornBytes } = opened;
  if (tornBytes > 0)
    log.warn({ tornBytes }, 'the journal ended in the middle of a record that nobody was told of: cut off');
  return openEmbeddedStore({ journal, records, rules: viewRules(settings), run: clock.token(8) });
}

interface Door {
  readonly kind: ListenerKind;
  readonly name: string;
  readonly socket: BoundSocket;
}

const kinds: readonly ListenerKind[] = ['imap', 'imaps', 'lmtp', 'smtp'];

function bindAll(
  settings: Settings,
):
  | { readonly ok: true; readonly sockets: readonly Door[] }
  | { readonly ok: false; readonly lines: readonly string[] } {
  const sockets: Door[] = [];
  const lines: string[] = [];
  for (const kind of kinds) {
    for (const name of settings.listen[kind]) {
      const { address, port } = splitAddress(name);
      const bound = bindSocket(address, port);
      if (bound.ok) sockets.push({ kind, name, socket: bound.socket });
      else lines.push(`listen.${kind} ${name}: ${bound.why}`);
    }
  }
  return lines.length > 0 ? { ok: false, lines } : { ok: true, sockets };
}

/** `address:port` or `[v6]:port`, as the settings checked it. */
function splitAddress(name: string): { readonly address: string; readonly port: number } {
  const colon = name.lastIndexOf(':');
  return { address: name.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(name.slice(colon + 1)) };
}

interface ParentOptions {
  readonly settingsPath: string;
  readonly prepared: Prepared;
  readonly logWriter: LogWriter;
  readonly store: EmbeddedStore;
  readonly sockets: readonly Door[];
  readonly recordPath: string;
}

class Parent {
  readonly #options: ParentOptions;
  readonly #store: EmbeddedStore;
  readonly #proposer: Proposer;
  readonly #prober: Prober;
  readonly #crew: Crew;
  readonly #startedAtMs = clock.wall();
  #settings: Settings;
  #tls: TlsTexts | null;
  #admins: AdminListener[] = [];
  #mapWatch: MapWatch | null = null;
  #tlsWatch: TlsWatch | null = null;
  /** pid → member and when it last renewed. */
  readonly #members = new Map<number, { readonly member: string; renewedAtMs: number }>();
  #cancelWatch = () => {};
  #stopPins = () => {};
  #ended: (code: number) => void = () => {};
  #isStopping = false;
  #memberCount = 0;

  constructor(options: ParentOptions) {
    const { prepared, store, logWriter, sockets, recordPath } = options;
    const { log } = logWriter;
    this.#options = options;
    this.#settings = prepared.settings;
    this.#tls = prepared.tls;
    this.#store = store;
    const timers = timersOf(this.#settings);
    this.#proposer = createProposer({
      store,
      clock,
      timers,
      log,
      onExpelled: member => this.#killMember(member, 'it does not answer a change of the view'),
    });
    this.#prober = createProber({
      clock,
      log,
      ...this.#probing(),
      onWish: ({ kind, node, why }, settled) => {
        log.warn({ node, why }, kind);
        void this.#proposer.wish([{ kind, node }], 'health').then(result => {
          if (!result.ok) log.error({ node, why: result.why }, `${kind} did not come into force`);
          settled();
        });
      },
    });
    this.#crew = createCrew({
      program: process.argv[1] ?? '',
      clock,
      log,
      recordPath,
      hasWriter: prepared.settings.spool !== null,
      handles: sockets.map(({ socket }) => socket.handle),
      hello: (role, pid) => this.#hello(role, pid),
      answers: {
        ...storeAnswers(store),
        'store.renew': ([member, beat, have]) => {
          this.#renewed(String(member));
          return store.renew(String(member), Number(beat), Number(have));
        },
        evidence: ([node, protocol, evidence]) =>
          this.#prober.report(String(node), protocol as Protocol, evidence as Evidence, ''),
      },
      onServingGone: pid => this.#gone(pid),
    });
    store.onHint(() => {
      this.#crew.serving()?.ipc.note('store.hint', []);
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
      await this.#crew.stop(0);
      this.#finish();
      return refuse([why], exit.no);
    }
    this.#prober.watch(this.#store.view().nodes);
    this.#watchFiles();
    this.#watchMembers();
    this.#stopPins = keepPins({ store: this.#store, proposer: this.#proposer, clock });
    process.on('SIGHUP', () => void this.#reload());
    process.on('SIGTERM', () => void this.#stop('SIGTERM'));
    process.on('SIGINT', () => void this.#stop('SIGINT'));
    const listen = Object.fromEntries(kinds.map(kind => [kind, this.#settings.listen[kind]]));
    log.info(
      { listen, nodes: this.#settings.nodes.map(node => node.name), epoch: this.#store.view().epoch },
      'serving',
    );
    return done;
  }

  /** The settings' nodes and maps into the view, before there is any member that could be in the way. */
  async #settle(): Promise<string | null> {
    const { map } = this.#options.prepared;
    const nodes = await this.#proposer.wish(
      [{ kind: 'nodes', specs: nodeSpecs(this.#settings) }],
      bySettings,
    );
    if (!nodes.ok) return `the nodes of the settings did not come into force: ${nodes.why}`;
    const maps = await this.#proposer.wishMap({ digest: map.map.digest, lines: map.lines }, bySettings);
    return maps.ok ? null : `the map files did not come into force: ${maps.why}`;
  }

  // What the crew is told -------------------------------------------------------------------------------------------------

  #hello(role: Role, pid: number): ServingInit | WriterInit {
    const { prepared, sockets } = this.#options;
    const { folders, servingAccount, spoolAccount } = prepared;
    const { spool } = this.#settings;
    const log = { ...this.#settings.log, role };
    const writerSocket = join(folders.run, 'writer');
    if (role === 'writer') {
      return {
        log,
        socketPath: writerSocket,
        spool: {
          path: spool?.path ?? '',
          mark: spool?.mark ?? '',
          home: null,
          sieve: this.#settings.delivery.sieve === 'bypass' ? [] : defaultSieve,
          account: spoolAccount,
          create: false,
        },
        runAs: spoolAccount,
        socketOwner: servingAccount,
      };
    }
    const member = `${hostname()}/${pid}/${++this.#memberCount}`;
    const dead = [...this.#members.values()].map(each => each.member);
    this.#members.clear();
    this.#members.set(pid, { member, renewedAtMs: clock.now() });
    return {
      settings: this.#settings,
      tls: this.#tls,
      log,
      identity: { member, machine: hostname(), boot: bootId(), pid },
      dead,
      runAs: servingAccount,
      folders,
      writerSocket: spool === null ? null : writerSocket,
      listeners: sockets.map(({ kind, name }, index) => ({ kind, name, fd: firstHandleFd + index })),
    };
  }

  // Members ---------------------------------------------------------------------------------------------------------------

  #renewed(member: string): void {
    for (const each of this.#members.values()) if (each.member === member) each.renewedAtMs = clock.now();
  }

  #gone(pid: number): void {
    const known = this.#members.get(pid);
    this.#members.delete(pid);
    if (known) void this.#store.gone(known.member);
  }

  #killMember(member: string, why: string): void {
    for (const [pid, each] of this.#members) if (each.member === member) this.#crew.killServing(pid, why);
  }

  /** A lapse is SIGKILL (barrier.md §10): the kernel's report of the end then makes it certain. */
  #watchMembers(): void {
    const { lapseMs } = timersOf(this.#settings);
    for (const each of this.#members.values())
      if (clock.now() - each.renewedAtMs > lapseMs) this.#killMember(each.member, 'its lease has lapsed');
    this.#cancelWatch = clock.after(500, () => this.#watchMembers());
  }

  // Settings and files ----------------------------------------------------------------------------------------------------

  #probing(): { readonly rules: HealthRules; readonly timeoutMs: number } {
    const { health, self } = this.#settings;
    const { interval: intervalMs, timeout: timeoutMs, rise, fall, jitter, panic: panicShare } = health;
    const greetingFallMs = health.greetingTimeout;
    return {
      rules: { ...defaultHealthRules, intervalMs, rise, fall, jitter, panicShare, greetingFallMs, self },
      timeoutMs,
    };
  }

  #watchFiles(): void {
    const { log } = this.#options.logWriter;
    this.#mapWatch?.stop();
    this.#tlsWatch?.stop();
    const { maps, tls } = this.#settings;
    this.#mapWatch = watchMaps({
      files: maps,
      rules: userRules(this.#settings),
      digest: this.#store.view().map.digest,
      onChange: loaded => void this.#mapsChanged(loaded),
      clock,
    });
    this.#tlsWatch =
      tls === null
        ? null
        : watchTls({
            files: tls,
            clock,
            log,
            onChange: texts => {
              this.#tls = texts;
              this.#tellChange();
            },
          });
  }

  async #mapsChanged(loaded: LoadedMaps): Promise<void> {
    const { log } = this.#options.logWriter;
    const errors = loaded.ok ? checkTargets(loaded.lines, nodeSpecs(this.#settings)) : loaded.errors;
    for (const { file, line, message } of errors)
      log.error({ file, line, why: message }, 'map files: the last good map stays');
    if (!loaded.ok || errors.length > 0) return;
    const { digest } = loaded.map;
    const done = await this.#proposer.wishMap({ digest, lines: loaded.lines }, 'map files');
    if (done.ok) log.info({ lines: loaded.lines.length, epoch: done.epoch }, 'map files read anew');
    else log.error({ why: done.why }, 'map files did not come into force');
  }

  #tellChange(): void {
    this.#crew.note('change', [{ settings: this.#settings, tls: this.#tls }]);
  }

  async #reload(): Promise<void> {
    const { logWriter, settingsPath } = this.#options;
    const { log } = logWriter;
    logWriter.reopen();
    this.#crew.note('reopen-log', []);
    const loaded = await reload(this.#settings, settingsPath);
    if (!loaded.ok) {
      for (const error of loaded.errors)
        log.error({ why: formatError(error) }, 'reload: the old settings stay');
      return;
    }
    const tls = await this.#readTls(loaded.settings);
    const maps = await loadMaps(loaded.settings.maps, userRules(loaded.settings));
    const wrong = maps.ok ? checkTargets(maps.lines, nodeSpecs(loaded.settings)) : maps.errors;
    for (const { file, line, message } of wrong)
      log.error({ file, line, why: message }, 'reload: the old settings stay');
    if (tls === 'wrong' || !maps.ok || wrong.length > 0) return;
    this.#settings = keepRunning(this.#settings, loaded.settings, loaded.needRestart);
    this.#tls = tls;
    log.level = this.#settings.log.level;
    this.#prober.change(this.#probing());
    this.#tellChange();
    this.#watchFiles();
    const nodes = await this.#proposer.wish(
      [{ kind: 'nodes', specs: nodeSpecs(this.#settings) }],
      bySettings,
    );
    if (!nodes.ok) log.error({ why: nodes.why }, 'reload: the nodes did not come into force');
    await this.#mapsChanged(maps);
    log.info(
      { changed: loaded.changed, needRestart: loaded.needRestart, epoch: this.#store.view().epoch },
      'reloaded',
    );
  }

  async #readTls({ tls }: Settings): Promise<TlsTexts | null | 'wrong'> {
    if (tls === null) return null;
    const read = await readTls(tls);
    if (read.ok) return read.texts;
    this.#options.logWriter.log.error({ why: read.why }, 'reload: the old settings stay');
    return 'wrong';
  }

  // Admin -----------------------------------------------------------------------------------------------------------------

  async #openAdmin(): Promise<string | null> {
    const { log } = this.#options.logWriter;
    const api = createApi(
      createDesk({
        cluster: this.#settings.cluster,
        startedAtMs: this.#startedAtMs,
        view: () => this.#store.view(),
        prober: this.#prober,
        proposer: this.#proposer,
        serving: () => this.#servingPort(),
        userRules: () => userRules(this.#settings),
        clock,
      }),
    );
    for (const name of this.#settings.listen.admin) {
      const { address, port } = splitAddress(name);
      const opened = await listenAdmin({ api, address, port, log });
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

  // The end ---------------------------------------------------------------------------------------------------------------

  async #stop(signal: string): Promise<void> {
    const { log } = this.#options.logWriter;
    if (this.#isStopping) {
      log.warn({ signal }, 'ended at once');
      await this.#crew.stop(0);
      this.#finish();
      return;
    }
    this.#isStopping = true;
    log.info({ signal, limitMs: this.#settings.shutdown.limit }, 'draining');
    await this.#crew.stop(this.#settings.shutdown.limit);
    this.#finish();
  }

  #finish(): void {
    const { logWriter, sockets } = this.#options;
    this.#cancelWatch();
    this.#stopPins();
    this.#mapWatch?.stop();
    this.#tlsWatch?.stop();
    this.#prober.stop();
    this.#proposer.stop();
    for (const { socket } of sockets) socket.close();
    void Promise.all(this.#admins.map(admin => admin.close())).then(() => {
      this.#store.close();
      logWriter.log.info('ended');
      logWriter.flush();
      this.#ended(exit.ok);
    });
  }
}

function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

/** New settings, but for the keys that only a restart brings in: the process goes on as it was started. */
function keepRunning(before: Settings, after: Settings, needRestart: readonly string[]): Settings {
  const kept = structuredClone(after) as Record<string, unknown>;
  for (const key of needRestart) {
    const path = key.split('.');
    copyAt(kept, before as unknown as Record<string, unknown>, path);
  }
  return kept as unknown as Settings;
}

function copyAt(
  to: Record<string, unknown>,
  from: Record<string, unknown>,
  [first, ...rest]: readonly string[],
): void {
  if (first === undefined) return;
  const [inner, other] = [to[first], from[first]];
  if (rest.length === 0) to[first] = other;
  else if (isGroup(inner) && isGroup(other)) copyAt(inner, other, rest);
}

function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
