/**
 * Map files as a value: which users the operator placed by hand, looked up at every placement.
 * An exact user is tried first, then `@domain`, then regexes in the order of the files. Parsing and files are in `directory/map-file.ts`.
 * Must never decide on anything but the canonical user, and never answer a default: no match is null.
 */
import type { Target, User } from './types.ts';

export type MapPattern =
  | { readonly kind: 'user'; readonly user: User }
  | { readonly kind: 'domain'; readonly domain: string }
  /** Without the slashes; matched anywhere in the canonical user unless anchored, with the `u` flag. */
  | { readonly kind: 'regex'; readonly source: string };

/** One line of a map file. Plain data: it survives JSON, so it can stand in a journal or a store. */
export interface MapLine {
  /** The file's name as printed in `why`: its base name, unless two files share it. */
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly pattern: MapPattern;
  readonly target: Target;
}

export interface MapAnswer {
  readonly target: Target;
  /** `users.map:12`. */
  readonly why: string;
}

export interface UserMap {
  /** Of the files' content: two proxies with the same digest have the same map. '' is the empty map's. */
  readonly digest: string;
  readonly users: ReadonlyMap<User, MapAnswer>;
  readonly domains: ReadonlyMap<string, MapAnswer>;
  readonly regexes: readonly { readonly regex: RegExp; readonly answer: MapAnswer }[];
}

export const emptyMap: UserMap = { digest: '', users: new Map(), domains: new Map(), regexes: [] };

/** Of duplicates the first wins; the parser reports them. Lines are taken as checked: a regex that does not compile throws. */
export function buildMap(lines: readonly MapLine[], digest: string): UserMap {
  const users = new Map<User, MapAnswer>();
  const domains = new Map<string, MapAnswer>();
  const regexes: { readonly regex: RegExp; readonly answer: MapAnswer }[] = [];
  for (const { file, line, pattern, target } of lines) {
    const answer: MapAnswer = { target, why: `${file}:${line}` };
    switch (pattern.kind) {
      case 'user':
        if (!users.has(pattern.user)) users.set(pattern.user, answer);
        break;
      case 'domain':
        if (!domains.has(pattern.domain)) domains.set(pattern.domain, answer);
        break;
      case 'regex':
        regexes.push({ regex: new RegExp(pattern.source, 'u'), answer });
        break;
    }
  }
  return { digest, users, domains, regexes };
}

/** What the map files say of a canonical user; null where they say nothing. */
export function lookUp(map: UserMap, user: User): MapAnswer | null {
  const exact = map.users.get(user);
  if (exact !== undefined) return exact;
  if (map.domains.size > 0) {
    const at = user.lastIndexOf('@');
    const byDomain = at < 0 ? undefined : map.domains.get(user.slice(at + 1));
    if (byDomain !== undefined) return byDomain;
  }
  for (const { regex, answer } of map.regexes) if (regex.test(user)) return answer;
  return null;
}
