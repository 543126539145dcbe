/**
 * The text of a map file, line by line, to `MapLine`s; and whether the nodes and pools they name exist.
 *
 *     # comment
 *     joe@example.org  ->  mail1           an exact user: canonical, a missing domain is the default one
 *     @example.net     ->  pool:archive    every user of a domain
 *     /^test[0-9]+@/   ->  mail3           a JavaScript regex on the canonical user, the first that matches
 *
 * Never stops at the first error, and never takes a line it does not wholly understand: a map that is half read moves people.
 */
import { canonicalUser, type UserRules } from '../core/canonical.ts';
import type { NodeSpec, Target } from '../core/types.ts';
import type { MapLine, MapPattern } from '../core/user-map.ts';
import { checkMapRegex } from './map-regex.ts';

export interface MapError {
  readonly file: string;
  /** From 1; 0 where it is about the whole file. */
  readonly line: number;
  /** What is wrong, and what would be right. */
  readonly message: string;
}

export interface MapText {
  readonly lines: readonly MapLine[];
  readonly errors: readonly MapError[];
}

type Checked<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly message: string };

export const mapLimits = { fileBytes: 64 * 1024 * 1024, lineChars: 2000, regexes: 1000, errors: 100 };

/** `file` is what stands in `why` and errors. At most 100 errors are told; far beyond that the rest is not even read. */
export function parseMapText(text: string, file: string, rules: UserRules): MapText {
  const lines: MapLine[] = [];
  const errors: MapError[] = [];
  const bare: UserRules = { ...rules, aliases: new Map() };
  let regexes = 0;
  // A byte order mark is what Windows editors write; it is no part of the first line.
  const rows = (text.startsWith('\ufeff') ? text.slice(1) : text).split('\n');
  for (const [i, row] of rows.entries()) {
    const found = parseRow(row, bare);
    if (found === null) continue;
    if (errors.length > 10 * mapLimits.errors) break;
    if (!found.ok) errors.push({ file, line: i + 1, message: found.message });
    else if (found.value.pattern.kind === 'regex' && ++regexes > mapLimits.regexes) {
      errors.push({
        file,
        line: i + 1,
        message: `more than ${mapLimits.regexes} regexes: each costs every login time; name the users`,
      });
      break;
    } else lines.push({ file, line: i + 1, ...found.value });
  }
  return {
    lines,
    errors: capErrors(
      [...errors, ...duplicates(lines)].sort((x, y) => x.line - y.line),
      file,
    ),
  };
}

/** A pattern that two lines have: only one could count. Also over several files, in their order. */
export function duplicates(lines: readonly MapLine[]): MapError[] {
  const seen = new Map<string, MapLine>();
  const errors: MapError[] = [];
  for (const each of lines) {
    const key = spell(each.pattern);
    const before = seen.get(key);
    if (before === undefined) seen.set(key, each);
    else {
      const message = `${key} stands already at ${before.file}:${before.line}: remove one of them`;
      errors.push({ file: each.file, line: each.line, message });
    }
  }
  return errors;
}

/** Lines whose node or pool the settings do not have. Apart from parsing, since nodes may change while files do not. */
export function checkTargets(
  lines: readonly MapLine[],
  nodes: readonly Pick<NodeSpec, 'name' | 'pool'>[],
): MapError[] {
  const names = new Set(nodes.map(node => node.name));
  const pools = new Set(nodes.map(node => node.pool));
  const errors: MapError[] = [];
  for (const { file, line, target } of lines) {
    if ('node' in target && !names.has(target.node)) {
      const hint = pools.has(target.node) ? `write pool:${target.node}` : `known: ${known(names)}`;
      errors.push({ file, line, message: `no node is called ${target.node}; ${hint}` });
    } else if ('pool' in target && !pools.has(target.pool)) {
      const hint = names.has(target.pool) ? `write ${target.pool} alone` : `known: ${known(pools)}`;
      errors.push({ file, line, message: `no pool is called ${target.pool}; ${hint}` });
    }
  }
  return capErrors(errors, errors[0]?.file ?? '');
}

export function capErrors(errors: readonly MapError[], file: string): MapError[] {
  if (errors.length <= mapLimits.errors) return [...errors];
  const more = { file, line: 0, message: `and ${errors.length - mapLimits.errors} more errors` };
  return [...errors.slice(0, mapLimits.errors), more];
}

