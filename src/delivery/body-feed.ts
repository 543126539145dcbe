/**
 * A body on its way from a socket to a file, piece by piece: the socket pushes, the file pulls, and the socket is told to wait once
 * `limitBytes` lie in between. Ends whole, or cut; a cut body makes its reader fail, so it can never be taken for a whole one.
 */

export interface BodyFeed extends AsyncIterable<Buffer> {
  /** False: wait until `onRoom` is called. */
  push(piece: Buffer): boolean;
  end(): void;
  /** The sender is gone. */
  cut(): void;
  /** Whoever reads has stopped: what comes from now on is dropped. */
  drop(): void;
}

export function createBodyFeed(limitBytes: number, onRoom: () => void): BodyFeed {
  const pieces: Buffer[] = [];
  let heldBytes = 0;
  let state: 'open' | 'ended' | 'cut' | 'dropped' = 'open';
  let wake: (() => void) | null = null;

  function stir(): void {
    wake?.();
    wake = null;
  }

  async function* read(): AsyncGenerator<Buffer, void, undefined> {
    for (;;) {
      const piece = pieces.shift();
      if (piece !== undefined) {
        const wasFull = heldBytes >= limitBytes;
        heldBytes -= piece.length;
        if (wasFull && heldBytes < limitBytes) onRoom();
        yield piece;
      } else if (state === 'cut') {
        throw Object.assign(new Error('the sender broke off'), { code: 'ECONNRESET' });
      } else if (state !== 'open') {
        return;
      } else {
        await new Promise<void>(resolve => {
          wake = resolve;
        });
      }
    }
  }

  return {
    push(piece) {
      if (state !== 'open') return true;
      pieces.push(piece);
      heldBytes += piece.length;
      stir();
      return heldBytes < limitBytes;
    },
    end() {
      if (state === 'open') state = 'ended';
      stir();
    },
    cut() {
      if (state === 'open') state = 'cut';
      stir();
    },
    drop() {
      state = 'dropped';
      pieces.length = 0;
      if (heldBytes >= limitBytes) onRoom();
      heldBytes = 0;
    },
    [Symbol.asyncIterator]: read,
  };
}
