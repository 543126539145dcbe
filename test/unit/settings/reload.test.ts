/**
 * SIGHUP with a changed file: what changed, what waits for a restart, and that an error keeps the old settings.
 */
import assert from 'node:assert/strict';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { loadSettings } from '../../../src/settings/load.ts';
import { reload } from '../../../src/settings/reload.ts';

const before = `nodes:
  - { name: mail1, address: 10.0.0.1 }
  - { name: mail2, address: 10.0.0.2 }
users: { defaultDomain: example.org }
`;

async function reloaded(after: string) {
  const path = join(await mkdtemp(join(tmpdir(), 'homing-reload-')), 'h.yaml');
  await writeFile(path, before);
  const first = await loadSettings(path);
  assert.ok(first.ok);
  await writeFile(path, after);
  return reload(first.settings, path);
}

async function changes(
  after: string,
): Promise<{ changed: readonly string[]; needRestart: readonly string[] }> {
  const result = await reloaded(after);
  assert.ok(result.ok);
  return { changed: result.changed, needRestart: result.needRestart };
}

describe('a reload', () => {
  test('of the same file changes nothing', async () => {
    assert.deepEqual(await changes(`# touched\n${before}`), { changed: [], needRestart: [] });
  });

  test('names the keys that changed, and counts a default that is written out as no change', async () => {
    const after = `${before}health: { interval: 2s, rise: 2 }\nlog: { level: debug }\n`;
    assert.deepEqual(await changes(after), { changed: ['health.interval', 'log.level'], needRestart: [] });
  });

  test('names nodes by their names, whatever their order', async () => {
    const after = `nodes:
  - { name: mail3, address: 10.0.0.3 }
  - { name: mail2, address: 10.0.0.9, weight: 50 }
users: { defaultDomain: example.org }
`;
    const { changed } = await changes(after);
    assert.deepEqual([...changed].sort(), [
      'nodes.mail1',
      'nodes.mail2.address',
      'nodes.mail2.weight',
      'nodes.mail3',
    ]);
  });

  test('tells which keys wait for a restart', async () => {
    const after = `${before}listen: { imap: ["127.0.0.1:1143"] }\nqueue: { path: elsewhere, lifetime: 4d }\nprocesses: 1\nrunAs: mail\nstate: { path: s }\n`;
    const { changed, needRestart } = await changes(after);
    assert.deepEqual(needRestart, ['listen.imap', 'processes', 'runAs', 'queue.path', 'state.path']);
    assert.ok(changed.includes('queue.lifetime'));
  });

  test('notices a group that came or went as a whole', async () => {
    const { changed } = await changes(`${before}tls: { cert: a.pem, key: b.pem }\n`);
    assert.deepEqual(changed, ['tls']);
  });

  test('with an error in the file answers the errors and no settings', async () => {
    const result = await reloaded(`${before}helth: 1\n`);
    assert.equal(result.ok, false);
    if (!result.ok) assert.equal(result.errors[0]?.line, 5);
  });
});
