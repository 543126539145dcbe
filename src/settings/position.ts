/**
 * Where in the settings file something is wrong: turns a key's path into line and column, and zod's and yaml's findings into one form,
 * `file:line:column: key: what is wrong; what would be right`. Errors are collected, never thrown.
 */
import {
  type Document,
  isMap,
  isNode,
  isScalar,
  type LineCounter,
  type Node,
  visit,
  type YAMLMap,
} from 'yaml';
import type { z } from 'zod';
import { metas, type Shape } from './leaf.ts';
import { nearest } from './nearest.ts';

export interface SettingsError {
  readonly file: string;
  /** From 1; 0 where there is no line (the file can't be read). */
  readonly line: number;
  readonly column: number;
  /** `nodes[1].ports.imap`; '' for the file as a whole. */
  readonly key: string;
  readonly why: string;
  /** What would be right; '' where that is plain. */
  readonly right: string;
}

export type KeyPath = readonly (string | number)[];

export function formatError(e: SettingsError): string {
  const at = e.line === 0 ? e.file : `${e.file}:${e.line}:${e.column}`;
  const key = e.key === '' ? '' : `${e.key}: `;
  return `${at}: ${key}${e.why}${e.right === '' ? '' : `; ${e.right}`}`;
}

export function keyText(path: KeyPath): string {
  return path.map((p, i) => (typeof p === 'number' ? `[${p}]` : i === 0 ? p : `.${p}`)).join('');
}

/** One settings file's text, parsed, that can tell where a key stands. */
export interface Located {
  readonly file: string;
  readonly text: string;
  readonly document: Document;
  readonly lines: LineCounter;
}

/** An error at a key's value, or where it is missing at the nearest group that is there. `atKey`: at the key itself. */
export function errorAt(
  src: Located,
  path: KeyPath,
  why: string,
  right: string,
  atKey = false,
): SettingsError {
  const { line, col } = src.lines.linePos(offsetOf(src.document, path, atKey));
  return {
    file: src.file,
    line: Math.max(1, line),
    column: Math.max(1, col),
    key: keyText(path),
    why,
    right,
  };
}

function offsetOf(document: Document, path: KeyPath, atKey: boolean): number {
  for (let depth = path.length; depth >= 0; depth--) {
    const here = path.slice(0, depth);
    const node = depth === 0 ? document.contents : document.getIn(here, true);
    const last = here.at(-1);
    const parent =
      depth === 0 ? null : depth === 1 ? document.contents : document.getIn(here.slice(0, -1), true);
    const key = isMap(parent) && typeof last === 'string' ? keyNode(parent, last) : null;
    if (depth === path.length && atKey && key?.range) return key.range[0];
    // A missing key is best shown at the name of the group it belongs to, an empty value at its key.
    if (depth < path.length && key?.range) return key.range[0];
    if (isNode(node) && node.range)
      return isScalar(node) && node.source === '' && key?.range ? key.range[0] : node.range[0];
  }
  return 0;
}

function keyNode(map: YAMLMap, key: string): Node | null {
  const pair = map.items.find(item => isScalar(item.key) && String(item.key.value) === key);
  return pair !== undefined && isNode(pair.key) ? pair.key : null;
}

/** What the schema found, one error a finding; unknown keys one each, with the nearest known one. */
export function schemaErrors(src: Located, issues: readonly z.core.$ZodIssue[], top: Shape): SettingsError[] {
  return issues.flatMap(issue => {
    const path = issue.path.map(p => (typeof p === 'number' ? p : String(p)));
    switch (issue.code) {
      case 'unrecognized_keys':
        return issue.keys.map(key => unknownKey(src, [...path, key], keysAt(top, path)));
      case 'custom': {
        const right = issue.params?.right;
        return [errorAt(src, path, issue.message, typeof right === 'string' ? right : '')];
      }
      case 'invalid_type': {
        const keys = Object.keys(keysAt(top, path));
        return [
          errorAt(
            src,
            path,
            `is not a group of keys`,
            keys.length > 0 ? `the keys are ${keys.join(', ')}` : '',
          ),
        ];
      }
      default:
        return [errorAt(src, path, issue.message, '')];
    }
  });
}

function unknownKey(src: Located, path: KeyPath, known: Shape): SettingsError {
  const found = nearest(String(path.at(-1)), Object.keys(known));
  const all = `the keys here are ${Object.keys(known).join(', ')}`;
  return errorAt(
    src,
    path,
    'is not a known key',
    found === null ? all : `did you mean ${found}? ${all}`,
    true,
  );
}

/** The keys that may stand below a path. */
function keysAt(top: Shape, path: KeyPath): Shape {
  let keys = top;
  for (const step of path) {
    if (typeof step === 'number') continue;
    const schema = keys[step];
    keys = (schema && metas.get(schema)?.keys) ?? {};
  }
  return keys;
}

/** Syntax errors, unknown tags, and keys that stand twice: each named with both lines, since the one that loses is a trap. */
export function yamlErrors(src: Located): SettingsError[] {
  const at = (offset: number) => {
    const { line, col } = src.lines.linePos(offset);
    return { file: src.file, line: Math.max(1, line), column: Math.max(1, col) };
  };
  const found: SettingsError[] = [...src.document.errors, ...src.document.warnings].map(e => ({
    ...at(e.pos[0]),
    key: '',
    why: `is not YAML: ${e.message.split('\n')[0] ?? ''}`,
    right: rightYaml(src, e.pos[0]),
  }));
  visit(src.document, {
    Map: (_, map) => {
      const first = new Map<string, number>();
      for (const { key } of map.items) {
        if (!isScalar(key)) {
          const offset = (isNode(key) ? key.range?.[0] : undefined) ?? map.range?.[0] ?? 0;
          found.push({ ...at(offset), key: '', why: 'is not a key', right: 'a word, then a colon' });
          continue;
        }
        if (!key.range) continue;
        const name = String(key.value);
        const before = first.get(name);
        if (before === undefined) first.set(name, key.range[0]);
        else
          found.push({
            ...at(key.range[0]),
            key: name,
            why: 'stands here twice',
            right: `it is in line ${at(before).line} already`,
          });
      }
    },
  });
  return found;
}

/** The one trap that our own templates set: in `{ path: /srv/{user} }` YAML reads a group within a group. */
function rightYaml(src: Located, offset: number): string {
  const { line } = src.lines.linePos(offset);
  const text = src.text.split('\n')[line - 1] ?? '';
  return /\{(host|node|user|local|domain)\}/.test(text)
    ? 'a text with { } in it needs quotes: "/srv/{user}"'
    : '';
}
