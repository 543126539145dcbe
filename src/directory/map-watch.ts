/**
 * Follows the map files: a change on disk becomes a new map, an error leaves the last good one in place and is told once.
 * Polls with stat, since inotify sees nothing of what another node writes on a shared file system.
 *
 *     quiet ── a stamp differs ──→ changing ── the same stamps twice ──→ load ── ok ──→ quiet (told if the map differs)
 *       ↑          (debounce)                                             └── error ──→ quiet (told once), retried when stamps differ
 *       └── a missing file waits `missingMs` before it counts: rename-replace and remounts leave a gap
 *
 * Must never let two polls run at once: on a hung file system each would hold a thread.
 */
import { stat } from 'node:fs/promises';
import type { UserRules } from '../core/canonical.ts';
import type { Clock } from '../net/clock.ts';
import { type LoadedMaps, loadMaps } from './map-file.ts';

export interface MapWatchOptions {
  readonly files: readonly string[];
  readonly rules: UserRules;
  /** Digest of the map that is in use; `''` for none. Nothing is told while the files say the same. */
  readonly digest: string;
  /** A new map, or errors while the last good map stays. Must not throw. */
  readonly onChange: (loaded: LoadedMaps) => void;
  readonly clock: Pick<Clock, 'now' | 'after'>;
  readonly pollMs?: number;
  /** How long a file may be missing before that is an error. */
  readonly missingMs?: number;
  /** How long a poll may take before the silence is told. */
  readonly hungMs?: number;
}

export interface MapWatch {
  /** Looks now and without debounce (SIGHUP). Resolves when the files were read and `onChange` was called, if there was news. */
  check(): Promise<void>;
  stop(): void;
}

export function watchMaps(options: MapWatchOptions): MapWatch {
  const { clock, files, pollMs = 2000, hungMs = 30_000 } = options;
  const follower = createFollower(options);
  let isStopped = false;
  let running: Promise<void> | null = null;
  let cancelNext = (): void => {};

  const look = async (settled: boolean): Promise<void> => {
    const cancelAlarm = clock.after(hungMs, () => {
      if (!isStopped) follower.complain(`has not answered for ${Math.round(hungMs / 1000)} s`);
    });
    const stamps = await Promise.all(files.map(stampOf));
    if (!isStopped && follower.wants(stamps, settled, clock.now())) {
      const loaded = await loadMaps(files, options.rules);
      if (!isStopped) follower.took(loaded, settled, clock.now());
    }
    cancelAlarm();
  };
  const run = (settled: boolean): Promise<void> => {
    cancelNext();
    running = look(settled).finally(() => {
      running = null;
      if (!isStopped) cancelNext = clock.after(pollMs, () => void run(false));
    });
    return running;
  };
  if (files.length > 0) cancelNext = clock.after(pollMs, () => void run(false));

  return {
    check: async () => {
      // A poll under way may have read before the change that the caller means.
      while (running !== null) await running;
      if (!isStopped && files.length > 0) await run(true);
    },
    stop: () => {
      isStopped = true;
      cancelNext();
    },
  };
}

interface Follower {
  /** Whether the files are to be read now. */
  wants(stamps: readonly (string | null)[], settled: boolean, nowMs: number): boolean;
  took(loaded: LoadedMaps, settled: boolean, nowMs: number): void;
  complain(message: string): void;
}

/** The machine of the drawing, without files and timers. */
function createFollower({
  files,
  digest,
  onChange,
  pollMs = 2000,
  missingMs = 10_000,
}: MapWatchOptions): Follower {
  let current = digest;
  let toldError = '';
  /** An error of a whole file that was met once: a gap between stat and open, or a torn read, is gone at the next poll. */
  let doubt = '';
  /** Stamps of what was read last; read again when they differ, or from `retryAtMs` on. */
  let read: string | null = null;
  let retryAtMs = Number.POSITIVE_INFINITY;
  let seen = '';
  let missingSinceMs: number | null = null;

  const tell = (loaded: LoadedMaps): void => {
    const error = loaded.ok ? '' : JSON.stringify(loaded.errors);
    const isNews = loaded.ok ? loaded.map.digest !== current || toldError !== '' : error !== toldError;
    if (loaded.ok) current = loaded.map.digest;
    toldError = error;
    if (isNews) onChange(loaded);
  };
  return {
    wants: (stamps, settled, nowMs) => {
      const now = stamps.join('\n');
      const isStable = now === seen;
      seen = now;
      if (!stamps.includes(null)) missingSinceMs = null;
      else missingSinceMs ??= nowMs;
      const isGap = missingSinceMs !== null && nowMs - missingSinceMs < missingMs;
      if (!settled && (isGap || !isStable)) return false;
      if (!settled && now === read && nowMs < retryAtMs) return false;
      read = now;
      return true;
    },
    took: (loaded, settled, nowMs) => {
      const isWhole = !loaded.ok && loaded.errors.some(error => error.line === 0);
      const error = isWhole ? JSON.stringify(loaded.errors) : '';
      const isSure = !isWhole || settled || error === doubt || error === toldError;
      retryAtMs = !isWhole ? Number.POSITIVE_INFINITY : isSure ? nowMs + 10 * pollMs : nowMs;
      doubt = error;
      if (isSure) tell(loaded);
    },
    complain: message => {
      retryAtMs = 0;
      tell({ ok: false, errors: files.slice(0, 1).map(file => ({ file, line: 0, message })) });
    },
  };
}

/** What changes whenever the file does; null where there is none, or it cannot be looked at. */
async function stampOf(file: string): Promise<string | null> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
    return `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`;
  } catch {
    return null;
  }
}
