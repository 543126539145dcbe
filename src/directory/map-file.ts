/**
 * Map files from disk: reads them all, or none. Stands between the settings' `maps:` and the view's `UserMap`.
 * The digest is of what the lines say and where they stand, so that two proxies with equal files at different paths have the same map.
 * Must never answer with part of a map: a file that is missing, torn or wrong is an error, and the caller keeps what it has.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import type { UserRules } from '../core/canonical.ts';
import { buildMap, emptyMap, type MapLine, type UserMap } from '../core/user-map.ts';
import { capErrors, duplicates, type MapError, mapLimits, parseMapText } from './map-text.ts';

export { checkTargets, type MapError, parseMapText } from './map-text.ts';

export type LoadedMaps =
  | { readonly ok: true; readonly map: UserMap; readonly lines: readonly MapLine[] }
  | { readonly ok: false; readonly errors: readonly MapError[] };

/** Never rejects. Errors carry the path as configured; the lines' `file` is the base name where no other file has the same. */
export async function loadMaps(files: readonly string[], rules: UserRules): Promise<LoadedMaps> {
  const lines: MapLine[] = [];
  const errors: MapError[] = [];
  for (const file of files) {
    const text = await readText(file);
    if (typeof text !== 'string') {
      errors.push({ file, line: 0, message: text.why });
      continue;
    }
    const parsed = parseMapText(text, shownName(file, files), rules);
    lines.push(...parsed.lines);
    errors.push(...parsed.errors.map(error => ({ ...error, file })));
  }
  // Within one file the parser has told them already.
  if (errors.length === 0) errors.push(...duplicates(lines));
  if (errors.length > 0) return { ok: false, errors: capErrors(errors, errors[0]?.file ?? '') };
  if (lines.length === 0) return { ok: true, map: emptyMap, lines };
  return { ok: true, map: buildMap(lines, digestOf(lines)), lines };
}

/** Of map content, wherever it comes from: equal digests place everyone alike, with the same why. */
export function digestOf(lines: readonly MapLine[]): string {
  const hash = createHash('sha256');
  for (const { file, line, pattern, target } of lines) {
    hash.update(`${JSON.stringify([file, line, pattern, target])}\n`);
  }
  return hash.digest('hex').slice(0, 32);
}

function shownName(file: string, files: readonly string[]): string {
  const name = basename(file);
  return files.filter(each => basename(each) === name).length > 1 ? file : name;
}

/** The whole text, or why not. A file that changes while it is read is torn, and read again by the watcher. */
async function readText(file: string): Promise<string | { readonly why: string }> {
  try {
    // The descriptor is held from the first look to the last: a rename-replace in between gives one file or the other, never both.
    // O_NONBLOCK: a FIFO would hold this thread until somebody writes.
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const before = await handle.stat({ bigint: true });
    if (!before.isFile()) return { why: 'is not a plain file' };
    if (before.size > mapLimits.fileBytes)
      return { why: `is larger than ${mapLimits.fileBytes / 1024 / 1024} MiB` };
    const bytes = await handle.readFile();
    const after = await handle.stat({ bigint: true });
    if (before.mtimeNs !== after.mtimeNs || BigInt(bytes.length) !== after.size)
      return { why: 'was written to while it was read; try again' };
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    return { why: reason(error) };
  }
}

function reason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  switch (code) {
    case 'ENOENT':
      return 'there is no such file';
    case 'EACCES':
      return 'may not be read by this user';
    case 'ERR_ENCODING_INVALID_ENCODED_DATA':
      return 'is not UTF-8; convert it, for instance with iconv';
    default:
      return `cannot be read: ${code || 'unknown error'}`;
  }
}
