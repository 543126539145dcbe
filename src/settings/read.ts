/**
 * Reading one YAML value: either the value, or every fault in it, each with what is wrong and what would be right.
 * Pure functions under the zod schema (`leaf.ts`); they know no file and no line.
 */
import { isIP } from 'node:net';
import type { Objection } from './checks.ts';
import { didYouMean } from './nearest.ts';

/** What is wrong with a value or, where `at` says which, with an item of a list or a key of a group. */
export interface Fault {
  readonly why: string;
  readonly right: string;
  readonly at?: readonly (number | string)[];
}

export type Refused = { readonly ok: false; readonly faults: readonly Fault[] };
export type Read<T> = { readonly ok: true; readonly value: T } | Refused;

/** A check of a text: null, or the objection. */
export type Check = (value: string) => Objection;

export const notYet = 'not supported yet';

export const accept = <T>(value: T): { readonly ok: true; readonly value: T } => ({ ok: true, value });
export const refuse = (faults: readonly Fault[]): Refused => ({ ok: false, faults });
export const wrong = (why: string, right: string): Refused => refuse([{ why, right }]);
export const shown = (v: unknown): string =>
  v === undefined || v === null ? 'an empty value' : JSON.stringify(v);

/** A text or number as its text; anything else as '': a group may have a key called toString, so it is never turned into text. */
export const plainText = (v: unknown): string =>
  typeof v === 'string' || typeof v === 'number' ? String(v) : '';

/** The same faults, one level further up. */
export const within = (at: number | string, { faults }: Refused): Refused =>
  refuse(faults.map(fault => ({ ...fault, at: [at, ...(fault.at ?? [])] })));

/** Each item of a list; all faults at once. */
export function readList<T>(list: readonly unknown[], read: (item: unknown) => Read<T>): Read<readonly T[]> {
  const values: T[] = [];
  const faults: Fault[] = [];
  for (const [at, item] of list.entries()) {
    const one = read(item);
    if (one.ok) values.push(one.value);
    else faults.push(...within(at, one).faults);
  }
  return faults.length > 0 ? refuse(faults) : accept(values);
}

/** One of a few words. `later`: words of the design whose feature is not built yet. */
export function readChoice<T extends string>(
  input: unknown,
  words: readonly T[],
  later: readonly string[],
): Read<T> {
  const found = words.find(word => word === input);
  if (found !== undefined) return accept(found);
  const allowed = words.length === 1 ? `the only value now is ${words[0]}` : `one of: ${words.join(', ')}`;
  if (later.some(word => word === input)) return wrong(`${shown(input)} is ${notYet}`, allowed);
  return wrong(`${shown(input)} is not known`, `${didYouMean(plainText(input), words)}${allowed}`);
}

/** A list of a few words, each once. */
export function readChoices<T extends string>(
  input: unknown,
  words: readonly T[],
  later: readonly string[],
): Read<readonly T[]> {
  if (!Array.isArray(input))
    return wrong(`${shown(input)} is not a list`, `a list, such as [${words.join(', ')}]`);
  const read = readList(input, item => readChoice(item, words, later));
  if (!read.ok) return read;
  const twice = read.value.findIndex((word, i) => read.value.indexOf(word) < i);
  return twice < 0
    ? read
    : within(twice, wrong(`${shown(read.value[twice])} stands there twice`, 'each once'));
}

/** A text in one line that passes `check`. Numbers are taken as their text (`name: 1`). */
export function readText(input: unknown, check?: Check): Read<string> {
  if (typeof input !== 'string' && typeof input !== 'number') {
    return wrong(`${shown(input)} is not a text`, 'a text, in quotes where YAML needs them');
  }
  const value = String(input);
  // A NUL or line break in a name or path is never meant, and would be dangerous in files and logs.
  if ([...value].some(c => c < ' ' || c === '\x7f'))
    return wrong('has a control character', 'a text in one line');
  const objection = check?.(value) ?? null;
  return objection === null ? accept(value) : wrong(objection.why, objection.right);
}

export interface Address {
  /** An IP address without brackets. */
  readonly address: string;
  readonly port: number;
}

/** `0.0.0.0:143` or `[::]:143`. Names are refused: which of a name's addresses to bind would be a guess. */
export function readAddress(input: unknown): Read<Address> {
  const match = typeof input === 'string' ? /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(input) : null;
  if (match === null) {
    return wrong(
      `${shown(input)} is not address:port`,
      'such as "0.0.0.0:143", "127.0.0.1:143" or "[::]:143"',
    );
  }
  const address = match[1] ?? match[2] ?? '';
  const port = Number(match[3]);
  const family = isIP(address);
  if (port > 65535) return wrong(`port ${port} is too big`, 'a port from 1 to 65535');
  if (family === 0) {
    return wrong(
      `${shown(address)} is not an IP address`,
      `such as "127.0.0.1:${port}", "0.0.0.0:${port}" or "[::]:${port}"`,
    );
  }
  if ((match[1] !== undefined) !== (family === 6)) {
    return wrong(`${shown(input)} has wrong brackets`, 'brackets belong to IPv6, as in "[::1]:143"');
  }
  return accept({ address, port });
}

export const checkAddress: Check = value => {
  const read = readAddress(value);
  return read.ok ? null : (read.faults[0] ?? null);
};
