/**
 * The kinds of values a setting can have. Each builder makes a zod schema that reads one YAML value, says what is wrong *and what would be
 * right*, and carries its prose, default and example for the generated reference. `schema.ts` is written in these words.
 * A value whose feature is not built yet is refused ("not supported yet"), never ignored.
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { parseDuration } from './duration.ts';
import { didYouMean } from './nearest.ts';
import { parseSize } from './size.ts';

/** What the reference says of a key; also found again by `reload` (restart) and `load` (path). */
export interface Doc {
  readonly prose: string;
  /** As it would stand in YAML; left out for required keys. */
  readonly fallback?: unknown;
  /** As it would stand in YAML. */
  readonly example?: unknown;
  /** True where a reload is not enough. */
  readonly restart?: boolean;
}

/** The keys of a group. */
export type Shape = Readonly<Record<string, z.ZodType>>;

export interface Meta extends Doc {
  /** What a value looks like: `duration`, `one of: a, b`. */
  readonly kind: string;
  readonly required: boolean;
  /** A path relative to the settings file, to be resolved by `load`. */
  readonly path?: boolean;
  /** The keys below, for sections and lists of sections. */
  readonly keys?: Shape;
  readonly each?: boolean;
}

export type Read<T> =
  | { readonly ok: true; readonly value: T }
  /** `at`: which item of a list or key of a group. */
  | { readonly ok: false; readonly why: string; readonly right: string; readonly at?: number | string };

export const metas = new WeakMap<z.ZodType, Meta>();

const wrong = (why: string, right: string): { ok: false; why: string; right: string } => ({
  ok: false,
  why,
  right,
});
const shown = (v: unknown): string => (v === undefined || v === null ? 'an empty value' : JSON.stringify(v));
export const notYet = 'not supported yet';

/** A schema from a reader function. With a fallback a missing key is read as if the fallback stood there. */
export function leaf<T>(kind: string, doc: Doc, read: (input: unknown) => Read<T>, more: Partial<Meta> = {}) {
  const required = !Object.hasOwn(doc, 'fallback');
  const schema = z
    .unknown()
    .optional()
    .transform((input, ctx): T => {
      if (input === undefined && required) {
        ctx.addIssue({
          code: 'custom',
          message: 'is missing',
          params: { right: `add it, for example ${JSON.stringify(doc.example)}`, missing: true },
        });
        return z.NEVER;
      }
      const result = read(input === undefined ? doc.fallback : input);
      if (result.ok) return result.value;
      ctx.addIssue({
        code: 'custom',
        message: result.why,
        params: { right: result.right },
        path: result.at === undefined ? [] : [result.at],
      });
      return z.NEVER;
    });
  metas.set(schema, { ...doc, ...more, kind, required });
  return schema;
}

/** Milliseconds. */
export const duration = (doc: Doc & { readonly leastMs?: number }) =>
  leaf('duration', doc, input => {
    const parsed = parseDuration(input);
    if (parsed.ok && parsed.value < (doc.leastMs ?? 1))
      return wrong(`${shown(input)} is too short`, `at least ${doc.leastMs ?? 1}ms`);
    return parsed;
  });

/** Bytes. */
export const size = (doc: Doc & { readonly leastBytes?: number }) =>
  leaf('size', doc, input => {
    const parsed = parseSize(input);
    if (parsed.ok && parsed.value < (doc.leastBytes ?? 1))
      return wrong(`${shown(input)} is too small`, `at least ${doc.leastBytes ?? 1}B`);
    return parsed;
  });

export const count = (doc: Doc & { readonly least: number; readonly most: number }) =>
  leaf(`whole number, ${doc.least} to ${doc.most}`, doc, input =>
    typeof input === 'number' && Number.isInteger(input) && input >= doc.least && input <= doc.most
      ? { ok: true, value: input }
      : wrong(`${shown(input)} won't do`, `a whole number from ${doc.least} to ${doc.most}`),
  );

/** A number between 0 and 1, written 0.5 or 50%. */
export const share = (doc: Doc & { readonly most?: number }) =>
  leaf('share, such as 10% or 0.1', doc, input => {
    const text = typeof input === 'string' ? /^(\d{1,3}(?:\.\d+)?)%$/.exec(input)?.[1] : undefined;
    const value = text === undefined ? input : Number(text) / 100;
    const most = doc.most ?? 1;
    if (typeof value === 'number' && value >= 0 && value <= most) return { ok: true, value };
    return wrong(`${shown(input)} is not a share`, `a share from 0% to ${most * 100}%`);
  });

