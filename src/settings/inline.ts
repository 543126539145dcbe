/**
 * A value as it may stand in one line of YAML: lists and groups in flow style, texts quoted only where YAML would read something else.
 */

export function inline(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(inline).join(', ')}]`;
  if (typeof value === 'object' && value !== null) {
    const pairs = Object.entries(value).map(([key, v]) => `${key}: ${inline(v)}`);
    return `{ ${pairs.join(', ')} }`;
  }
  return typeof value === 'string' && isPlain(value) ? value : JSON.stringify(value);
}

/** Words, paths, durations and percentages; never what could be a number, a truth value or nothing. */
function isPlain(text: string): boolean {
  if (!/^[A-Za-z0-9/][A-Za-z0-9/._%-]*$/.test(text)) return false;
  return Number.isNaN(Number(text)) && !/^(true|false|null|yes|no|on)$/i.test(text);
}
