/** The contract on each store there is, and what only the embedded one promises: it survives its process. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import type { ViewEvent, ViewRules } from '../../src/core/view.ts';
import { openJournal } from '../../src/storage/journal.ts';
import { type EmbeddedStore, openEmbeddedStore } from '../../src/storage/store-embedded.ts';
import { storeContract } from './store-contract.ts';

const rules: ViewRules = { affinity: 'user', rulesDigest: 'r', fence: 'required', onLoss: 'refuse' };

function openAt(folder: string, run: string, other: Partial<ViewRules> = {}, grace = false): EmbeddedStore {
  const opened = openJournal({ folder, name: 'view.journal' });
  assert.ok(opened.ok, JSON.stringify(opened));
  const { journal, records } = opened;
  const store = openEmbeddedStore({ journal, records, rules: { ...rules, ...other }, run, grace });
  assert.ok(store.ok, JSON.stringify(store));
  return store.store;
}

const newFolder = () => mkdtemp(path.join(os.tmpdir(), 'homing-store-'));

storeContract('embedded', async contractRules => {
  const folder = await newFolder();
  const store = openAt(folder, 'run', contractRules, true);
  return {
    store,
    end: async () => {
      store.close();
      await rm(folder, { recursive: true });
    },
  };
});

describe('the embedded store, started again', () => {
  const specs = ['n1', 'n2'].map(name => ({
    name,
    address: '127.0.0.1',
    weight: 100,
    pool: 'default',
    ports: {},
  }));
  const commit = async (store: EmbeddedStore, id: string, events: readonly ViewEvent[], urgent = false) => {
    const reply = await store.propose({ id, base: store.view().epoch, urgent, events });
    assert.ok(reply.ok, JSON.stringify(reply));
    assert.ok((await store.commit(id, {})).ok);
  };
  const inFolder = (title: string, body: (folder: string) => Promise<void>) =>
    test(title, async () => {
      const folder = await newFolder();
      try {
        await body(folder);
      } finally {
        await rm(folder, { recursive: true });
      }
    });

  inFolder('has the overrides, admin states, maps and pins of before, in a later view', async folder => {
    const before = openAt(folder, 'one');
    const map = {
      digest: 'd',
      lines: [{ file: 'm', line: 1, pattern: { kind: 'user', user: 'u' }, target: { node: 'n1' } } as const],
    };
    await commit(before, 'a', [{ kind: 'nodes', specs }]);
    await before.putMap(map);
    await before.join({ member: 'm', machine: 'x', boot: 'b', pid: 1 }, []);
    const reply = await before.propose({
      id: 'b',
      base: before.view().epoch,
      urgent: false,
      events: [
        { kind: 'admin', node: 'n1', state: 'drain' },
        { kind: 'override-set', key: 'alice', target: { node: 'n2' }, until: 'removed' },
        { kind: 'map', digest: 'd' },
      ],
    });
    assert.ok(reply.ok);
    const { pinKey, tallyPins } = await import('../../src/core/pins.ts');
    const keys = [pinKey('bob')];
    await before.addPins('b', 'm', 0, { node: 'n1', keys });
    await before.ack('b', 'm', tallyPins(new Map([['n1', keys]])));
    assert.ok((await before.commit('b', {})).ok);
    const { epoch, run, ...kept } = before.view();
    before.close();
    const again = openAt(folder, 'two');
    const { epoch: later, run: newRun, ...same } = again.view();
    assert.deepEqual(same, kept);
    assert.deepEqual([epoch, run, later, newRun], [1002, 'one', 2000, 'two']);
    assert.equal((await again.renew('m', 1, epoch)).ok, false, 'its members are dead');
    again.close();
    const third = openAt(folder, 'three');
    assert.equal(third.view().epoch, 3000);
    third.close();
  });

  inFolder(
    'takes other rules, since nobody is active; without a fence nobody waits for one',
    async folder => {
      const before = openAt(folder, 'one');
      await commit(before, 'a', [{ kind: 'nodes', specs }]);
      await commit(before, 'b', [{ kind: 'node-down', node: 'n1' }], true);
      before.close();
      const again = openAt(folder, 'two', { fence: 'none', affinity: 'domain' });
      assert.equal(again.view().affinity, 'domain');
      assert.equal(again.view().nodes[0]?.fenced, true);
      again.close();
    },
  );

  inFolder(
    'tells no commit that the disk did not take, and commits it when the disk is back',
    async folder => {
      const opened = openJournal({ folder, name: 'view.journal' });
      assert.ok(opened.ok);
      let full = false;
      const refused = { ok: false, why: 'ENOSPC' } as const;
      const journal = {
        append: (record: unknown) => (full ? refused : opened.journal.append(record)),
        rewrite: (records: readonly unknown[]) => (full ? refused : opened.journal.rewrite(records)),
        bytes: 0,
        close: () => opened.journal.close(),
      };
      const started = openEmbeddedStore({ journal, records: [], rules, run: 'one' });
      assert.ok(started.ok);
      const { store } = started;
      full = true;
      await store.propose({ id: 'a', base: 1000, urgent: false, events: [{ kind: 'nodes', specs }] });
      const reply = await store.commit('a', {});
      assert.ok(!reply.ok && reply.why === 'not-kept' && reply.detail === 'ENOSPC');
      const look = await store.look(1000);
      assert.ok(look.ok && look.head.epoch === 1000 && look.proposal?.id === 'a');
      full = false;
      assert.ok((await store.commit('a', {})).ok);
      store.close();
      const again = openAt(folder, 'two');
      assert.equal(again.view().nodes.length, 2);
      again.close();
    },
  );

  inFolder('a journal of a thousand changes is compacted, and nothing is lost by it', async folder => {
    const store = openAt(folder, 'one');
    await commit(store, 'a', [{ kind: 'nodes', specs }]);
    const big = Array.from({ length: 60 }, (_, i) => `${'x'.repeat(400)}${i}`);
    for (let i = 0; i < 60; i += 1)
      await commit(
        store,
        `p${i}`,
        big.map(key => ({ kind: 'override-set', key, target: { node: 'n1' }, until: 'removed' }) as const),
      );
    const { size } = await import('node:fs').then(fs => fs.statSync(path.join(folder, 'view.journal')));
    assert.ok(size < 1_300_000, `${size} bytes`);
    const { overrides } = store.view();
    store.close();
    const again = openAt(folder, 'two');
    assert.deepEqual(again.view().overrides, overrides);
    again.close();
  });
});
