/**
 * A launcher that an account which is not ours can run, wherever the clone lies: a clone under root's own folder is out of its reach,
 * so then what running needs is copied to where it can get.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { projectDir } from './homing.ts';

const run = promisify(execFile);

/** Development tools are left behind. */
const notNeeded = /node_modules\/(@biomejs|@typescript|typescript|@types|fast-check)(\/|$)/;

/** `as`: the words that become that account, `setpriv --reuid=…`. `folder` must be open to all. */
export async function reachableLauncher(as: readonly string[], folder: string): Promise<string> {
  const launcher = join(projectDir, 'src/homing.sh');
  const [command = 'env', ...words] = as;
  const canRead = await run(command, [...words, 'test', '-r', launcher]).then(
    () => true,
    () => false,
  );
  if (canRead) return launcher;
  const copy = join(folder, 'clone');
  await mkdir(copy, { mode: 0o755 });
  await cp(join(projectDir, 'package.json'), join(copy, 'package.json'));
  for (const part of ['src', 'node_modules']) {
    const from = join(projectDir, part);
    await cp(from, join(copy, part), { recursive: true, filter: path => !notNeeded.test(path) });
  }
  await run('chmod', ['-R', 'a+rX', copy]);
  return join(copy, 'src/homing.sh');
}
