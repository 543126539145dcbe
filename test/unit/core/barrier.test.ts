import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type BarrierState,
  dueAtMs,
  type Head,
  type Input,
  type Intent,
  type MemberBeat,
  mayAdmit,
  type Proposal,
  type Standing,
  startBarrier,
  step,
} from '../../../src/core/barrier.ts';
import { checkTimers, defaultTimers } from '../../../src/core/timers.ts';
import { toImage, type View, type ViewEvent } from '../../../src/core/view.ts';
import { viewOf } from './cluster-fixture.ts';

const timers = defaultTimers;
const view = viewOf(['n1', 'n2', 'n3']);
const drain: ViewEvent = { kind: 'admin', node: 'n1', state: 'drain' };
const maps = new Map();
const tally = { count: 0, digest: '' };

const open = (epoch = view.epoch): Head => ({ run: 'run', state: 'open', epoch });
const proposalOf = (id: string, events: readonly ViewEvent[] = [drain]): Proposal => ({
  id,
  base: view.epoch,
  epoch: view.epoch + 1,
  urgent: false,
  events,
});
const standing = (other: Partial<Standing> = {}): Standing => ({
  head: open(),
  proposal: null,
  members: [],
  catchUp: { kind: 'none' },
  ...other,
});

/** Drives the machine as cluster.ts does, and remembers what it wanted. */
class Drive {
  state: BarrierState = startBarrier('me', 0);
  wanted: Intent[] = [];

  input(input: Input): this {
    const next = step(this.state, input, timers);
    this.state = next.state;
    this.wanted = [...next.intents];
    return this;
  }
  join(atMs: number, other: Partial<Standing> = {}): this {
    const full: Standing = standing({ catchUp: { kind: 'full', image: toImage(view), maps: [] }, ...other });
    return this.input({ kind: 'joined', nowMs: atMs, sentAtMs: atMs, standing: full, maps });
  }
  renew(sentAtMs: number, other: Partial<Standing> = {}, nowMs = sentAtMs): this {
    return this.input({ kind: 'renewed', nowMs, sentAtMs, standing: standing(other), maps });
  }
  tick(nowMs: number): this {
    return this.input({ kind: 'tick', nowMs, jitter: 0.5 });
  }
  letGo(nowMs: number, id: string): this {
    return this.input({ kind: 'let-go', nowMs, id, tally });
  }
  get kinds(): string[] {
    return this.wanted.map(each => each.kind);
  }
}

const beat = (member: string, acked: boolean, beats = 1): MemberBeat => ({ member, acked, beat: beats });

describe('the lease', () => {
  test('counts from the sending of a renewal, not from its reply', () => {
    const me = new Drive().join(0).renew(1000, {}, 4000);
    assert.equal(me.state.leaseUntilMs, 1000 + timers.leaseMs);
  });

  test('a reply that comes after its own lease says nothing', () => {
    const me = new Drive().join(0).renew(100, {}, 100 + timers.leaseMs);
    assert.equal(me.state.leaseUntilMs, timers.leaseMs);
  });

  test('runs out: closing begins at L - G, all is cut and the process ends half a second before L', () => {
    const me = new Drive().join(0).tick(timers.leaseMs - timers.closeMs);
    assert.deepEqual(me.kinds, ['close-all', 'renew']);
    assert.equal(mayAdmit(me.state, timers.leaseMs - timers.closeMs), false);
    me.tick(timers.leaseMs - 500);
    assert.deepEqual(me.kinds, ['close-all', 'end']);
    assert.equal(me.state.name, 'out');
  });

  test('a renewal in time ends the closing', () => {
    const me = new Drive().join(0).tick(4000).renew(4100);
    assert.deepEqual(me.kinds, ['keep']);
    assert.ok(mayAdmit(me.state, 4200));
  });

  test('after a pause nothing is admitted, but one renewal is tried before all is closed', () => {
    const me = new Drive().join(0).tick(20_000);
    assert.deepEqual(me.kinds, ['renew']);
    assert.equal(mayAdmit(me.state, 20_000), false);
    const still = new Drive();
    still.state = me.state;
    still.renew(20_000, {}, 20_100);
    assert.ok(mayAdmit(still.state, 20_100), 'still known: nothing was committed over it');
    me.tick(20_000 + 2 * timers.commandTimeoutMs);
    assert.deepEqual(me.kinds.slice(0, 2), ['close-all', 'end']);
  });

  test('a member that is out asks to join, but not before all is closed', () => {
    const me = new Drive().join(0);
    me.input({ kind: 'unknown', nowMs: 10, head: open() });
    assert.deepEqual(me.kinds, ['close-all']);
    assert.deepEqual(me.tick(5000).kinds, []);
    me.input({ kind: 'all-closed', nowMs: 5001 });
    assert.deepEqual(me.tick(7000).kinds, ['join']);
  });

  test('the next tick is always due before the lease ends', () => {
    const me = new Drive().join(0);
    for (const atMs of [0, 3000, 4000, 5000]) {
      me.tick(atMs);
      assert.ok(dueAtMs(me.state, timers) <= timers.leaseMs - 500);
    }
  });
});