/** One of a few words. `later`: words of the design whose feature is not built yet. */
export const choice = <const T extends string>(
  doc: Doc & { readonly words: readonly T[]; readonly later?: readonly string[] },
) => leaf(`one of: ${doc.words.join(', ')}`, doc, input => readChoice(input, doc.words, doc.later ?? []));

function readChoice<T extends string>(
  input: unknown,
  words: readonly T[],
  later: readonly string[],
): Read<T> {
  const found = words.find(word => word === input);
  if (found !== undefined) return { ok: true, value: found };
  const allowed = words.length === 1 ? `the only value now is ${words[0]}` : `one of: ${words.join(', ')}`;
  if (later.some(word => word === input)) return wrong(`${shown(input)} is ${notYet}`, allowed);
  return wrong(`${shown(input)} is not known`, `${didYouMean(String(input), words)}${allowed}`);
}

/** A list of a few words, each once. */
export const choices = <const T extends string>(
  doc: Doc & { readonly words: readonly T[]; readonly later?: readonly string[] },
) => leaf(`list of: ${doc.words.join(', ')}`, doc, input => readChoices(input, doc.words, doc.later ?? []));

export function readChoices<T extends string>(
  input: unknown,
  words: readonly T[],
  later: readonly string[],
): Read<readonly T[]> {
  if (!Array.isArray(input))
    return wrong(`${shown(input)} is not a list`, `a list, such as [${words.join(', ')}]`);
  const found: T[] = [];
  for (const [at, item] of input.entries()) {
    const one = readChoice(item, words, later);
    if (!one.ok) return { ...one, at };
    if (found.includes(one.value)) return { ...wrong(`${shown(item)} stands there twice`, 'each once'), at };
    found.push(one.value);
  }
  return { ok: true, value: found };
}

/** A string that passes `check`, which answers what is wrong and right, or null. Numbers are taken as their text (`name: 1`). */
export const text = (
  doc: Doc & {
    readonly kind?: string;
    readonly check?: (value: string) => { why: string; right: string } | null;
  },
) => leaf(doc.kind ?? 'text', doc, input => readText(input, doc.check));

export function readText(
  input: unknown,
  check?: (value: string) => { why: string; right: string } | null,
): Read<string> {
  if (typeof input !== 'string' && typeof input !== 'number')
    return wrong(`${shown(input)} is not a text`, 'a text, in quotes where YAML needs them');
  const value = String(input);
  // A NUL or line break in a name or path is never meant, and would be dangerous in files and logs.
  const found = [...value].some(c => c < ' ' || c === '\x7f')
    ? { why: 'has a control character', right: 'a text in one line' }
    : check?.(value);
  return found ? wrong(found.why, found.right) : { ok: true, value };
}

/** Text or, where the key is left out, null. */
export const optionalText = (
  doc: Doc & {
    readonly kind?: string;
    readonly check?: (value: string) => { why: string; right: string } | null;
  },
) =>
  leaf<string | null>(doc.kind ?? 'text', { fallback: null, ...doc }, input =>
    input === null ? { ok: true, value: null } : readText(input, doc.check),
  );

const notEmpty = (value: string) => (value === '' ? { why: 'is empty', right: 'a path' } : null);

/** A file or folder; relative to the settings file. */
export const path = (doc: Doc) => leaf('path', doc, input => readText(input, notEmpty), { path: true });

/** A list of texts, each of which passes `check`. */
export const texts = (
  doc: Doc & {
    readonly kind: string;
    readonly check: (value: string) => { why: string; right: string } | null;
    readonly path?: boolean;
  },
) =>
  leaf<readonly string[]>(
    `list of ${doc.kind}`,
    doc,
    input => {
      if (!Array.isArray(input))
        return wrong(`${shown(input)} is not a list`, `a list, such as ${JSON.stringify(doc.example)}`);
      const values: string[] = [];
      for (const [at, item] of input.entries()) {
        const one = readText(item, doc.check);
        if (!one.ok)
          return { ...wrong(typeof item === 'string' ? one.why : `${shown(item)} won't do`, one.right), at };
        values.push(one.value);
      }
      return { ok: true, value: values };
    },
    doc.path === true ? { path: true } : {},
  );

export const paths = (doc: Doc) => texts({ ...doc, kind: 'paths', check: notEmpty, path: true });

export interface Address {
  /** An IP address without brackets. */
  readonly address: string;
  readonly port: number;
}

