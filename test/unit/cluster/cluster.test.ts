import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Actives, inSlices, sliceMs } from '../../../src/cluster/actives.ts';
import type { Admission, CloseReason, Entry } from '../../../src/cluster/admission.ts';
import { createMember, type Member } from '../../../src/cluster/cluster.ts';
import { keepPins } from '../../../src/cluster/pin-keeper.ts';
import { createProposer, type Proposer, type WishResult } from '../../../src/cluster/proposer.ts';
import { rankingOf } from '../../../src/core/place.ts';
import { defaultTimers } from '../../../src/core/timers.ts';
import type { ViewEvent, ViewRules } from '../../../src/core/view.ts';
import { realClock } from '../../../src/net/clock.ts';
import { type EmbeddedStore, openEmbeddedStore } from '../../../src/storage/store-embedded.ts';
import { SimClock, seeded, settle } from '../../sim/sim-clock.ts';
import { memoryJournal } from '../../sim/sim-store.ts';
import { nodeSpec, rules } from '../core/cluster-fixture.ts';

const silent = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const user = 'alice@example.org';

interface Told {
  reason: CloseReason | null;
}

/** One machine: store, proposer and one member, on a clock that the test moves. */
class Machine {
  readonly clock = new SimClock(seeded(1));
  readonly store: EmbeddedStore;
  readonly proposer: Proposer;
  readonly member: Member;
  ended = '';

  constructor(other: Partial<ViewRules> = {}, waitingLimit = 100) {
    const journal = memoryJournal({ records: [] });
    const opened = openEmbeddedStore({ journal, records: [], rules: { ...rules, ...other }, run: 'run' });
    assert.ok(opened.ok);
    this.store = opened.store;
    const { clock, store } = this;
    this.proposer = createProposer({ store, clock, timers: defaultTimers, log: silent });
    this.member = createMember({
      identity: { member: 'm1', machine: 'x', boot: 'b', pid: 1 },
      store,
      clock,
      timers: defaultTimers,
      log: silent,
      quietMs: 2000,
      spreadMs: 1000,
      waitingLimit,
      onEnd: why => {
        this.ended = why;
      },
    });
  }

  async start(): Promise<this> {
    void this.member.start();
    const wish = this.wish([{ kind: 'nodes', specs: ['n1', 'n2', 'n3'].map(name => nodeSpec(name)) }]);
    await this.pass(50);
    assert.equal((await wish).ok, true);
    return this;
  }
  wish(events: readonly ViewEvent[]): Promise<WishResult> {
    return this.proposer.wish(events, 'test');
  }
  pass(ms: number): Promise<void> {
    return this.clock.run(this.clock.now() + ms);
  }
  ask(
    activity: 'session' | 'delivery',
    told: Told = { reason: null },
    signal?: AbortSignal,
  ): Promise<Admission> {
    const protocol = activity === 'session' ? 'imap' : 'lmtp';
    const onClose = (reason: CloseReason): void => {
      told.reason = reason;
    };
    const wish = { user, activity, protocol, client: '', onClose } as const;
    return this.member.admit(signal === undefined ? wish : { ...wish, signal });
  }
  async enter(activity: 'session' | 'delivery', told?: Told): Promise<Entry> {
    const admission = await this.ask(activity, told);
    assert.ok(admission.ok, JSON.stringify(admission));
    return admission.entry;
  }
  get home(): string {
    const view = this.member.view();
    return view === null ? '' : (rankingOf(view, user)[0]?.node ?? '');
  }
}

