/**
 * The settings in force, and the files they name: followed on disk, exchanged on SIGHUP as a whole or not at all.
 *
 *     map or certificate changed on disk → tried → in force, or the last good one stays
 *     SIGHUP → settings, certificate, maps all read and tried → in force together, or the old ones stay and the log says why
 *
 * What only a restart can bring in (sockets, folders, accounts, how users are named) stays as it was started.
 */
import type { Proposer } from '../cluster/proposer.ts';
import { checkTargets, type LoadedMaps, loadMaps } from '../directory/map-file.ts';
import { type MapWatch, watchMaps } from '../directory/map-watch.ts';
import type { Clock } from '../net/clock.ts';
import { readTls, type TlsTexts, type TlsWatch, watchTls } from '../net/tls.ts';
import type { Log } from '../observe/log.ts';
import { nodeSpecs, userRules } from '../settings/derived.ts';
import { formatError } from '../settings/load.ts';
import { reload } from '../settings/reload.ts';
import type { Settings } from '../settings/schema.ts';

export interface CurrentOptions {
  readonly settingsPath: string;
  readonly settings: Settings;
  readonly tls: TlsTexts | null;
  readonly proposer: Proposer;
  /** Of the map that is in the view. */
  readonly mapDigest: () => string;
  /** Settings or certificate are new. */
  readonly onChange: () => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Current {
  settings(): Settings;
  tls(): TlsTexts | null;
  /** Begins to look at map files and certificates. */
  follow(): void;
  /** SIGHUP. */
  reload(): Promise<void>;
  stop(): void;
}

const oldStays = 'reload: the old settings stay';

export function createCurrent(options: CurrentOptions): Current {
  const { settingsPath, proposer, mapDigest, onChange, clock, log } = options;
  let { settings, tls } = options;
  let mapWatch: MapWatch | null = null;
  let tlsWatch: TlsWatch | null = null;

  const mapsChanged = async (loaded: LoadedMaps): Promise<void> => {
    const wrong = loaded.ok ? checkTargets(loaded.lines, nodeSpecs(settings)) : loaded.errors;
    for (const { file, line, message } of wrong)
      log.error({ file, line, why: message }, 'map files: the last good map stays');
    if (!loaded.ok || wrong.length > 0) return;
    const done = await proposer.wishMap({ digest: loaded.map.digest, lines: loaded.lines }, 'map files');
    if (done.ok) log.info({ lines: loaded.lines.length, epoch: done.epoch }, 'map files read anew');
    else log.error({ why: done.why }, 'map files did not come into force');
  };

  const stop = () => {
    mapWatch?.stop();
    tlsWatch?.stop();
  };

  const follow = () => {
    stop();
    const onMaps = (loaded: LoadedMaps) => void mapsChanged(loaded);
    mapWatch = watchMaps({
      files: settings.maps,
      rules: userRules(settings),
      digest: mapDigest(),
      onChange: onMaps,
      clock,
    });
    const onTls = (texts: TlsTexts) => {
      tls = texts;
      onChange();
    };
    tlsWatch =
      settings.tls === null || tls === null
        ? null
        : watchTls({ files: settings.tls, texts: tls, clock, log, onChange: onTls });
  };

  const readAll = async (): Promise<{
    after: Settings;
    needRestart: readonly string[];
    changed: readonly string[];
    texts: TlsTexts | null;
    maps: LoadedMaps;
  } | null> => {
    const loaded = await reload(settings, settingsPath);
    if (!loaded.ok) {
      for (const error of loaded.errors) log.error({ why: formatError(error) }, oldStays);
      return null;
    }
    const { settings: after, changed, needRestart } = loaded;
    const read = after.tls === null ? null : await readTls(after.tls);
    const maps = await loadMaps(after.maps, userRules(after));
    const wrong = maps.ok ? checkTargets(maps.lines, nodeSpecs(after)) : maps.errors;
    for (const { file, line, message } of wrong) log.error({ file, line, why: message }, oldStays);
    if (read !== null && !read.ok) log.error({ why: read.why }, oldStays);
    if (wrong.length > 0 || (read !== null && !read.ok)) return null;
    return { after, needRestart, changed, texts: read?.texts ?? null, maps };
  };

  const reloadNow = async (): Promise<void> => {
    const read = await readAll();
    if (read === null) return;
    settings = keepStarted(settings, read.after, read.needRestart);
    tls = read.texts;
    onChange();
    const nodes = await proposer.wish([{ kind: 'nodes', specs: nodeSpecs(settings) }], 'settings');
    if (!nodes.ok) log.error({ why: nodes.why }, 'reload: the nodes did not come into force');
    if (read.maps.ok && read.maps.map.digest !== mapDigest()) await mapsChanged(read.maps);
    follow();
    log.info({ changed: read.changed, needRestart: read.needRestart }, 'reloaded');
  };

  // One after the other, or an older file could come into force after a newer one. One that waits has all to read yet.
  let running: Promise<void> | null = null;
  let next: Promise<void> | null = null;
  const reloadInTurn = (): Promise<void> => {
    if (next !== null) return next;
    const turn = (running ?? Promise.resolve()).then(() => {
      running = turn;
      next = null;
      return reloadNow();
    });
    next = turn;
    return turn;
  };

  return {
    settings: () => settings,
    tls: () => tls,
    follow,
    reload: reloadInTurn,
    stop,
  };
}

/** New settings, but for the keys that only a restart brings in: the process goes on as it was started. */
function keepStarted(before: Settings, after: Settings, needRestart: readonly string[]): Settings {
  const kept: unknown = structuredClone(after);
  for (const key of needRestart) copyAt(kept, before, key.split('.'));
  return kept as Settings;
}

function copyAt(to: unknown, from: unknown, [first, ...rest]: readonly string[]): void {
  if (first === undefined || !isGroup(to) || !isGroup(from)) return;
  if (rest.length === 0) to[first] = from[first];
  else copyAt(to[first], from[first], rest);
}

function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
