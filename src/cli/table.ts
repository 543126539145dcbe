/**
 * Text tables for people: columns as wide as they need, the widest text column cut where the terminal ends.
 * Whatever stands in a cell came from elsewhere (user names, replies of nodes): control characters never reach the terminal raw.
 */

export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

/** Lines without line ends. `columns`: the terminal's width, null for as wide as needed. */
export function table(
  head: readonly Column[],
  rows: readonly (readonly string[])[],
  columns: number | null,
): string[] {
  const cells = [head.map(h => h.title), ...rows.map(row => head.map((_, i) => printable(row[i] ?? '')))];
  const widths = head.map((_, i) => Math.max(...cells.map(row => width(row[i] ?? ''))));
  if (columns !== null) shrink(widths, columns - 2 * (head.length - 1));
  return cells.map(row =>
    row
      .map((cell, i) => fit(cell, widths[i] ?? 0, head[i]?.align === 'right'))
      .join('  ')
      .trimEnd(),
  );
}

const leastWidth = 8;

/** Takes from the widest column, again and again, until it fits or all are narrow. */
function shrink(widths: number[], room: number): void {
  let over = widths.reduce((sum, w) => sum + w, 0) - room;
  while (over > 0) {
    const widest = widths.indexOf(Math.max(...widths));
    const now = widths[widest] ?? 0;
    if (now <= leastWidth) return;
    const next = Math.max(leastWidth, ...widths.filter(w => w < now), now - over);
    widths[widest] = next === now ? now - 1 : next;
    over -= now - (widths[widest] ?? 0);
  }
}

function fit(cell: string, room: number, right: boolean): string {
  const text = width(cell) > room ? `${cut(cell, room - 1)}…` : cell;
  const pad = ' '.repeat(Math.max(0, room - width(text)));
  return right ? pad + text : text + pad;
}

function cut(text: string, room: number): string {
  let out = '';
  let used = 0;
  for (const char of text) {
    used += charWidth(char);
    if (used > room) break;
    out += char;
  }
  return out;
}

/** Control characters, and those that turn text around, as `\xNN` or `\u{…}`. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, char => {
    const code = char.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

/** Columns on a terminal: combining marks take none, East Asian wide characters two. */
export function width(text: string): number {
  let sum = 0;
  for (const char of text) sum += charWidth(char);
  return sum;
}

function charWidth(char: string): number {
  const code = char.codePointAt(0) ?? 0;
  if (code < 0x300) return 1;
  if (/\p{Mn}|\p{Me}/u.test(char)) return 0;
  const wide =
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3);
  const alsoWide =
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60);
  return wide || alsoWide || code >= 0x1f300 ? 2 : 1;
}

/** 93784000 → `1 d 2 h`, 61000 → `1 min 1 s`, 320 → `0.3 s`: two units, for people. */
export function ageText(ms: number): string {
  if (ms < 10_000) return `${Math.max(0, Math.round(ms / 100) / 10)} s`;
  const s = Math.round(ms / 1000);
  const [d, h, min] = [Math.floor(s / 86_400), Math.floor((s % 86_400) / 3600), Math.floor((s % 3600) / 60)];
  if (d > 0) return h > 0 ? `${d} d ${h} h` : `${d} d`;
  if (h > 0) return min > 0 ? `${h} h ${min} min` : `${h} h`;
  if (min > 0) return s % 60 > 0 ? `${min} min ${s % 60} s` : `${min} min`;
  return `${s} s`;
}