describe('a member', () => {
  test('a delivery of a dead node is told at once, and cut before anybody is placed elsewhere', async () => {
    const machine = await new Machine().start();
    const { home } = machine;
    const order: string[] = [];
    const wish = { user, activity: 'delivery', protocol: 'lmtp', client: '' } as const;
    const onClose = (reason: CloseReason): void => void order.push(reason);
    const onCut = (): void => void order.push('cut');
    assert.ok((await machine.member.admit({ ...wish, onClose, onCut })).ok);
    const down = machine.wish([{ kind: 'node-down', node: home }]);
    await machine.pass(100);
    assert.deepEqual(order, ['node-down']);
    void machine.ask('session').then(admission => order.push(admission.ok ? 'placed' : admission.reason));
    await machine.pass(defaultTimers.settleMs + 1000);
    assert.deepEqual(order, ['node-down', 'cut', 'placed']);
    assert.equal((await down).ok, true);
  });

  test('closes the sessions of a dead node, holds its users meanwhile, then places them elsewhere', async () => {
    const machine = await new Machine().start();
    const told: Told = { reason: null };
    const { home } = machine;
    const entry = await machine.enter('session', told);
    assert.equal(entry.node.name, home);
    const wish = machine.wish([{ kind: 'node-down', node: home }]);
    await machine.pass(100);
    assert.equal(told.reason, 'node-down');
    assert.equal(entry.isLive(), false);
    let next: Admission | null = null;
    void machine.ask('session').then(admission => {
      next = admission;
    });
    await machine.pass(100);
    assert.equal(next, null, 'held while its old session is open');
    entry.release({ nodeEnded: true });
    await machine.pass(100);
    assert.ok((await wish).ok);
    const admitted = next as Admission | null;
    assert.ok(admitted?.ok === true && admitted.entry.node.name !== home);
  });

  test('counts a user as active until the node is quiet, where the node’s end was not seen', async () => {
    const machine = await new Machine().start();
    const entry = await machine.enter('session');
    const wish = machine.wish([{ kind: 'node-down', node: machine.home }]);
    await machine.pass(50);
    entry.release();
    await machine.pass(1900);
    assert.equal(machine.member.status().epoch, 1001);
    await machine.pass(300);
    assert.equal(machine.member.status().epoch, 1002);
    assert.ok((await wish).ok);
  });

  test('a planned change never breaks a delivery: it is awaited, then pinned', async () => {
    const machine = await new Machine().start();
    const told: Told = { reason: null };
    const { home } = machine;
    await machine.enter('delivery', told);
    void machine.wish([{ kind: 'admin', node: home, state: 'maint' }]);
    await machine.pass(defaultTimers.settleMs + 200);
    assert.equal(told.reason, null);
    assert.equal(machine.member.status().epoch, 1002);
    assert.equal(machine.member.peek(user).kind, 'pin');
  });

  test('a holder that does not let go is cut at settle: the cluster never waits for it longer', async () => {
    const machine = await new Machine().start();
    const entry = await machine.enter('session');
    const wish = machine.wish([{ kind: 'node-down', node: machine.home }]);
    await machine.pass(defaultTimers.settleMs + 200);
    assert.ok((await wish).ok);
    assert.equal(entry.isLive(), false);
    assert.equal(machine.member.status().entries, 0);
    entry.release();
  });

  test('users of a drained node stay while active, and go home when idle: failback is by pins that end', async () => {
    const machine = await new Machine().start();
    const stop = keepPins({ store: machine.store, proposer: machine.proposer, clock: machine.clock });
    const { home } = machine;
    const entry = await machine.enter('session');
    void machine.wish([{ kind: 'admin', node: home, state: 'drain' }]);
    await machine.pass(20_000);
    assert.equal(machine.member.peek(user).kind, 'pin');
    const again = await machine.enter('session');
    assert.equal(again.node.name, home, 'a second session joins the first');
    for (const each of [entry, again]) each.release({ nodeEnded: true });
    await machine.pass(25_000);
    const place = machine.member.peek(user);
    assert.ok(place.kind === 'failover' && place.node !== home, JSON.stringify(place));
    stop();
  });

  test('a move until idle lasts while the user is active', async () => {
    const machine = await new Machine().start();
    const stop = keepPins({ store: machine.store, proposer: machine.proposer, clock: machine.clock });
    const { home } = machine;
    const away = home === 'n1' ? 'n2' : 'n1';
    void machine.wish([{ kind: 'override-set', key: user, target: { node: away }, until: 'idle' }]);
    await machine.pass(100);
    const entry = await machine.enter('session');
    assert.equal(entry.node.name, away);
    await machine.pass(30_000);
    assert.equal(machine.member.peek(user).kind, 'override');
    entry.release({ nodeEnded: true });
    await machine.pass(30_000);
    assert.equal(machine.member.peek(user).kind, 'home');
    stop();
  });

  test('a held login waits at most its hold, and is told why', async () => {
    const machine = await new Machine({ fence: 'required' }).start();
    const { home } = machine;
    void machine.wish([{ kind: 'node-down', node: home }]);
    await machine.pass(100);
    const held = machine.ask('session');
    await machine.pass(defaultTimers.holdMs - 10);
    assert.equal(machine.member.status().waiting, 1);
    await machine.pass(20);
    const answer = await held;
    assert.ok(
      !answer.ok && answer.reason === 'held' && answer.why.includes(`${home} is down`),
      JSON.stringify(answer),
    );
  });

  test('the list of those who wait is bounded, and a client that goes away leaves it', async () => {
    const machine = await new Machine({ fence: 'required' }, 2).start();
    void machine.wish([{ kind: 'node-down', node: machine.home }]);
    await machine.pass(100);
    const leaving = new AbortController();
    const first = machine.ask('session', undefined, leaving.signal);
    void machine.ask('session');
    const third = await machine.ask('session');
    assert.ok(!third.ok && third.reason === 'held' && /2 others wait/.test(third.why));
    leaving.abort();
    const gone = await first;
    assert.ok(!gone.ok && gone.reason === 'aborted');
    assert.equal(machine.member.status().waiting, 1);
    machine.member.drain();
    await settle();
    assert.equal(machine.member.status().waiting, 0);
    const late = await machine.ask('session');
    assert.ok(!late.ok && late.reason === 'shutdown');
  });

  test('without the store it stops admitting at L - G, closes everything and ends by L', async () => {
    const machine = await new Machine().start();
    const told: Told = { reason: null };
    const entry = await machine.enter('session', told);
    const never = (): Promise<never> => new Promise(() => undefined);
    Object.assign(machine.store, { renew: never, join: never });
    await machine.pass(defaultTimers.leaseMs - defaultTimers.closeMs + 10);
    assert.equal(told.reason, 'lease-lost');
    await machine.pass(defaultTimers.closeMs);
    assert.match(machine.ended, /lease is over/);
    assert.equal(entry.isLive(), false);
    assert.equal(machine.member.inLease(), false);
    const refused = machine.ask('session');
    await machine.pass(defaultTimers.holdMs + 10);
    const answer = await refused;
    assert.ok(!answer.ok && answer.reason === 'stale');
  });

  test('a kick tells each entry once', async () => {
    const machine = await new Machine().start();
    const told: Told = { reason: null };
    await machine.enter('session', told);
    assert.equal(machine.member.kick(user), 1);
    assert.equal(told.reason, 'kicked');
    assert.equal(machine.member.kick(user), 0);
  });
});

