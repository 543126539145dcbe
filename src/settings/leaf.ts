/**
 * The kinds of values a setting can have. Each builder makes a zod schema that reads one YAML value, says what is wrong *and what would be
 * right*, and carries its prose, default and example for the generated reference. `schema.ts` is written in these words.
 * A value whose feature is not built yet is refused ("not supported yet"), never ignored.
 */
import { z } from 'zod';
import { parseDuration } from './duration.ts';
import {
  accept,
  type Check,
  checkAddress,
  notYet,
  type Read,
  readChoice,
  readList,
  readText,
  shown,
  wrong,
} from './read.ts';
import { parseSize } from './size.ts';

/** What the reference says of a key. `restart` and `path` are asked by `reload` and `load` too. */
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
  /** Values of the design that are refused until they are built. */
  readonly later?: readonly string[];
  /** A path relative to the settings file, to be resolved by `load`. */
  readonly path?: boolean;
  /** The keys below, for groups and lists of groups (`each`). */
  readonly keys?: Shape;
  readonly each?: boolean;
}

export const metas = new WeakMap<z.ZodType, Meta>();

/** A schema from a reader. With a fallback a missing key is read as if the fallback stood there. */
export function leaf<T>(kind: string, doc: Doc, read: (input: unknown) => Read<T>, more: Partial<Meta> = {}) {
  const required = !Object.hasOwn(doc, 'fallback');
  const schema = z
    .unknown()
    .optional()
    .transform((input, ctx): T => {
      const result =
        input === undefined && required
          ? wrong('is missing', `add it, for example ${JSON.stringify(doc.example)}`)
          : read(input === undefined ? doc.fallback : input);
      if (result.ok) return result.value;
      for (const { why, right, at } of result.faults) {
        ctx.addIssue({ code: 'custom', message: why, params: { right }, path: [...(at ?? [])] });
      }
      return z.NEVER;
    });
  metas.set(schema, { ...doc, ...more, kind, required });
  return schema;
}

/** Milliseconds. */
export const duration = (doc: Doc & { readonly leastMs?: number }) =>
  leaf('duration', doc, input => {
    const parsed = parseDuration(input);
    const least = doc.leastMs ?? 1;
    return parsed.ok && parsed.value < least
      ? wrong(`${shown(input)} is too short`, `at least ${least}ms`)
      : parsed;
  });

/** Bytes. */
export const size = (doc: Doc & { readonly leastBytes?: number }) =>
  leaf('size', doc, input => {
    const parsed = parseSize(input);
    const least = doc.leastBytes ?? 1;
    return parsed.ok && parsed.value < least
      ? wrong(`${shown(input)} is too small`, `at least ${least}B`)
      : parsed;
  });

export const count = (doc: Doc & { readonly least: number; readonly most: number }) =>
  leaf(`whole number, ${doc.least} to ${doc.most}`, doc, input =>
    typeof input === 'number' && Number.isInteger(input) && input >= doc.least && input <= doc.most
      ? accept(input)
      : wrong(`${shown(input)} won't do`, `a whole number from ${doc.least} to ${doc.most}`),
  );

/** A number from 0 to 1, written 0.5 or 50%. */
export const share = (doc: Doc & { readonly most?: number }) =>
  leaf('share, such as 10% or 0.1', doc, input => {
    const percent = typeof input === 'string' ? /^(\d{1,3}(?:\.\d+)?)%$/.exec(input)?.[1] : undefined;
    const value = percent === undefined ? input : Number(percent) / 100;
    const most = doc.most ?? 1;
    const fits = typeof value === 'number' && value >= 0 && value <= most;
    return fits ? accept(value) : wrong(`${shown(input)} won't do`, `a share from 0% to ${most * 100}%`);
  });

/** One of a few words. `later`: words of the design whose feature is not built yet. */
export const choice = <const T extends string>(
  doc: Doc & { readonly words: readonly T[]; readonly later?: readonly string[] },
) =>
  leaf(`one of: ${doc.words.join(', ')}`, doc, input => readChoice(input, doc.words, doc.later ?? []), {
    later: doc.later ?? [],
  });

export const text = (doc: Doc & { readonly kind?: string; readonly check?: Check }) =>
  leaf(doc.kind ?? 'text', doc, input => readText(input, doc.check));

/** Text or, where the key is left out, null. */
export const optionalText = (doc: Doc & { readonly kind?: string; readonly check?: Check }) =>
  leaf<string | null>(doc.kind ?? 'text', { fallback: null, ...doc }, input =>
    input === null ? accept(null) : readText(input, doc.check),
  );

const notEmpty: Check = value => (value === '' ? { why: 'is empty', right: 'a path' } : null);

/** A file or folder; relative to the settings file. */
export const path = (doc: Doc) => leaf('path', doc, input => readText(input, notEmpty), { path: true });

type TextsDoc = Doc & { readonly kind: string; readonly check: Check };

/** A list of texts, each of which passes `check`. */
export const texts = (doc: TextsDoc, more: Partial<Meta> = {}) =>
  leaf<readonly string[]>(
    `list of ${doc.kind}`,
    doc,
    input =>
      Array.isArray(input)
        ? readList(input, item => readText(item, doc.check))
        : wrong(`${shown(input)} is not a list`, `a list, such as ${JSON.stringify(doc.example)}`),
    more,
  );

export const paths = (doc: Doc) => texts({ ...doc, kind: 'paths', check: notEmpty }, { path: true });
export const addresses = (doc: Doc) => texts({ ...doc, kind: 'address:port', check: checkAddress });

/** A list that must be empty until its feature is built. */
export const emptyYet = (doc: Doc) =>
  leaf<readonly string[]>(`list (${notYet})`, { fallback: [], ...doc }, input =>
    Array.isArray(input) && input.length === 0 ? accept([]) : wrong(`is ${notYet}`, 'leave it out, or []'),
  );

/** A key that must be left out until its feature is built. */
export const absentYet = (doc: Doc) =>
  leaf<null>(notYet, { fallback: null, ...doc }, input =>
    input === null ? accept(null) : wrong(`is ${notYet}`, 'leave it out'),
  );

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

/** A group that as a whole may be left out: null then. A list is refused as `listLater` where the design has one. */
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
  metas.set(schema, { ...doc, kind: 'optional group', required: false, keys });
  return schema;
}

/** A list of groups, at least one. */
export function sections<S extends Shape>(doc: Doc, keys: S) {
  const schema = z.preprocess(
    (input, ctx) => {
      if (Array.isArray(input) && input.length > 0) return input;
      const why = input === undefined ? 'is missing' : `${shown(input)} is not a list of at least one`;
      ctx.addIssue({
        code: 'custom',
        message: why,
        params: { right: `such as ${JSON.stringify(doc.example)}` },
      });
      return z.NEVER;
    },
    z.array(z.strictObject(keys)),
  );
  metas.set(schema, { ...doc, kind: 'list of groups', required: true, keys, each: true });
  return schema;
}
