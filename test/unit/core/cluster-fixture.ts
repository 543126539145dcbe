/** Views for tests of the core: short to write, whole in what they hold. */
import type { NodeSpec } from '../../../src/core/types.ts';
import { apply, emptyView, type View, type ViewEvent, type ViewRules } from '../../../src/core/view.ts';

export const rules: ViewRules = { affinity: 'user', rulesDigest: 'r', fence: 'none', onLoss: 'refuse' };

export function nodeSpec(name: string, other: Partial<NodeSpec> = {}): NodeSpec {
  return { name, address: '127.0.0.1', weight: 100, pool: 'default', ports: { imap: 143 }, ...other };
}

export function viewOf(names: readonly string[], other: Partial<ViewRules> = {}): View {
  const specs = names.map(name => nodeSpec(name));
  return apply(emptyView({ ...rules, ...other }, 'run'), [{ kind: 'nodes', specs }], 1);
}

/** The view after each event in turn, an epoch each. */
export function after(view: View, ...events: readonly ViewEvent[]): View {
  return events.reduce((each, event) => apply(each, [event], each.epoch + 1), view);
}

export const users = Array.from({ length: 300 }, (_, i) => `user${i}@example.org`);
