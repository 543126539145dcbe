/**
 * The Maildir names tried lately, bounded: two generations, the older one dropped when the younger is `spanMs` old.
 * Where a generation is full, every name counts as tried: a needless look into the mailbox, never a message twice.
 */

export interface RecentNames {
  /** True where this name was added within the last `spanMs`, or may have been. */
  has(name: string): boolean;
  add(name: string): void;
}

interface Generation {
  readonly names: Set<string>;
  readonly sinceMs: number;
}

export function createRecentNames(options: {
  /** Monotonic, ms. */
  readonly now: () => number;
  readonly spanMs: number;
  readonly limit: number;
}): RecentNames {
  const { now, spanMs, limit } = options;
  let young: Generation = { names: new Set(), sinceMs: now() };
  let old: Generation = young;

  function turn(): void {
    const ageMs = now() - young.sinceMs;
    if (ageMs < spanMs) return;
    const fresh = { names: new Set<string>(), sinceMs: now() };
    old = ageMs < 2 * spanMs ? young : fresh;
    young = fresh;
  }

  const hasIn = ({ names }: Generation, name: string): boolean => names.size >= limit || names.has(name);
  return {
    has(name) {
      turn();
      return hasIn(young, name) || hasIn(old, name);
    },
    add(name) {
      turn();
      if (young.names.size < limit) young.names.add(name);
    },
  };
}
