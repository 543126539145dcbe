/**
 * New settings in place of the running ones, or the old ones kept with the errors told. Says which keys changed, and which of those only a
 * restart brings in: bound sockets, folders and accounts are not exchanged under a running process.
 */
import { isDeepStrictEqual } from 'node:util';
import { metas, type Shape, section } from './leaf.ts';
import { loadSettings, type SettingsError } from './load.ts';
import { type Settings, topKeys } from './schema.ts';

export type Reloaded =
  | {
      readonly ok: true;
      readonly settings: Settings;
      /** Changed keys, `health.interval`, `nodes.mail3.weight`, `nodes.mail4`. */
      readonly changed: readonly string[];
      /** Those of them that wait for a restart. */
      readonly needRestart: readonly string[];
    }
  | { readonly ok: false; readonly errors: readonly SettingsError[] };

export async function reload(current: Settings, path: string): Promise<Reloaded> {
  const loaded = await loadSettings(path);
  if (!loaded.ok) return loaded;
  const changes = [...compare(current, loaded.settings)];
  return {
    ok: true,
    settings: loaded.settings,
    changed: changes.map(c => c.key),
    needRestart: changes.filter(c => c.restart).map(c => c.key),
  };
}

interface Change {
  readonly key: string;
  readonly restart: boolean;
}

/** What differs, key by key; nodes by their names, so that a new first node isn't a change of all. */
export function* compare(before: Settings, after: Settings): Generator<Change> {
  yield* compareGroups(before, after, topKeys, '');
}

type Group = Readonly<Record<string, unknown>>;
const isGroup = (v: unknown): v is Group => typeof v === 'object' && v !== null && !Array.isArray(v);

function* compareGroups(before: Group, after: Group, keys: Shape, above: string): Generator<Change> {
  for (const [name, schema] of Object.entries(keys)) {
    const meta = metas.get(schema);
    const key = `${above}${name}`;
    const [a, b] = [before[name], after[name]];
    if (isDeepStrictEqual(a, b)) continue;
    if (meta?.each && meta.keys)
      yield* compareGroups(byName(a), byName(b), namedKeys(meta.keys, a, b), `${key}.`);
    else if (meta?.keys && isGroup(a) && isGroup(b)) yield* compareGroups(a, b, meta.keys, `${key}.`);
    else yield { key, restart: meta?.restart === true };
  }
}

function byName(list: unknown): Group {
  const items = Array.isArray(list) ? list.filter(isGroup) : [];
  return Object.fromEntries(items.map(item => [String(item.name), item]));
}

/** A shape whose keys are the nodes' names, each with the keys of a node. */
function namedKeys(keys: Shape, a: unknown, b: unknown): Shape {
  const names = new Set([...Object.keys(byName(a)), ...Object.keys(byName(b))]);
  const node = section({ prose: 'A node.' }, keys);
  return Object.fromEntries([...names].map(name => [name, node]));
}
