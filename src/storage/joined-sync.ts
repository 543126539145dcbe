/**
 * fsync of one folder, shared: whoever asks while a sync runs waits for the next one, which covers all who asked meanwhile.
 * A sync that already runs never counts for a caller that came later: its entry may not have been in the folder yet.
 *
 *     idle ─ask→ running ─ask, ask, ask→ running, next joined by all three ─done→ running (the next) ─done→ idle
 */

export interface JoinedSync {
  /** Resolves once a sync that started after this call has ended; rejects with its errno. */
  sync(): Promise<void>;
}

export function createJoinedSync(fsync: () => Promise<void>): JoinedSync {
  let running: Promise<void> | null = null;
  let next: Promise<void> | null = null;

  function start(): Promise<void> {
    const mine = fsync().finally(() => {
      if (running === mine) running = null;
    });
    running = mine;
    return mine;
  }

  return {
    sync() {
      if (running === null) return start();
      if (next === null) {
        const after = running
          .catch(() => undefined)
          .then(() => {
            next = null;
            return start();
          });
        next = after;
      }
      return next;
    },
  };
}
