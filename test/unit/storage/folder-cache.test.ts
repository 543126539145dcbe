/**
 * Open folders are shared, bounded and short-lived; what is borrowed is never closed, and what is not is closed in the end.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Borrowed, createFolderCache } from '../../../src/storage/folder-cache.ts';

class Folder {
  borrowers = 0;
  closed = 0;
  readonly openedAtMs: number;
  constructor(openedAtMs: number) {
    this.openedAtMs = openedAtMs;
  }
  close(): Promise<void> {
    assert.equal(this.borrowers, 0, 'closed while borrowed');
    this.closed += 1;
    return Promise.resolve();
  }
}

/** A clock that only moves when told. */
function world(limit: number) {
  let nowMs = 0;
  const timers = new Set<{ readonly atMs: number; readonly then: () => void }>();
  const opened: Folder[] = [];
  const cache = createFolderCache<Folder, { readonly why: string }>({
    now: () => nowMs,
    after: (ms, then) => {
      const timer = { atMs: nowMs + ms, then };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    keepMs: 1000,
    limit,
  });
  return {
    cache,
    opened,
    timers,
    open: async () => {
      await Promise.resolve();
      const folder = new Folder(nowMs);
      opened.push(folder);
      return { ok: true, folder } as const;
    },
    pass(ms: number) {
      nowMs += ms;
      for (const timer of [...timers]) {
        if (timer.atMs > nowMs) continue;
        timers.delete(timer);
        timer.then();
      }
    },
    now: () => nowMs,
  };
}

test('those who ask at the same time share one opening, and later ones for a second', async () => {
  const { cache, open, opened, pass } = world(10);
  const lent = await Promise.all([1, 2, 3].map(() => cache.borrow('a', open)));
  assert.equal(opened.length, 1);
  for (const one of lent) if (one.ok) one.borrowed.giveBack();
  pass(999);
  const later = await cache.borrow('a', open);
  assert.ok(later.ok && !later.borrowed.fresh);
  later.borrowed.giveBack();
  pass(1);
  const latest = await cache.borrow('a', open);
  assert.ok(latest.ok && latest.borrowed.fresh);
  assert.deepEqual(
    opened.map(one => one.closed),
    [1, 0],
  );
});

test('a failed opening is told to all who waited, and not kept', async () => {
  const { cache, open } = world(10);
  const refuse = () => Promise.resolve({ ok: false, why: 'no' } as const);
  const both = await Promise.all([cache.borrow('a', refuse), cache.borrow('a', refuse)]);
  assert.deepEqual(both, [
    { ok: false, why: 'no' },
    { ok: false, why: 'no' },
  ]);
  assert.ok((await cache.borrow('a', open)).ok);
});

test('a spoiled folder is not lent again, though others go on with it', async () => {
  const { cache, open, opened } = world(10);
  const [one, two] = await Promise.all([cache.borrow('a', open), cache.borrow('a', open)]);
  assert.ok(one.ok && two.ok);
  one.borrowed.giveBack({ spoiled: true });
  assert.equal(opened[0]?.closed, 0);
  const three = await cache.borrow('a', open);
  assert.ok(three.ok && three.borrowed.fresh);
  two.borrowed.giveBack();
  assert.deepEqual(
    opened.map(folder => folder.closed),
    [1, 0],
  );
});

test('whatever happens, nothing borrowed is closed, nothing idle outlives its time, the bound holds, all end closed', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('borrow' as const), key: fc.constantFrom('a', 'b', 'c', 'd', 'e') }),
    fc.record({ kind: fc.constant('back' as const), which: fc.nat(20), spoiled: fc.boolean() }),
    fc.record({ kind: fc.constant('pass' as const), ms: fc.constantFrom(1, 300, 1000) }),
    fc.constant({ kind: 'turn' as const }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
      const { cache, open, opened, pass, now, timers } = world(2);
      const held: Borrowed<Folder>[] = [];
      const waits: Promise<void>[] = [];
      const giveBack = (borrowed: Borrowed<Folder>, spoiled: boolean): void => {
        borrowed.folder.borrowers -= 1;
        borrowed.giveBack({ spoiled });
      };
      for (const one of steps) {
        if (one.kind === 'borrow') {
          waits.push(
            cache.borrow(one.key, open).then(lent => {
              assert.ok(lent.ok);
              assert.equal(lent.borrowed.folder.closed, 0, 'lent though closed');
              lent.borrowed.folder.borrowers += 1;
              held.push(lent.borrowed);
            }),
          );
        } else if (one.kind === 'back') {
          const [borrowed] = held.splice(one.which % Math.max(1, held.length), 1);
          if (borrowed !== undefined) giveBack(borrowed, one.spoiled);
        } else if (one.kind === 'pass') pass(one.ms);
        else await Promise.all(waits.splice(0));
        const live = opened.filter(folder => folder.closed === 0);
        const idle = live.filter(folder => folder.borrowers === 0 && now() - folder.openedAtMs >= 2000);
        if (waits.length === 0) assert.deepEqual(idle, []);
      }
      await Promise.all(waits);
      for (const borrowed of held.splice(0)) giveBack(borrowed, false);
      assert.ok(cache.size <= 2, `${cache.size} idle folders`);
      cache.close();
      assert.ok(opened.every(folder => folder.closed === 1));
      assert.equal(cache.size, 0);
      assert.equal(timers.size, 0, 'a timer keeps the process alive');
    }),
    { numRuns: 300 },
  );
});
