/**
 * Pins and admin states are on disk before anybody is told of them: all of Homing is killed, and the next start still has them.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { ExplainAnswer, StatusAnswer } from '../../src/core/status.ts';
import { startDovecotNode } from '../lab/dovecot-node.ts';
import { labSettings, startHoming } from '../lab/homing.ts';
import { openTempFolder } from '../lab/temp-folder.ts';
import { openRaw } from './operating.ts';

const user = 'alice@example.org';

test('a user who was active when the home began to drain is still pinned there after kill -9 of everything', async t => {
  const folder = await openTempFolder('homing-pins');
  t.after(() => folder.remove());
  const spoolDir = join(folder.path, 'spool');
  const start = (name: string, address: string) =>
    startDovecotNode({ name, address, spoolDir, runDir: join(folder.path, name), users: [user] });
  const nodes = await Promise.all([start('mail1', '127.0.0.86'), start('mail2', '127.0.0.87')]);
  t.after(() => Promise.all(nodes.map(node => node.stop())));
  const runDir = join(folder.path, 'homing');
  const homing = await startHoming({ settings: await labSettings({ nodes, spoolDir, runDir }), runDir });
  t.after(() => homing.stop());
  const explain = async () =>
    (await homing.admin(`/v1/explain?user=${encodeURIComponent(user)}`)).json as ExplainAnswer;
  const { home } = await explain();
  assert.ok(home !== null);

  const held = await openRaw({ port: homing.ports.imap ?? 0 }, user);
  const drained = await homing.admin(`/v1/nodes/${home}`, { body: { admin: 'drain' } });
  assert.equal(drained.status, 200, drained.body);
  assert.deepEqual((await explain()).pin?.node, home);
  await homing.kill9();
  held.leave();
  await homing.restart();

  const { place, pin } = await explain();
  assert.deepEqual([place.kind, pin?.node], ['pin', home]);
  const status = (await homing.admin('/v1/status')).json as StatusAnswer;
  assert.equal(status.nodes.find(node => node.name === home)?.admin, 'drain');
});
