/**
 * `homing settings-reference`: prints docs/settings.md, or with `yaml` config/homing.yaml.
 */
import { settingsExample } from '../settings/example.ts';
import { settingsReference } from '../settings/reference.ts';
import type { Asked } from './asked.ts';
import { exit } from './exit.ts';
import { complain, type Io, write } from './io.ts';

export async function runReference({ words: [form = 'markdown'] }: Asked, io: Io): Promise<number> {
  if (form !== 'markdown' && form !== 'yaml') {
    await complain(io, `settings-reference: ${JSON.stringify(form)} is not known; one of: markdown, yaml`);
    return exit.usage;
  }
  await write(io.stdout, form === 'yaml' ? settingsExample() : settingsReference());
  return exit.ok;
}