describe('wishes', () => {
  test('planned ones that wait go out as one proposal; an urgent one replaces what is open', async () => {
    const machine = await new Machine().start();
    const { home } = machine;
    const others = ['n1', 'n2', 'n3'].filter(name => name !== home);
    await machine.enter('delivery');
    const maint = machine.wish([{ kind: 'admin', node: home, state: 'maint' }]);
    await machine.pass(500);
    const merged = others.map(node => machine.wish([{ kind: 'weight', node, weight: 50 }]));
    const urgent = machine.wish([{ kind: 'node-down', node: others[0] ?? '' }]);
    await machine.pass(300);
    const first = await urgent;
    assert.ok(first.ok && first.epoch === 1002, JSON.stringify(first));
    await machine.pass(2 * defaultTimers.settleMs);
    const results = await Promise.all([maint, ...merged]);
    assert.deepEqual(
      results,
      [maint, ...merged].map(() => ({ ok: true, epoch: 1003 })),
    );
  });

  test('a wrong wish is refused alone; what is so already is answered without a change', async () => {
    const machine = await new Machine().start();
    const wrong = machine.wish([{ kind: 'weight', node: 'n9', weight: 1 }]);
    const fine = machine.wish([{ kind: 'weight', node: 'n1', weight: 1 }]);
    const nothing = machine.wish([{ kind: 'node-up', node: 'n1' }]);
    await machine.pass(500);
    const answers = await Promise.all([wrong, fine, nothing]);
    assert.match(JSON.stringify(answers[0]), /no node n9/);
    assert.deepEqual(
      answers.slice(1).map(answer => answer.ok),
      [true, true],
    );
    assert.equal(machine.store.view().epoch, 1002);
  });

  test('one that cannot go out is answered with what it waits for', async () => {
    const machine = await new Machine({ fence: 'required' }).start();
    void machine.wish([{ kind: 'node-down', node: 'n1' }]);
    await machine.pass(100);
    const waits = machine.wish([{ kind: 'weight', node: 'n2', weight: 1 }]);
    await machine.pass(2 * defaultTimers.holdMs + 100);
    assert.deepEqual(await waits, { ok: false, why: 'it waits for the fence of n1' });
  });
});

describe('active users', () => {
  test('200,000 are walked without blocking the event loop for more than a few slices', async () => {
    const actives = new Actives();
    for (let i = 0; i < 200_000; i += 1) {
      const wish = {
        user: `u${i}`,
        activity: 'session',
        protocol: 'imap',
        client: '',
        onClose: () => undefined,
      } as const;
      actives.add(wish, `n${i % 4}`);
    }
    let longestMs = 0;
    let visited = 0;
    let sinceMs = performance.now();
    const clock = {
      ...realClock,
      after: (ms: number, then: () => void) => {
        longestMs = Math.max(longestMs, performance.now() - sinceMs);
        return realClock.after(ms, () => {
          sinceMs = performance.now();
          then();
        });
      },
    };
    const spin = (): void => {
      visited += 1;
      for (let i = 0; i < 300; i += 1) Math.imul(i, i);
    };
    assert.ok(await actives.walk('all', spin, clock));
    assert.equal(visited, 200_000);
    assert.ok(longestMs < 10 * sliceMs, `${longestMs} ms`);
    assert.equal(actives.usersOn('n1'), 50_000);
  });

  test('a user is never active on two nodes', () => {
    const actives = new Actives();
    const wish = {
      user,
      activity: 'session',
      protocol: 'imap',
      client: '',
      onClose: () => undefined,
    } as const;
    const entry = actives.add(wish, 'n1');
    assert.throws(() => actives.add(wish, 'n2'), /active on n1/);
    actives.remove(entry);
    actives.remove(entry);
    assert.equal(actives.userCount, 0);
    actives.add(wish, 'n2');
  });

  test('a walk that is told to stop says that it did not come to its end', async () => {
    let seen = 0;
    const visit = (): void => {
      seen += 1;
    };
    assert.equal(await inSlices([1, 2, 3], visit, realClock, () => seen === 2), false);
    assert.equal(seen, 2);
  });
});
