/**
 * The listening sockets, bound by the parent before anything starts, by kind and by the name they have in the settings.
 */
import { type BoundSocket, bindSocket } from '../net/bound-socket.ts';
import type { Settings } from '../settings/schema.ts';
import type { ListenerKind } from './serving.ts';

export interface Door {
  readonly kind: ListenerKind;
  /** As in the settings: `0.0.0.0:143`. */
  readonly name: string;
  readonly socket: BoundSocket;
}

export const doorKinds: readonly ListenerKind[] = ['imap', 'imaps', 'lmtp', 'smtp'];

/** All or none: what can't be bound is named, each in a line. */
export function openDoors({
  listen,
}: Settings):
  | { readonly ok: true; readonly doors: readonly Door[] }
  | { readonly ok: false; readonly lines: readonly string[] } {
  const doors: Door[] = [];
  const lines: string[] = [];
  for (const kind of doorKinds) {
    for (const name of listen[kind]) {
      const { address, port } = splitAddress(name);
      const bound = bindSocket(address, port);
      if (bound.ok) doors.push({ kind, name, socket: bound.socket });
      else lines.push(`listen.${kind} ${name}: ${bound.why}`);
    }
  }
  if (lines.length === 0) return { ok: true, doors };
  for (const { socket } of doors) socket.close();
  return { ok: false, lines };
}

/** `address:port` or `[v6]:port`, as the settings checked it. */
export function splitAddress(name: string): { readonly address: string; readonly port: number } {
  const colon = name.lastIndexOf(':');
  return { address: name.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(name.slice(colon + 1)) };
}
