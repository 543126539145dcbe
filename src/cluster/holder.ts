/**
 * Speaking to an entry's holder, the session or delivery: close, and in the end break off. Each is said once.
 * A holder that throws is a bug of its own: it is logged, and the change of the view goes on without it.
 */
import type { Log } from '../observe/log.ts';
import type { ActiveEntry } from './actives.ts';
import type { CloseReason } from './admission.ts';

export type HolderLog = Pick<Log, 'error'>;

export function tellHolder(entry: ActiveEntry, reason: CloseReason, log: HolderLog): void {
  if (entry.phase !== 'live') return;
  entry.phase = 'closing';
  try {
    entry.wish.onClose(reason);
  } catch (error) {
    log.error({ user: entry.user, error }, 'closing an entry failed');
  }
}

/** Only after it was told, and only while it has not let go. */
export function breakOffHolder(entry: ActiveEntry, log: HolderLog): void {
  if (entry.phase !== 'closing') return;
  try {
    entry.wish.onCut?.();
  } catch (error) {
    log.error({ user: entry.user, error }, 'cutting an entry failed');
  }
}
