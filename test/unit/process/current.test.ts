/** Settings in force: reloads come into force in the order they were asked for, whatever each has to read. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pino } from 'pino';
import type { Proposer } from '../../../src/cluster/proposer.ts';
import { realClock } from '../../../src/net/clock.ts';
import { createCurrent } from '../../../src/process/current.ts';
import { loadSettings } from '../../../src/settings/load.ts';
import { pause, waitFor } from '../../lab/wait.ts';

const folder = mkdtempSync(join(tmpdir(), 'homing-current-'));
after(() => rmSync(folder, { recursive: true }));

test('a reload that takes long does not bring in its map after one that was asked for later', async () => {
  const path = join(folder, 'homing.yaml');
  const write = (weight: number, map: string) => {
    const nodes = `[{ name: mail1, address: 10.0.0.1, weight: ${weight} }]`;
    writeFileSync(path, `nodes: ${nodes}\nusers: { defaultDomain: example.org }\nmaps: [${map}]\n`);
    writeFileSync(join(folder, map), `${map}@example.org -> mail1\n`);
  };
  write(1, 'first.map');
  const loaded = await loadSettings(path);
  assert.ok(loaded.ok);
  const wished: string[] = [];
  let agree: () => void = () => {};
  const proposer = {
    wish: async () => {
      wished.push('nodes');
      // The second one's change of the view takes its time.
      if (wished.length === 1) await new Promise<void>(resolve => (agree = resolve));
      return { ok: true, epoch: 1 } as const;
    },
    wishMap: async ({ lines }: { lines: readonly { file: string }[] }) => {
      wished.push(lines[0]?.file ?? '');
      return { ok: true, epoch: 1 } as const;
    },
  } as unknown as Proposer;
  const current = createCurrent({
    ...{ settingsPath: path, settings: loaded.settings, tls: null, proposer, mapDigest: () => '' },
    ...{ onChange: () => {}, clock: realClock, log: pino({ enabled: false }) },
  });
  write(2, 'second.map');
  const second = current.reload();
  await waitFor(() => wished.length === 1, { what: 'the first reload to wish for its nodes' });
  write(3, 'third.map');
  const third = Promise.all([current.reload(), current.reload()]);
  await pause(50);
  agree();
  await Promise.all([second, third]);
  current.stop();
  assert.equal(current.settings().nodes[0]?.weight, 3);
  assert.deepEqual(wished, ['nodes', 'second.map', 'nodes', 'third.map']);
});