describe('a proposal', () => {
  const p = proposalOf('p');
  const held = (): Drive => new Drive().join(0).renew(100, { proposal: p });

  test('is held for at once, acked when all is let go, committed when all have acked', () => {
    const me = held();
    assert.deepEqual(me.kinds, ['hold']);
    assert.equal(me.state.name, 'letting-go');
    assert.deepEqual(me.letGo(200, 'p').kinds, ['ack']);
    me.renew(300, { proposal: p, members: [beat('me', true), beat('other', false)] });
    assert.deepEqual(me.kinds, []);
    me.renew(400, { proposal: p, members: [beat('me', true), beat('other', true)] });
    assert.deepEqual(me.kinds, ['commit']);
    const change = { id: 'p', epoch: p.epoch, events: p.events };
    me.renew(500, { head: open(p.epoch), catchUp: { kind: 'changes', changes: [change] } });
    assert.deepEqual(me.kinds, ['adopt']);
    assert.equal(me.state.view?.epoch, p.epoch);
    assert.equal(me.state.name, 'serving');
  });

  test('seen again is not held for again', () => {
    assert.deepEqual(held().renew(200, { proposal: p }).kinds, []);
  });

  test('an ack that got lost is sent again', () => {
    const me = held()
      .letGo(200, 'p')
      .renew(300, { proposal: p, members: [beat('me', false)] });
    assert.deepEqual(me.kinds, ['ack']);
  });

  test('that is gone without a commit is void: the hold ends', () => {
    assert.deepEqual(held().renew(200).kinds, ['release']);
  });

  test('replaced by another: the first is released, the second held for, and the first ack means nothing', () => {
    const q = proposalOf('q');
    const me = held().letGo(200, 'p').renew(300, { proposal: q });
    assert.deepEqual(me.kinds, ['release', 'hold']);
    assert.deepEqual(me.letGo(400, 'p').kinds, [], 'late word of the first');
    assert.equal(me.state.name, 'letting-go');
  });

  test('a member that joins meanwhile is told of it in the same step, and holds from its first moment', () => {
    const me = new Drive().join(0, { proposal: p });
    assert.deepEqual(me.kinds, ['adopt', 'hold']);
  });

  test('with a map whose content is not here is fetched first, and not acked before', () => {
    const withMap = proposalOf('m', [{ kind: 'map', digest: 'd' }]);
    const me = new Drive().join(0).renew(100, { proposal: withMap });
    assert.deepEqual(me.wanted, [{ kind: 'fetch-map', digest: 'd' }]);
    assert.equal(me.state.name, 'serving');
  });

  test('committed without my ack contradicts me: I close all rather than take it', () => {
    const change = { id: 'p', epoch: p.epoch, events: p.events };
    const me = held().renew(200, { head: open(p.epoch), catchUp: { kind: 'changes', changes: [change] } });
    assert.deepEqual(me.kinds, ['close-all']);
    assert.equal(me.state.name, 'out');
  });

  test('a silent member has lapsed W after its last beat was first seen, and is named with that beat', () => {
    const me = held().letGo(200, 'p');
    const members = [beat('me', true), beat('dead', false, 7)];
    for (let atMs = 1000; atMs < 1000 + timers.lapseMs; atMs += 1000) {
      me.renew(atMs, { proposal: p, members });
      assert.deepEqual(me.kinds, [], `${atMs}`);
    }
    me.renew(1000 + timers.lapseMs, { proposal: p, members });
    assert.deepEqual(me.wanted, [{ kind: 'commit', id: 'p', lapsed: { dead: 7 } }]);
  });

  test('a beat that moves begins the lapse anew', () => {
    const me = held().letGo(200, 'p');
    me.renew(1000, { proposal: p, members: [beat('me', true), beat('slow', false, 7)] });
    me.renew(5000, { proposal: p, members: [beat('me', true), beat('slow', false, 8)] });
    me.renew(1000 + timers.lapseMs, { proposal: p, members: [beat('me', true), beat('slow', false, 8)] });
    assert.deepEqual(me.kinds, []);
  });
});

