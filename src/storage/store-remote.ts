/**
 * The embedded store as a serving process sees it: the parent holds it, each method is a call over the process channel.
 * A call that is not answered in time answers `unreachable`: it may have run all the same, as the contract allows.
 */
import type { Store } from './store.ts';

/** Every method of the contract but `onHint`. */
const methods = [
  'renew',
  'join',
  'look',
  'restore',
  'open',
  'propose',
  'addPins',
  'ack',
  'commit',
  'withdraw',
  'fate',
  'leave',
  'gone',
  'expel',
  'claim',
  'unclaim',
  'putMap',
  'map',
  'busy',
  'idle',
] as const satisfies readonly (keyof Store)[];

/** The part of net/ipc.ts that is used here. */
export interface StoreChannel {
  call(
    name: string,
    args: readonly unknown[],
    timeoutMs: number,
  ): Promise<{ readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly why: string }>;
}

type Method = (typeof methods)[number];
type Answers = Readonly<Record<string, (args: readonly unknown[]) => unknown>>;

/** The parent's side: what `openIpc` answers for a store. */
export function storeAnswers(store: Store): Answers {
  const callable = store as unknown as Record<Method, (...args: readonly unknown[]) => unknown>;
  return Object.fromEntries(methods.map(name => [`store.${name}`, args => callable[name](...args)]));
}

export interface RemoteStore {
  readonly store: Store;
  /** To be called when the parent's note `store.hint` arrives. */
  hint(): void;
}

/** `channel` may come later than the store: what it is opened with names `hint`. */
export function createRemoteStore(channel: () => StoreChannel, commandTimeoutMs: number): RemoteStore {
  const listeners = new Set<() => void>();
  const forward =
    (name: Method) =>
    async (...args: readonly unknown[]): Promise<unknown> => {
      const result = await channel().call(`store.${name}`, args, commandTimeoutMs);
      return result.ok ? result.value : { ok: false, why: 'unreachable', detail: result.why };
    };
  const calls = Object.fromEntries(methods.map(name => [name, forward(name)]));
  const onHint = (listener: () => void): (() => void) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
  // The parent is this same program of this same version: what it answers has the contract's shapes.
  const store = { ...calls, onHint } as unknown as Store;
  return {
    store,
    hint: () => {
      for (const listener of listeners) listener();
    },
  };
}
