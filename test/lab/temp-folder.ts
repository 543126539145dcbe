/**
 * Temporary folders for tests and the demo: readable by the account that owns the mail (0755), removed at the end.
 * Must never remove anything but what it made itself.
 */

import { chmodSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TempFolder {
  readonly path: string;
  remove(): Promise<void>;
}

/** Anything that runs a function when it ends: a node:test context, a suite. */
export interface Ending {
  after(run: () => Promise<void> | void): void;
}

export async function openTempFolder(name: string): Promise<TempFolder> {
  const path = await mkdtemp(join(tmpdir(), `homing-${name}-`));
  // mkdtemp makes it 0700; nodes run as other accounts and must pass through.
  chmodSync(path, 0o755);
  return {
    path,
    remove: () => rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 }),
  };
}

/** A folder that goes when the test ends. */
export async function tempFolder(ending: Ending, name: string): Promise<string> {
  const folder = await openTempFolder(name);
  ending.after(() => folder.remove());
  return folder.path;
}