describe('a store that forgot', () => {
  const grace = (epoch: number): Head => ({ run: 'new', state: 'grace', epoch });

  test('with my lease valid I come back with my view, keep holds, and adopt and release nothing', () => {
    const me = new Drive().join(0).renew(100, { proposal: proposalOf('p') });
    me.input({ kind: 'unknown', nowMs: 200, head: grace(0) });
    assert.deepEqual(me.kinds, ['join']);
    assert.equal(me.state.name, 'letting-go');
    me.join(300, { head: grace(0), catchUp: { kind: 'full', image: toImage(viewOf([])), maps: [] } });
    assert.deepEqual(me.kinds, ['restore']);
    assert.equal(me.state.name, 'letting-go');
    me.renew(400, {
      head: grace(9),
      catchUp: { kind: 'full', image: { ...toImage(view), epoch: 9 }, maps: [] },
    });
    assert.deepEqual(me.kinds, []);
    assert.equal(me.state.view?.epoch, view.epoch);
  });

  test('is opened after the grace; its epoch then is adopted and what was held is over', () => {
    const me = new Drive().join(0);
    me.input({ kind: 'unknown', nowMs: 200, head: grace(view.epoch) });
    me.join(300, { head: grace(view.epoch) });
    let atMs = 300;
    for (; atMs < 300 + timers.graceMs; atMs += 1000)
      assert.deepEqual(me.renew(atMs, { head: grace(view.epoch) }).kinds, []);
    assert.deepEqual(me.renew(300 + timers.graceMs, { head: grace(view.epoch) }).kinds, ['open']);
    const opened: View = { ...view, epoch: 1000, run: 'new' };
    me.renew(300 + timers.graceMs + 10, {
      head: { run: 'new', state: 'open', epoch: 1000 },
      catchUp: { kind: 'full', image: toImage(opened), maps: [] },
    });
    assert.deepEqual(me.kinds, ['adopt']);
    assert.deepEqual([me.state.view?.epoch, me.state.view?.run], [1000, 'new']);
  });

  test('who joins in grace admits nobody until it opens', () => {
    const me = new Drive().join(0, { head: grace(view.epoch) });
    assert.equal(me.state.name, 'waiting');
    assert.equal(mayAdmit(me.state, 1), false);
    me.renew(1000, { head: { run: 'new', state: 'open', epoch: view.epoch } });
    assert.ok(mayAdmit(me.state, 1001));
  });

  test('an expelled member closes all and ends', () => {
    const me = new Drive().join(0).input({ kind: 'expelled', nowMs: 10 });
    assert.deepEqual(me.kinds, ['close-all', 'end']);
  });
});

describe('timers', () => {
  test('the defaults are a safe set, and so is the set for Sentinel', () => {
    assert.deepEqual(checkTimers(defaultTimers), []);
    const sentinel = { leaseMs: 15_000, lapseMs: 18_500, holdMs: 22_000, graceMs: 22_000 };
    assert.deepEqual(checkTimers({ ...defaultTimers, ...sentinel }), []);
  });

  const wrong: readonly [string, Partial<typeof defaultTimers>, RegExp][] = [
    ['a lapse of 1.2 leases', { lapseMs: 7200 }, /lapse .* at least .* 7334/],
    ['a lease too short for three renewals', { renewMs: 1200 }, /three renewals/],
    ['a hold shorter than a lapse can be seen', { holdMs: 9500 }, /at most hold/],
    ['a settle as long as the hold', { settleMs: 9500 }, /less than hold/],
    ['a grace shorter than lapse and overlap', { graceMs: 10_000 }, /grace/],
    ['no time to close', { closeMs: 400 }, /close/],
    ['nonsense', { holdMs: Number.NaN }, /holdMs/],
  ];
  for (const [name, other, sentence] of wrong)
    test(`${name} is refused`, () =>
      assert.match(checkTimers({ ...defaultTimers, ...other }).join('; '), sentence));
});
