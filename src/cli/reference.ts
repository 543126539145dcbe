/**
 * `homing settings-reference`: prints docs/settings.md.
 */
import { settingsReference } from '../settings/reference.ts';
import type { Asked } from './cli.ts';
import { exit } from './exit.ts';
import { type Io, write } from './io.ts';

export async function runReference(_asked: Asked, io: Io): Promise<number> {
  await write(io.stdout, settingsReference());
  return exit.ok;
}
