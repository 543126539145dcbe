/**
 * Settings for a command: loaded, or every error printed and null answered.
 */
import { formatError, loadSettings, type SettingsError } from '../settings/load.ts';
import type { Settings } from '../settings/schema.ts';
import { type Io, write } from './io.ts';

export async function settingsOf(path: string, io: Io): Promise<Settings | null> {
  const loaded = await loadSettings(path);
  if (loaded.ok) return loaded.settings;
  await printErrors(loaded.errors, io);
  return null;
}

/** One line an error, as editors and people find them: `file:line:column: key: wrong; right`. */
export async function printErrors(errors: readonly SettingsError[], io: Io): Promise<void> {
  await write(io.stderr, errors.map(e => `${formatError(e)}\n`).join(''));
}
