/**
 * A settings file to `Settings`, or to every error in it at once: read → YAML → schema → paths and defaults → cross checks.
 * Reads this one file only; whether the files it names exist is `homing check`'s and `serve`'s question. Must never start on a guess.
 */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { checkTemplate } from './checks.ts';
import { crossCheck } from './cross.ts';
import { metas, type Shape } from './leaf.ts';
import {
  errorAt,
  type KeyPath,
  type Located,
  type SettingsError,
  schemaErrors,
  yamlErrors,
} from './position.ts';
import { type RawSettings, type Settings, schema, topKeys } from './schema.ts';

export { formatError, type SettingsError } from './position.ts';

export type Loaded =
  | { readonly ok: true; readonly settings: Settings; readonly files: readonly string[] }
  | { readonly ok: false; readonly errors: readonly SettingsError[] };

/** A settings file is a few pages; a core dump given by mistake is not read into memory. */
const limitBytes = 4 * 1024 * 1024;

export async function loadSettings(path: string): Promise<Loaded> {
  const fail = (why: string, right: string): Loaded => ({
    ok: false,
    errors: [{ file: path, line: 0, column: 0, key: '', why, right }],
  });
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (e) {
    return fail(`can't be read: ${readFailure(e)}`, 'give the settings file with --config FILE');
  }
  if (bytes.length > limitBytes)
    return fail(`is ${bytes.length} bytes long`, `a settings file of at most ${limitBytes}`);
  const text = decode(bytes);
  if (text === null) return fail('is not UTF-8', 'a text file in UTF-8');
  return parseSettings(text, path);
}

function readFailure(e: unknown): string {
  const code = e instanceof Error && 'code' in e ? String(e.code) : '';
  const words: Record<string, string> = {
    ENOENT: 'there is no such file',
    EACCES: 'permission denied',
    EISDIR: 'it is a folder',
  };
  return words[code] ?? (code || String(e));
}

function decode(bytes: Buffer): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The same of a text; `file` names it in errors and is what relative paths are relative to. */
export function parseSettings(text: string, file: string): Loaded {
  const lines = new LineCounter();
  // Duplicate keys are found by `yamlErrors`, which can name the first one too.
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: false, prettyErrors: false });
  const src: Located = { file, text, document, lines };
  const syntax = yamlErrors(src);
  if (syntax.length > 0) return { ok: false, errors: syntax };
  const plain = toPlain(src);
  if (!plain.ok) return plain;
  const parsed = schema.safeParse(plain.value);
  if (!parsed.success) return { ok: false, errors: sorted(schemaErrors(src, parsed.error.issues, topKeys)) };
  const errors: SettingsError[] = [];
  const settings = complete(parsed.data, src, errors);
  for (const { path, why, right } of crossCheck(settings)) errors.push(errorAt(src, path, why, right));
  return errors.length > 0
    ? { ok: false, errors: sorted(errors) }
    : { ok: true, settings, files: [resolve(file)] };
}

function toPlain(
  src: Located,
): { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly errors: SettingsError[] } {
  try {
    return { ok: true, value: src.document.toJS({ maxAliasCount: 100 }) ?? {} };
  } catch (e) {
    return {
      ok: false,
      errors: [
        errorAt(src, [], `can't be read: ${e instanceof Error ? e.message : String(e)}`, 'fewer aliases'),
      ],
    };
  }
}

const sorted = (errors: readonly SettingsError[]): SettingsError[] =>
  errors.toSorted((a, b) => a.line - b.line || a.column - b.column);

/** Fills in what depends on other keys or on where the file is. */
function complete(raw: RawSettings, src: Located, errors: SettingsError[]): Settings {
  const names = { host: hostname(), node: raw.self };
  const { users, delivery } = raw;
  const plain = (domain: string): string => domain.normalize('NFC').toLowerCase();
  const domains =
    users.domains.length > 0 ? users.domains : users.defaultDomain === '' ? [] : [users.defaultDomain];
  const noDirect = raw.spool === null && !delivery.whenHomeDown.given;
  const way = delivery.whenHomeDown;
  const whenHomeDown = noDirect
    ? { smtp: way.smtp.filter(w => w !== 'direct'), lmtp: way.lmtp.filter(w => w !== 'direct'), given: false }
    : way;
  const settings: Settings = {
    ...raw,
    nodes: raw.nodes.map(node => ({ ...node, ports: defaultPorts(node.ports) })),
    users: { ...users, defaultDomain: plain(users.defaultDomain), domains: [...new Set(domains.map(plain))] },
    delivery: { ...delivery, whenHomeDown },
  };
  return resolvePaths(settings, topKeys, [], src, names, errors) as Settings;
}

function defaultPorts(ports: RawSettings['nodes'][number]['ports']): typeof ports {
  return Object.values(ports).every(port => port === null) ? { ...ports, imap: 143, lmtp: 24 } : ports;
}

interface PathNames {
  readonly host: string;
  readonly node: string | null;
}

/** Makes each value whose key is a path absolute, with {host} and {node} filled in. */
function resolvePaths(
  group: object,
  keys: Shape,
  at: KeyPath,
  src: Located,
  names: PathNames,
  errors: SettingsError[],
): object {
  const done = Object.entries(group).map(([key, value]): [string, unknown] => {
    const schemaOfKey = keys[key];
    const meta = schemaOfKey && metas.get(schemaOfKey);
    const path = [...at, key];
    const one = (v: unknown, p: KeyPath): unknown =>
      typeof v === 'string' ? resolvePath(v, p, src, names, errors) : v;
    if (meta?.path)
      return [key, Array.isArray(value) ? value.map((v, i) => one(v, [...path, i])) : one(value, path)];
    if (meta?.keys && meta.each !== true && value !== null)
      return [key, resolvePaths(value, meta.keys, path, src, names, errors)];
    return [key, value];
  });
  return Object.fromEntries(done);
}

function resolvePath(
  value: string,
  path: KeyPath,
  src: Located,
  names: PathNames,
  errors: SettingsError[],
): string {
  if (value === '-') return value;
  const bad = checkTemplate(value, ['host', 'node']);
  if (bad !== null) errors.push(errorAt(src, path, bad.why, bad.right));
  if (value.includes('{node}') && names.node === null)
    errors.push(
      errorAt(src, path, '{node} stands for nothing, as self is not set', 'set self, or use {host}'),
    );
  return resolve(
    dirname(src.file),
    value.replaceAll('{host}', names.host).replaceAll('{node}', names.node ?? ''),
  );
}
