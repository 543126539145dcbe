/**
 * What every store must do (barrier.md §2), as one suite that runs on each of them.
 * `begin` gives a store that just began anew, in grace, with an empty view at epoch 0.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pinKey, sortKeys, tallyPins, unpackPinSet } from '../../src/core/pins.ts';
import { emptyView, toImage, type ViewEvent, type ViewRules } from '../../src/core/view.ts';
import type { MemberIdentity, Store } from '../../src/storage/store.ts';

export interface ContractStore {
  readonly store: Store;
  end(): Promise<void>;
}

export type Begin = (rules: ViewRules) => Promise<ContractStore>;

const identity = (member: string, machine = 'mx1'): MemberIdentity => ({
  member,
  machine,
  boot: 'b',
  pid: 1,
});
const none = tallyPins(new Map());
const spec = (name: string) => ({ name, address: '127.0.0.1', weight: 100, pool: 'default', ports: {} });
const nodes: ViewEvent = { kind: 'nodes', specs: ['n1', 'n2', 'n3'].map(spec) };
const down = (node: string): ViewEvent => ({ kind: 'node-down', node });
const up = (node: string): ViewEvent => ({ kind: 'node-up', node });
const drain = (node: string): ViewEvent => ({ kind: 'admin', node, state: 'drain' });
const map = {
  digest: 'd1',
  lines: [{ file: 'users.map', line: 1, pattern: { kind: 'user', user: 'a' }, target: { node: 'n1' } }],
} as const;

const why = (reply: { readonly ok: boolean; readonly why?: string }): string =>
  reply.ok ? 'ok' : (reply.why ?? '');

export function storeContract(name: string, begin: Begin): void {
  const baseRules: ViewRules = { affinity: 'user', rulesDigest: 'r', fence: 'required', onLoss: 'refuse' };
  /** Runs with an open store that has three nodes. */
  const withStore = (title: string, body: (store: Store) => Promise<void>, rules: Partial<ViewRules> = {}) =>
    test(title, async () => {
      const { store, end } = await begin({ ...baseRules, ...rules });
      try {
        await store.open();
        assert.equal(
          why(await store.propose({ id: 'nodes', base: 1000, urgent: false, events: [nodes] })),
          'ok',
        );
        assert.equal(why(await store.commit('nodes', {})), 'ok');
        await body(store);
      } finally {
        await end();
      }
    });
  const propose = (store: Store, id: string, events: readonly ViewEvent[], base: number, urgent = false) =>
    store.propose({ id, base, urgent, events }).then(why);
  const done = async (
    store: Store,
    id: string,
    events: readonly ViewEvent[],
    base: number,
    urgent = false,
  ) => {
    assert.equal(await propose(store, id, events, base, urgent), 'ok', id);
    assert.equal(why(await store.commit(id, {})), 'ok', id);
  };

  describe(`${name}: grace and opening`, () => {
    const inGrace = (title: string, body: (store: Store) => Promise<void>) =>
      test(title, async () => {
        const { store, end } = await begin(baseRules);
        try {
          await body(store);
        } finally {
          await end();
        }
      });
    const image = (epoch: number) => ({ ...toImage(emptyView(baseRules, 'old')), epoch });

    inGrace('nothing is proposed before it opens', async store => {
      assert.equal(await propose(store, 'p', [nodes], 0), 'not-open');
    });

    inGrace('the highest view that comes in grace is taken, never a lower one', async store => {
      assert.equal(why(await store.restore(image(41), [])), 'ok');
      assert.equal(why(await store.restore(image(41), [])), 'not-higher');
      assert.equal(why(await store.restore(image(7), [])), 'not-higher');
      const reply = await store.look(0);
      assert.ok(reply.ok && reply.head.epoch === 41 && reply.head.state === 'grace');
    });

    inGrace('opening jumps to the next thousand, and only once', async store => {
      await store.restore(image(1041), []);
      const opened = await store.open();
      assert.ok(opened.ok && opened.head.epoch === 2000 && opened.head.state === 'open');
      const again = await store.open();
      assert.ok(again.ok && again.head.epoch === 2000);
    });

    inGrace('a view that stands on a thousand already still jumps', async store => {
      await store.restore(image(3000), []);
      const opened = await store.open();
      assert.ok(opened.ok && opened.head.epoch === 4000);
    });

    inGrace('once open, a higher view from elsewhere never overwrites', async store => {
      await store.open();
      assert.equal(why(await store.restore(image(99_000), [])), 'not-in-grace');
    });

    inGrace('a member that joined in grace stays one when it opens, and is told', async store => {
      const joined = await store.join(identity('a'), []);
      assert.ok(joined.ok && joined.head.state === 'grace' && joined.catchUp.kind === 'full');
      await store.open();
      const renewed = await store.renew('a', 1, joined.head.epoch);
      assert.ok(renewed.ok && renewed.head.epoch === 1000 && renewed.catchUp.kind !== 'none');
    });
  });

  describe(`${name}: members`, () => {
    withStore('who is not known is told so, with the head', async store => {
      const reply = await store.renew('ghost', 1, 0);
      assert.ok(!reply.ok && reply.why === 'unknown' && reply.head?.epoch === 1001);
    });

    withStore('joining tells the view in full and the open proposal in one step', async store => {
      await store.putMap(map);
      assert.equal(await propose(store, 'p', [{ kind: 'map', digest: 'd1' }], 1001), 'ok');
      const reply = await store.join(identity('a'), []);
      assert.ok(reply.ok && reply.catchUp.kind === 'full');
      assert.equal(reply.proposal?.id, 'p');
      assert.equal(reply.catchUp.image.nodes.length, 3);
      assert.deepEqual(reply.catchUp.maps, [map], 'with the content of the map it proposes');
    });

    withStore('joining may name dead processes of the same machine, no others', async store => {
      for (const each of [identity('old'), identity('far', 'mx2')]) await store.join(each, []);
      const reply = await store.join(identity('new'), ['old', 'far', 'new', 'ghost']);
      assert.ok(reply.ok);
      assert.deepEqual(reply.members.map(each => each.member).sort(), ['far', 'new']);
    });

    withStore('a renewal brings all beats', async store => {
      for (const each of ['a', 'b']) await store.join(identity(each), []);
      await store.renew('b', 5, 1001);
      const reply = await store.renew('a', 9, 1001);
      assert.ok(reply.ok);
      assert.deepEqual(Object.fromEntries(reply.members.map(each => [each.member, each.beat])), {
        a: 9,
        b: 5,
      });
    });

    withStore('an expelled member is refused, and still waited for until it is gone', async store => {
      await store.join(identity('a'), []);
      await store.expel('a');
      assert.equal(why(await store.renew('a', 1, 1001)), 'expelled');
      assert.equal(why(await store.join(identity('a'), [])), 'expelled');
      assert.equal(await propose(store, 'p', [drain('n1')], 1001), 'ok');
      assert.equal(why(await store.commit('p', {})), 'not-all');
      await store.gone('a');
      assert.equal(why(await store.commit('p', {})), 'ok');
      assert.equal(why(await store.join(identity('a'), [])), 'ok');
    });

    withStore('who leaves is waited for no longer', async store => {
      await store.join(identity('a'), []);
      await propose(store, 'p', [drain('n1')], 1001);
      await store.leave('a');
      assert.equal(why(await store.commit('p', {})), 'ok');
    });

    withStore('claims: the first wins and is told to all; the last to let go frees it', async store => {
      for (const each of ['a', 'b']) await store.join(identity(each), []);
      assert.deepEqual(await store.claim('u', 'n1', 'a'), { ok: true, node: 'n1' });
      assert.deepEqual(await store.claim('u', 'n2', 'b'), { ok: true, node: 'n1' });
      await store.unclaim('u', 'a');
      assert.deepEqual(await store.claim('u', 'n3', 'b'), { ok: true, node: 'n1' });
      await store.gone('b');
      assert.equal(why(await store.claim('u', 'n1', 'b')), 'unknown');
      assert.deepEqual(await store.claim('u', 'n2', 'a'), { ok: true, node: 'n2' });
    });
  });

  describe(`${name}: proposals`, () => {
    withStore('only from the view of now, one at a time, each id once', async store => {
      assert.equal(await propose(store, 'p', [drain('n1')], 1000), 'stale-base');
      assert.equal(await propose(store, 'p', [drain('n1')], 1001), 'ok');
      assert.equal(await propose(store, 'p', [drain('n1')], 1001), 'ok', 'the same command again');
      assert.equal(await propose(store, 'q', [drain('n2')], 1001), 'one-open');
      assert.equal(why(await store.commit('p', {})), 'ok');
      assert.equal(why(await store.commit('p', {})), 'not-this-proposal');
      assert.equal(await propose(store, 'p', [drain('n2')], 1002), 'used-id');
    });

    withStore('urgent is never mixed with planned, nor marked as what it is not', async store => {
      assert.equal(await propose(store, 'p', [down('n1'), drain('n2')], 1001, true), 'mixed');
      assert.equal(await propose(store, 'p', [down('n1')], 1001, false), 'mixed');
      assert.equal(await propose(store, 'p', [drain('n1')], 1001, true), 'mixed');
      const set = { id: 's', node: 'n1', epoch: 1, keys: '', dropped: [] };
      assert.equal(await propose(store, 'p', [{ kind: 'pins-added', set }], 1001), 'mixed');
    });

    withStore(
      'an urgent one replaces a planned one and voids its acks; not the other way round',
      async store => {
        await store.join(identity('a'), []);
        await propose(store, 'p', [drain('n1')], 1001);
        assert.equal(why(await store.ack('p', 'a', none)), 'ok');
        assert.equal(await propose(store, 'q', [down('n2')], 1001, true), 'ok');
        assert.equal(why(await store.commit('p', {})), 'not-this-proposal');
        assert.equal(why(await store.commit('q', {})), 'not-all');
        assert.equal(await propose(store, 'r', [down('n3')], 1001, true), 'one-open');
        assert.equal(why(await store.ack('p', 'a', none)), 'not-this-proposal');
        assert.equal(why(await store.ack('q', 'a', none)), 'ok');
        assert.equal(why(await store.commit('q', {})), 'ok');
        assert.deepEqual(await store.fate('p'), { ok: true, fate: 'void' });
        assert.deepEqual(await store.fate('q'), { ok: true, fate: 'committed', epoch: 1002 });
      },
    );

    withStore(
      'while a node is down and not fenced, planned changes wait, but for its own return',
      async store => {
        await done(store, 'p', [down('n1')], 1001, true);
        assert.equal(await propose(store, 'q', [drain('n2')], 1002), 'node-unfenced');
        assert.equal(await propose(store, 'q', [up('n1'), drain('n2')], 1002), 'node-unfenced');
        assert.equal(await propose(store, 'q', [up('n2')], 1002), 'node-unfenced');
        await done(store, 'r', [up('n1')], 1002);
        await done(store, 's', [down('n1')], 1003, true);
        await done(store, 't', [{ kind: 'fenced', node: 'n1', incident: 1004 }], 1004, true);
        assert.equal(await propose(store, 'u', [drain('n2')], 1005), 'ok');
      },
    );

    withStore('a map is proposed only when its content is kept', async store => {
      assert.equal(await propose(store, 'p', [{ kind: 'map', digest: 'd1' }], 1001), 'no-map');
      assert.equal(why(await store.putMap(map)), 'ok');
      await done(store, 'p', [{ kind: 'map', digest: 'd1' }], 1001);
      assert.deepEqual(await store.map('d1'), { ok: true, ...map });
      assert.equal(why(await store.map('d2')), 'no-map');
    });

    withStore('commit needs everybody: acked, or lapsed with the very beat that was seen', async store => {
      for (const each of ['a', 'b']) await store.join(identity(each), []);
      await propose(store, 'p', [drain('n1')], 1001);
      await store.ack('p', 'a', none);
      await store.renew('b', 3, 1001);
      assert.equal(why(await store.commit('p', {})), 'not-all');
      assert.equal(why(await store.commit('p', { b: 2 })), 'not-all');
      assert.deepEqual(await store.fate('p'), { ok: true, fate: 'open', unacked: ['b'] });
      assert.equal(why(await store.commit('p', { b: 3 })), 'ok');
      assert.equal(why(await store.renew('b', 4, 1001)), 'unknown');
    });

    withStore(
      'a member that joins during a proposal is waited for, also where it had acked before',
      async store => {
        await store.join(identity('a'), []);
        await propose(store, 'p', [drain('n1')], 1001);
        await store.ack('p', 'a', none);
        await store.join(identity('a'), []);
        assert.equal(why(await store.commit('p', {})), 'not-all');
      },
    );

    withStore('a catch-up leads from the view one has to the view of now', async store => {
      for (let i = 0; i < 3; i += 1)
        await done(store, `p${i}`, [{ kind: 'weight', node: 'n1', weight: i }], 1001 + i);
      const near = await store.look(1002);
      assert.ok(near.ok && near.catchUp.kind === 'changes');
      assert.deepEqual(
        near.catchUp.changes.map(each => each.epoch),
        [1003, 1004],
      );
      const now = await store.look(1004);
      assert.ok(now.ok && now.catchUp.kind === 'none');
      for (const have of [0, -1, 999, 5000]) {
        const far = await store.look(have);
        assert.ok(far.ok && far.catchUp.kind === 'full' && far.catchUp.image.epoch === 1004, `${have}`);
      }
    });
  });

  describe(`${name}: serve`, () => {
    const serve = { onLoss: 'serve' } as const;
    withStore(
      'a planned change never commits over a lapsed member: it is withdrawn, and others wait until it is back',
      async store => {
        for (const each of ['a', 'b']) await store.join(identity(each), []);
        await propose(store, 'p', [drain('n1')], 1001);
        await store.ack('p', 'a', none);
        assert.equal(why(await store.commit('p', { b: 0 })), 'lapsed-under-serve');
        assert.equal(why(await store.withdraw('p', { b: 9 })), 'none-lapsed');
        assert.equal(why(await store.withdraw('p', { b: 0 })), 'ok');
        assert.equal(await propose(store, 'q', [drain('n1')], 1001), 'member-absent');
        await store.join(identity('b'), []);
        assert.equal(await propose(store, 'q', [drain('n1')], 1001), 'ok');
      },
      serve,
    );

    withStore(
      'an urgent one commits over it; an operator can forget it',
      async store => {
        for (const each of ['a', 'b']) await store.join(identity(each), []);
        assert.equal(await propose(store, 'p', [down('n1')], 1001, true), 'ok');
        assert.equal(why(await store.withdraw('p', { b: 0 })), 'urgent');
        await store.ack('p', 'a', none);
        assert.equal(why(await store.commit('p', { b: 0 })), 'ok');
        await done2(store);
        assert.equal(await propose(store, 'r', [drain('n2')], 1003), 'member-absent');
        await store.gone('b');
        assert.equal(await propose(store, 'r', [drain('n2')], 1003), 'ok');
      },
      serve,
    );

    const done2 = async (store: Store): Promise<void> => {
      const events: ViewEvent[] = [{ kind: 'fenced', node: 'n1', incident: 1002 }];
      assert.equal(await propose(store, 'f', events, 1002, true), 'ok');
      await store.ack('f', 'a', none);
      assert.equal(why(await store.commit('f', {})), 'ok');
    };

    withStore('withdraw is for serve only', async store => {
      await store.join(identity('a'), []);
      await propose(store, 'p', [drain('n1')], 1001);
      assert.equal(why(await store.withdraw('p', { a: 0 })), 'not-serve');
    });
  });

  describe(`${name}: pins`, () => {
    const keys = [...sortKeys(Array.from({ length: 1500 }, (_, i) => pinKey(`u${i}`)))];
    const tally = tallyPins(new Map([['n1', keys]]));

    withStore('all members pins are one set a node in the view that is committed', async store => {
      for (const each of ['a', 'b']) await store.join(identity(each), []);
      await propose(store, 'p', [drain('n1')], 1001);
      const first = { node: 'n1', keys: keys.slice(0, 1000) };
      assert.equal(why(await store.addPins('p', 'a', 0, first)), 'ok');
      assert.equal(why(await store.addPins('p', 'a', 0, first)), 'ok', 'the same chunk again');
      assert.equal(why(await store.ack('p', 'a', tally)), 'pins-differ', 'a chunk is missing');
      assert.equal(why(await store.addPins('p', 'a', 2, first)), 'pins-differ', 'a gap');
      assert.equal(why(await store.addPins('p', 'a', 1, { node: 'n1', keys: keys.slice(1000) })), 'ok');
      assert.equal(why(await store.ack('p', 'a', tally)), 'ok');
      await store.addPins('p', 'b', 0, { node: 'n1', keys: keys.slice(0, 10) });
      await store.ack('p', 'b', tallyPins(new Map([['n1', keys.slice(0, 10)]])));
      assert.equal(why(await store.commit('p', {})), 'ok');
      const reply = await store.look(1001);
      assert.ok(reply.ok && reply.catchUp.kind === 'changes');
      const [, added] = reply.catchUp.changes[0]?.events ?? [];
      assert.ok(added?.kind === 'pins-added');
      assert.deepEqual([...unpackPinSet(added.set).keys], keys);
      assert.equal(added.set.epoch, 1002);
    });

    withStore('pins of a proposal that was replaced never reach a view', async store => {
      await store.join(identity('a'), []);
      await propose(store, 'p', [drain('n1')], 1001);
      await store.addPins('p', 'a', 0, { node: 'n1', keys: keys.slice(0, 5) });
      await propose(store, 'q', [down('n2')], 1001, true);
      assert.equal(why(await store.addPins('p', 'a', 1, { node: 'n1', keys: [1] })), 'not-this-proposal');
      await store.ack('q', 'a', none);
      await store.commit('q', {});
      const reply = await store.look(0);
      assert.ok(reply.ok && reply.catchUp.kind === 'full');
      assert.deepEqual(reply.catchUp.image.pins, []);
    });

    withStore(
      'idle is what no member uses, and unknown while one has not spoken of this view',
      async store => {
        for (const each of ['a', 'b']) await store.join(identity(each), []);
        await propose(store, 'p', [drain('n1')], 1001);
        await store.addPins('p', 'a', 0, { node: 'n1', keys: keys.slice(0, 10) });
        await store.ack('p', 'a', tallyPins(new Map([['n1', keys.slice(0, 10)]])));
        await store.ack('p', 'b', none);
        await store.commit('p', {});
        const set = 'p/n1';
        const busy = (epoch: number, ranges: number[]) => ({ epoch, sets: [{ set, ranges }], users: [] });
        await store.busy('a', busy(1002, [0, 4]));
        assert.deepEqual(await store.idle(), { ok: true, idle: null });
        await store.busy('b', busy(1001, [2, 6]));
        assert.deepEqual(await store.idle(), { ok: true, idle: null }, 'it spoke of an older view');
        await store.busy('b', busy(1002, [2, 6]));
        const reply = await store.idle();
        assert.ok(reply.ok);
        assert.deepEqual(reply.idle?.sets, [{ set, ranges: [6, 10] }]);
        assert.equal(why(await store.busy('ghost', busy(1002, []))), 'unknown');
      },
    );
  });
}
