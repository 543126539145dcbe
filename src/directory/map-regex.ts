/**
 * Which regexes a map file may have: those that compile, that can match a canonical user, and that cannot take for ever.
 * The names they are tried on come from strangers and every login waits for them, so what could backtrack exponentially is refused:
 * simple and strict, a few harmless ones with it.
 */

const limitChars = 500;

/** What is wrong with it and what would be right, or null. */
export function checkMapRegex(source: string): string | null {
  if (source === '') return 'the regex is empty and would match everyone; write /./ if that is meant';
  if (source.length > limitChars) return `the regex is longer than ${limitChars} characters`;
  try {
    new RegExp(source, 'u');
  } catch (error) {
    const why = error instanceof Error ? error.message.replace(/^.*: /su, '') : 'it does not compile';
    return `is no regex: ${why}`;
  }
  // Escapes, properties and group names may have upper case letters of their own.
  const letters = source.replace(/\\[pP]\{[^}]*\}|\\k<[^>]*>|\(\?<[^=!>][^>]*>|\\c[A-Z]|\\[\s\S]/gu, '');
  if (/\p{Lu}/u.test(letters)) {
    return 'the regex has an upper case letter, but users are lower case: it would never match';
  }
  return slowness(source);
}

interface Group {
  /** Holds a repetition of varying length, or a choice: two ways to match the same text. */
  isLoose: boolean;
}

/**
 * Why a regex could take exponential time on some name, or null: a group that is repeated may hold neither a repetition nor an
 * alternative, and nothing may refer back. Counts up to three are no repetition.
 */
function slowness(source: string): string | null {
  const groups: Group[] = [{ isLoose: false }];
  let closed: Group | null = null;
  for (let i = 0; i < source.length; i += 1) {
    const char = source.charAt(i);
    const top = groups.at(-1) ?? { isLoose: false };
    const repeat = repeatAt(source, i);
    if (repeat !== null) {
      if (closed?.isLoose === true && repeat.most > 3) return nested;
      if (repeat.most > 3 && repeat.most !== repeat.least) top.isLoose = true;
      i += repeat.length - 1;
      continue;
    }
    closed = null;
    if (char === '\\') {
      i += 1;
      if (/[1-9k]/.test(source.charAt(i)))
        return 'the regex refers back to a group, which can take very long on some names';
    } else if (char === '[') i = classEnd(source, i);
    else if (char === '(') groups.push({ isLoose: false });
    else if (char === ')') {
      closed = groups.pop() ?? null;
      const outer = groups.at(-1);
      if (closed?.isLoose === true && outer !== undefined) outer.isLoose = true;
    } else if (char === '|' && groups.length > 1) top.isLoose = true;
  }
  return null;
}

const nested =
  'the regex repeats a group that itself repeats or chooses, which can take very long on some names; write it flat, as [ab]+ for (a|b)+';

function repeatAt(source: string, at: number): { least: number; most: number; length: number } | null {
  const char = source.charAt(at);
  if (char === '*') return { least: 0, most: Number.POSITIVE_INFINITY, length: 1 };
  if (char === '+') return { least: 1, most: Number.POSITIVE_INFINITY, length: 1 };
  if (char === '?') return { least: 0, most: 1, length: 1 };
  const counted = char === '{' ? /^\{(\d+)(,?)(\d*)\}/.exec(source.slice(at, at + 40)) : null;
  if (counted === null) return null;
  const [text, least = '0', comma = '', most = ''] = counted;
  const end = most !== '' ? Number(most) : comma === '' ? Number(least) : Number.POSITIVE_INFINITY;
  return { least: Number(least), most: end, length: text.length };
}

/** Of the `]`, where a class begins at `from`. */
function classEnd(source: string, from: number): number {
  let i = from + 1;
  while (i < source.length && source.charAt(i) !== ']') i += source.charAt(i) === '\\' ? 2 : 1;
  return i;
}
