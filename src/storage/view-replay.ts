/**
 * From the journal's records to the view they add up to, when the embedded store starts.
 * Must never guess: a record of an unknown kind, or a map whose content is missing, ends the start with a reason.
 */
import type { MapContent } from '../core/barrier.ts';
import { buildMap, type UserMap } from '../core/user-map.ts';
import {
  apply,
  type Change,
  emptyView,
  fromImage,
  pickRules,
  sameRules,
  type View,
  type ViewEvent,
  type ViewImage,
  type ViewRules,
} from '../core/view.ts';

/** What the journal holds. */
export type JournalRecord =
  | { readonly kind: 'view'; readonly image: ViewImage; readonly maps: readonly MapContent[] }
  | { readonly kind: 'change'; readonly run: string; readonly change: Change }
  | { readonly kind: 'map'; readonly content: MapContent };

export type Replayed =
  | { readonly ok: true; readonly view: View; readonly contents: Map<string, MapContent> }
  | { readonly ok: false; readonly why: string };

export function replay(records: readonly unknown[], rules: ViewRules, run: string): Replayed {
  const contents = new Map<string, MapContent>();
  const maps = new Map<string, UserMap>();
  let view = emptyView(rules, run);
  const keep = (content: MapContent): void => {
    contents.set(content.digest, content);
    maps.set(content.digest, buildMap(content.lines, content.digest));
  };
  try {
    for (const record of records as readonly JournalRecord[]) {
      switch (record.kind) {
        case 'map':
          keep(record.content);
          break;
        case 'view': {
          for (const content of record.maps) keep(content);
          const whole = fromImage(record.image, maps);
          if (whole === null)
            return { ok: false, why: `map ${record.image.mapDigest} is not in the journal` };
          view = whole;
          break;
        }
        case 'change':
          view = { ...apply(view, record.change.events, record.change.epoch, maps), run: record.run };
          break;
        default:
          return { ok: false, why: 'the journal has a record of a kind this version does not know' };
      }
    }
  } catch (error) {
    return { ok: false, why: `the journal cannot be replayed: ${String(error)}` };
  }
  return { ok: true, view, contents };
}

/** A site that gives up its fence no longer waits for one. */
export function withRules(view: View, rules: ViewRules): View {
  if (sameRules(view, rules)) return view;
  const other = { ...view, ...pickRules(rules) };
  if (rules.fence === 'required') return other;
  const waiting = view.nodes.filter(node => node.health === 'down' && !node.fenced);
  const fenced = waiting.map(({ name, incident }): ViewEvent => ({ kind: 'fenced', node: name, incident }));
  return apply(other, fenced, view.epoch);
}
