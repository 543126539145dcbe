/**
 * The Maildirs that are open just now. Deliveries into one folder borrow the same descriptors, so that their folder syncs can be joined
 * and its checks are made once. Bounded in number, and in age to about a second: a Sieve script or a moved folder is noticed soon,
 * and an idle proxy never keeps a file system from being unmounted. Must never close what is borrowed.
 *
 *     opening ─ok→ open (borrowed n times) ─too old, spoiled, crowded out→ leaving (no new borrower) ─given back by all→ closed
 */

export interface Borrowed<F> {
  readonly folder: F;
  /** False where it was opened earlier, for somebody else: trouble with it may be its age. */
  readonly fresh: boolean;
  /** Exactly once. `spoiled`: nobody shall borrow it again. */
  giveBack(options?: { readonly spoiled: boolean }): void;
}

export interface Closable {
  close(): Promise<void>;
}

export type OpeningResult<F, E> = { readonly ok: true; readonly folder: F } | ({ readonly ok: false } & E);

export interface FolderCacheOptions {
  /** Monotonic, ms. */
  readonly now: () => number;
  readonly after: (ms: number, then: () => void) => () => void;
  readonly keepMs: number;
  /** Folders held while nobody borrows them. */
  readonly limit: number;
}

export interface FolderCache<F extends Closable, E> {
  borrow(
    key: string,
    open: () => Promise<OpeningResult<F, E>>,
  ): Promise<{ readonly ok: true; readonly borrowed: Borrowed<F> } | ({ readonly ok: false } & E)>;
  /** Closes all once they are given back. */
  close(): void;
  /** Open folders, borrowed or not. */
  readonly size: number;
}

/** An opening under way. Those who wait for it are counted as borrowers from the moment the slot is there, or it could be closed under them. */
interface Opening<F, E> {
  readonly result: Promise<OpeningResult<Slot<F>, E>>;
  join(): void;
}

interface Slot<F> {
  readonly folder: F;
  readonly openedAtMs: number;
  borrowers: number;
  leaving: boolean;
}

export function createFolderCache<F extends Closable, E>(options: FolderCacheOptions): FolderCache<F, E> {
  const { now, after, keepMs, limit } = options;
  const slots = new Map<string, Slot<F>>();
  const openings = new Map<string, Opening<F, E>>();
  let size = 0;
  let cancelSweep: (() => void) | null = null;
  let closed = false;

  function leave(key: string, slot: Slot<F>): void {
    if (slots.get(key) === slot) slots.delete(key);
    slot.leaving = true;
    closeIfIdle(slot);
  }

  function closeIfIdle(slot: Slot<F>): void {
    if (!slot.leaving || slot.borrowers > 0) return;
    size -= 1;
    void slot.folder.close();
  }

  function sweep(): void {
    cancelSweep = null;
    for (const [key, slot] of slots) {
      if (now() - slot.openedAtMs >= keepMs) leave(key, slot);
    }
    if (slots.size > 0 && !closed) cancelSweep = after(keepMs, sweep);
  }

  function crowdOut(): void {
    for (const [key, slot] of slots) {
      if (slots.size <= limit) return;
      if (slot.borrowers === 0) leave(key, slot);
    }
  }

  /** The slot counts this borrower already. */
  function lend(key: string, slot: Slot<F>, fresh: boolean): Borrowed<F> {
    return {
      folder: slot.folder,
      fresh,
      giveBack: ({ spoiled } = { spoiled: false }) => {
        slot.borrowers -= 1;
        if (spoiled && !slot.leaving) leave(key, slot);
        else closeIfIdle(slot);
        crowdOut();
      },
    };
  }

  function startOpening(key: string, open: () => Promise<OpeningResult<F, E>>): Opening<F, E> {
    let waiting = 0;
    let slot: Slot<F> | null = null;
    const result = open().then((opened): OpeningResult<Slot<F>, E> => {
      openings.delete(key);
      if (!opened.ok) return opened;
      slot = { folder: opened.folder, openedAtMs: now(), borrowers: waiting, leaving: closed };
      size += 1;
      if (!closed) {
        slots.set(key, slot);
        cancelSweep ??= after(keepMs, sweep);
      }
      return { ok: true, folder: slot };
    });
    const join = (): void => {
      if (slot === null) waiting += 1;
      else slot.borrowers += 1;
    };
    return { result, join };
  }

  return {
    async borrow(key, open) {
      const slot = slots.get(key);
      if (slot !== undefined && now() - slot.openedAtMs < keepMs) {
        slot.borrowers += 1;
        return { ok: true, borrowed: lend(key, slot, false) };
      }
      if (slot !== undefined) leave(key, slot);
      const opening = openings.get(key) ?? startOpening(key, open);
      openings.set(key, opening);
      opening.join();
      const opened = await opening.result;
      return opened.ok ? { ok: true, borrowed: lend(key, opened.folder, true) } : opened;
    },
    close() {
      closed = true;
      cancelSweep?.();
      cancelSweep = null;
      for (const [key, slot] of slots) leave(key, slot);
    },
    get size() {
      return size;
    },
  };
}