/** `0.0.0.0:143` or `[::]:143`. Names are refused: which of a name's addresses to bind would be a guess. */
export function parseAddress(input: string): Read<Address> {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(input);
  const address = match?.[1] ?? match?.[2] ?? '';
  const port = Number(match?.[3]);
  if (match === null)
    return wrong(
      `${shown(input)} is not address:port`,
      'such as "0.0.0.0:143", "127.0.0.1:143" or "[::]:143"',
    );
  if (port > 65535) return wrong(`port ${port} is too big`, 'a port from 1 to 65535');
  if (isIP(address) === 0)
    return wrong(
      `${shown(address)} is not an IP address`,
      `such as "127.0.0.1:${port}", "0.0.0.0:${port}" or "[::]:${port}"`,
    );
  if ((match[1] !== undefined) !== (isIP(address) === 6))
    return wrong(`${shown(input)} has wrong brackets`, 'brackets belong to IPv6, as in "[::1]:143"');
  return { ok: true, value: { address, port } };
}

const checkAddress = (value: string) => {
  const parsed = parseAddress(value);
  return parsed.ok ? null : parsed;
};

/** A list of "address:port". */
export const addresses = (doc: Doc) => texts({ ...doc, kind: 'address:port', check: checkAddress });

/** A list that must be empty until its feature is built. */
export const emptyYet = (doc: Doc) =>
  leaf<readonly string[]>('list (not supported yet)', { fallback: [], ...doc }, input =>
    Array.isArray(input) && input.length === 0
      ? { ok: true, value: [] }
      : wrong(`is ${notYet}`, 'leave it out, or []'),
  );

/** A key that must be left out until its feature is built. */
export const absentYet = (doc: Doc) =>
  leaf<null>('not supported yet', { fallback: null, ...doc }, input =>
    input === null ? { ok: true, value: null } : wrong(`is ${notYet}`, 'leave it out'),
  );

const isRecord = (v: unknown): boolean => typeof v === 'object' && v !== null && !Array.isArray(v);

/** Reads a group and passes its issues on with their paths, so that every error of a file is found in one go. */
function readGroup<S extends Shape>(
  group: z.ZodObject<S>,
  input: unknown,
  ctx: z.core.$RefinementCtx,
): z.output<z.ZodObject<S>> {
  const result = group.safeParse(input);
  if (result.success) return result.data;
  for (const issue of result.error.issues) ctx.issues.push(issue as z.core.$ZodRawIssue);
  return z.NEVER;
}

/** A group of keys. All its keys may be left out where all have defaults. `name:` with nothing below means just that. */
export function section<S extends Shape>(doc: Doc, keys: S) {
  const group = z.strictObject(keys);
  const schema = z
    .unknown()
    .optional()
    .transform((input, ctx) => readGroup(group, input ?? {}, ctx));
  metas.set(schema, { ...doc, kind: 'group', required: false, keys });
  return schema;
}

/** A group of keys that as a whole may be left out: null then. A list is refused as `listLater` where the design has one. */
export function optionalSection<S extends Shape>(doc: Doc & { readonly listLater?: string }, keys: S) {
  const group = z.strictObject(keys);
  const schema = z
    .unknown()
    .optional()
    .transform((input, ctx): z.output<z.ZodObject<S>> | null => {
      if (input === undefined || input === null) return null;
      if (!Array.isArray(input) || doc.listLater === undefined) return readGroup(group, input, ctx);
      const right = `one group: ${Object.keys(keys).join(', ')}`;
      ctx.addIssue({ code: 'custom', message: `${doc.listLater} is ${notYet}`, params: { right } });
      return z.NEVER;
    });
  metas.set(schema, { ...doc, kind: 'group', required: false, keys });
  return schema;
}

/** A list of groups, at least one. */
export function sections<S extends Shape>(doc: Doc, keys: S) {
  const schema = z.preprocess(
    (input, ctx) => {
      if (Array.isArray(input) && input.length > 0) return input;
      const missing = input === undefined;
      const why = missing
        ? 'is missing'
        : isRecord(input)
          ? 'is a group, not a list'
          : `${shown(input)} is not a list of groups`;
      ctx.addIssue({
        code: 'custom',
        message: Array.isArray(input) ? 'is an empty list' : why,
        params: { right: `such as ${JSON.stringify(doc.example)}`, missing },
      });
      return z.NEVER;
    },
    z.array(z.strictObject(keys)),
  );
  metas.set(schema, { ...doc, kind: 'list of groups', required: true, keys, each: true });
  return schema;
}
