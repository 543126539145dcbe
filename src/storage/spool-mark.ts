/**
 * The spool's mark: a file that exists on the mounted file system only. While it is not there, the spool is an empty mount point,
 * and what is written there is lost from sight the moment the mount returns. So every delivery asks here first.
 *
 * A look is shared by all who ask at the same time and kept for `keepMs`. That is safe because the look's device is compared with the
 * device of the user's own folder (`sameFileSystem`): what was unmounted in between has another one. Must never answer `present` on an error.
 */
import type { Failure } from '../core/failure.ts';
import type { FileCalls } from './file-calls.ts';
import { errnoOf, fileFailure } from './file-failure.ts';

/** What one look found. `root` is the spool root as the kernel knows it, links resolved. */
export type MarkLook =
  | { readonly ok: true; readonly device: number; readonly root: string }
  | { readonly ok: false; readonly failure: Failure };

export interface SpoolMarks {
  /** Looks for this mark and resolves this root. `fresh`: no kept answer will do. */
  look(mark: string, root: string, fresh?: boolean): Promise<MarkLook>;
}

export interface SpoolMarkOptions {
  readonly calls: FileCalls;
  /** Monotonic, ms. */
  readonly now: () => number;
  /** At most a second. */
  readonly keepMs: number;
  /** How many marks are remembered (a mark may name {domain}). */
  readonly limit: number;
}

export const markMissing: Failure = { kind: 'mount-missing', text: 'the spool has no mark' };
export const otherDevice: Failure = {
  kind: 'mount-missing',
  text: 'the folder is not on the file system of the mark',
};

export function createSpoolMarks({ calls, now, keepMs, limit }: SpoolMarkOptions): SpoolMarks {
  const kept = new Map<string, { readonly look: Promise<MarkLook>; readonly atMs: number }>();

  async function see(mark: string, root: string): Promise<MarkLook> {
    try {
      const [stat, real] = await Promise.all([calls.stat(mark), calls.realpath(root)]);
      return { ok: true, device: stat.dev, root: real };
    } catch (error) {
      const code = errnoOf(error);
      const gone = code === 'ENOENT' || code === 'ENOTDIR';
      return { ok: false, failure: gone ? markMissing : fileFailure(error) };
    }
  }

  return {
    look(mark, root, fresh = false) {
      const key = `${mark}\0${root}`;
      const last = kept.get(key);
      if (last !== undefined && !fresh && now() - last.atMs < keepMs) return last.look;
      const look = see(mark, root);
      const entry = { look, atMs: now() };
      kept.delete(key);
      kept.set(key, entry);
      for (const oldest of kept.keys()) {
        if (kept.size <= limit) break;
        kept.delete(oldest);
      }
      // A missing mark is looked for anew each time: the mount's return is noticed at once.
      void look.then(seen => {
        if (!seen.ok && kept.get(key) === entry) kept.delete(key);
      });
      return look;
    },
  };
}