function known(names: ReadonlySet<string>): string {
  const shown = [...names].slice(0, 10).join(', ');
  return names.size > 10 ? `${shown}, …` : shown;
}

function spell(pattern: MapPattern): string {
  switch (pattern.kind) {
    case 'user':
      return pattern.user;
    case 'domain':
      return `@${pattern.domain}`;
    case 'regex':
      return `/${pattern.source}/`;
  }
}

const shape = 'a line is: user, @domain or /regex/, then ->, then a node or pool:NAME';

/** Null for comments and empty lines. */
function parseRow(row: string, rules: UserRules): Checked<Pick<MapLine, 'pattern' | 'target'>> | null {
  if (row.length > mapLimits.lineChars) return bad(`is longer than ${mapLimits.lineChars} characters`);
  const line = row.trim();
  if (line === '' || line.startsWith('#')) return null;
  const end = line.startsWith('/') ? regexEnd(line) : line.indexOf('->');
  if (line.startsWith('/') && end < 0)
    return bad('the regex has no closing slash; a slash within is written \\/');
  const left = end < 0 ? line : line.slice(0, end).trim();
  const right = /^->(.*)$/su.exec(end < 0 ? '' : line.slice(end).trim());
  if (right === null)
    return bad(line.startsWith('/') && end > 0 ? afterRegex(line.slice(end).trim()) : `has no ->; ${shape}`);
  const pattern = parsePattern(left, rules);
  if (!pattern.ok) return pattern;
  const target = parseTarget((right[1] ?? '').replace(/\s#.*$/su, '').trim());
  return target.ok ? { ok: true, value: { pattern: pattern.value, target: target.value } } : target;
}

function afterRegex(rest: string): string {
  if (/^[a-z]+\s*->/u.test(rest))
    return 'a regex takes no flags: users are lower case already, and it matches anywhere unless anchored';
  return `-> must follow the regex; ${shape}`;
}

/** Just behind the closing slash, or -1. Within [ ] a slash needs no backslash. */
function regexEnd(line: string): number {
  let isClass = false;
  for (let i = 1; i < line.length; i += 1) {
    const char = line.charAt(i);
    if (char === '\\') i += 1;
    else if (char === '[') isClass = true;
    else if (char === ']') isClass = false;
    else if (char === '/' && !isClass) return i + 1;
  }
  return -1;
}

function parsePattern(text: string, rules: UserRules): Checked<MapPattern> {
  if (text === '') return bad(`has no user before the ->; ${shape}`);
  if (text.startsWith('/')) {
    const source = text.slice(1, -1);
    const why = checkMapRegex(source);
    return why === null ? { ok: true, value: { kind: 'regex', source } } : bad(why);
  }
  if (text.startsWith('@')) {
    const found = canonicalUser(`x${text}`, rules);
    if (found.ok && found.domain !== '') return { ok: true, value: { kind: 'domain', domain: found.domain } };
    return bad('is no domain; write @example.org');
  }
  const found = canonicalUser(text, rules);
  if (!found.ok) return bad(`the user ${found.why}; write it as user@domain`);
  // What canonicalUser takes off never reaches a lookup, so such a line would place someone else than it says.
  const plain = text.normalize('NFC').toLowerCase().normalize('NFC');
  if (plain !== found.user && `${plain}@${rules.defaultDomain}` !== found.user)
    return bad(`means ${found.user}; write that: details, quotes and master suffixes are not looked up`);
  return { ok: true, value: { kind: 'user', user: found.user } };
}

function parseTarget(text: string): Checked<Target> {
  const found = /^(pool:)?([A-Za-z0-9][A-Za-z0-9._-]{0,62})$/.exec(text);
  const name = found?.[2];
  if (name !== undefined)
    return { ok: true, value: found?.[1] === undefined ? { node: name } : { pool: name } };
  if (text === '') return bad('names no node after the ->; write a node’s name or pool:NAME');
  if (/^pool:?\s/u.test(text)) return bad('write pool:NAME without spaces');
  return bad('what follows the -> is no node’s name; write a node’s name or pool:NAME');
}

function bad(message: string): { readonly ok: false; readonly message: string } {
  return { ok: false, message };
}
