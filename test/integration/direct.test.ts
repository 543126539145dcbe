/**
 * Courier `direct` and the writer process, as processes: killed, frozen, replaced, starved - and each message there once, or not said to be.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, renameSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { before, describe, test } from 'node:test';
import { pino } from 'pino';
import { startWriter } from '../../src/delivery/writer.ts';
import { encodeFrame } from '../../src/delivery/writer-wire.ts';
import { realClock } from '../../src/net/clock.ts';
import { tempFolder } from '../lab/temp-folder.ts';
import { pause, waitFor, within } from '../lab/wait.ts';
import { assertRoot } from '../unit/storage/spool-world.ts';
import { bodyOf, errand, found, openDirectWorld, told } from './direct-world.ts';

const joe = 'joe@example.org';

before(assertRoot);

describe('in quiet times', () => {
  test('each recipient gets its own message and its own answer, in order', async t => {
    const world = await openDirectWorld(t);
    await world.startWriter();
    world.spool.addMaildir(joe);
    const outcomes = await world.direct.carry(errand(['1.a', '2.a', '3.a', '3.a']));
    assert.deepEqual(outcomes.map(told), ['delivered', 'delivered', 'delivered', 'delivered']);
    assert.deepEqual([...found(world.spool)].sort(), [
      ['1.a', 1],
      ['2.a', 1],
      ['3.a', 1],
    ]);
  });

  test('a large body comes through in pieces, many at once, and all are whole', async t => {
    const world = await openDirectWorld(t, { requestsLimit: 3 });
    await world.startWriter();
    world.spool.addMaildir(joe);
    const line = `${'y'.repeat(98)}\r\n`;
    const body = bodyOf(line.repeat(30_000), 64_000);
    const names = ['1.a', '2.a', '3.a', '4.a', '5.a'];
    const outcomes = await world.direct.carry(errand(names, joe, { body }));
    assert.deepEqual([...new Set(outcomes.map(told))], ['delivered']);
    assert.deepEqual([...found(world.spool).keys()].sort(), names);
    for (const file of world.spool.names(joe, 'new')) assert.match(file, /,S=2970064,W=3000066$/);
  });

  test('what direct cannot do is deferred at once, so that the next courier may try', async t => {
    const world = await openDirectWorld(t);
    await world.startWriter();
    const [nobody] = await world.direct.carry(errand(['1.a'], 'nobody@example.org'));
    assert.equal(told(nobody), 'deferred not-direct-capable');
    const body = bodyOf('x'.repeat(3_000_000), 64_000);
    const [large] = await world.direct.carry(errand(['1.a'], 'nobody@example.org', { body }));
    assert.equal(told(large), 'deferred not-direct-capable');
    world.spool.addMaildir(joe);
    unlinkSync(world.spool.mark);
    await waitFor(
      async () => told((await world.direct.carry(errand(['1.a'])))[0]) === 'deferred mount-missing',
      { what: 'the missing mark to be noticed', limitMs: 3000 },
    );
    writeFileSync(world.spool.mark, '');
    assert.equal(told((await world.direct.carry(errand(['2.a'])))[0]), 'delivered');
  });

  test('a user is verified by the spool folder, and unknown without mark or writer', async t => {
    const world = await openDirectWorld(t, { verifyTimeoutMs: 300 });
    assert.equal(await world.direct.verify(joe), 'unknown');
    const writer = await world.startWriter();
    world.spool.addMaildir(joe);
    assert.equal(await world.direct.verify(joe), 'present');
    assert.equal(await world.direct.verify('eve@example.org'), 'absent');
    assert.equal(await world.direct.verify('../x@example.org'), 'unknown');
    unlinkSync(world.spool.mark);
    await waitFor(async () => (await world.direct.verify(joe)) === 'unknown', {
      what: 'the missing mark to be noticed',
      limitMs: 3000,
    });
    await writer.kill();
    assert.equal(await world.direct.verify(joe), 'unknown');
  });

  test('a letter from before this process is looked for in cur/ first: nobody gets it twice', async t => {
    const world = await openDirectWorld(t);
    await world.startWriter();
    const path = world.spool.addMaildir(joe);
    const move = (): void => {
      for (const file of world.spool.names(joe, 'new'))
        renameSync(join(path, 'new', file), join(path, 'cur', `${file}:2,S`));
    };
    const accepted = realClock.wall();
    await world.direct.carry(errand(['1.a'], joe, { acceptedAtMs: accepted }));
    move();
    // The same process again, and then letters that are old, or from the future of a clock set back.
    for (const acceptedAtMs of [accepted, accepted - 60_000, accepted + 60_000]) {
      const [outcome] = await world.direct.carry(errand(['1.a'], joe, { acceptedAtMs }));
      assert.equal(told(outcome), 'delivered');
      assert.deepEqual(world.spool.names(joe, 'new'), []);
    }
    assert.equal(world.spool.names(joe, 'cur').length, 1);
  });
});

describe('when the writer is killed', () => {
  test('at random instants under load: what was acknowledged is whole, what is retried is there once', async t => {
    const world = await openDirectWorld(t, { requestsLimit: 16 });
    world.spool.addMaildir(joe);
    let writer = await world.startWriter();
    const acknowledged = new Set<string>();
    const open = new Set<string>();
    const text = `Subject: x\r\n\r\n${'z'.repeat(3000)}\r\n`;
    const bodies = [bodyOf(text), bodyOf(text.repeat(150), 30_000)];
    let stopped = false;
    let count = 0;
    const carry = async (name: string): Promise<void> => {
      const body = bodies[Number(name.split('.')[0]) % 7 === 0 ? 1 : 0];
      const [outcome] = await world.direct.carry(errand([name], joe, { body: body ?? bodyOf(text) }));
      if (outcome?.kind === 'delivered') {
        acknowledged.add(name);
        open.delete(name);
      } else open.add(name);
    };
    const load = Array.from({ length: 12 }, async () => {
      while (!stopped) {
        count += 1;
        await carry(`${count}.k`);
      }
    });
    for (let kill = 0; kill < 6; kill += 1) {
      await pause(5 + Math.random() * 150);
      const known = [...acknowledged];
      await writer.kill();
      const there = found(world.spool);
      for (const name of known)
        assert.equal(
          there.get(name),
          1,
          `${name} was acknowledged and is ${there.get(name) ?? 0} times there`,
        );
      writer = await world.startWriter();
    }
    stopped = true;
    await within(Promise.all(load), 15_000, 'the load');
    for (const name of [...open]) await carry(name);
    assert.equal(open.size, 0);
    const there = found(world.spool);
    assert.equal(there.size, count);
    assert.ok([...there.values()].every(times => times === 1));
    assert.ok(count > 20, `only ${count} messages: no load`);
  });

  test('after the link and before its answer, the retry finds the message and says delivered', async t => {
    const world = await openDirectWorld(t);
    world.spool.addMaildir(joe);
    // A writer that dies in just that instant: it has the message in new/, and never answers.
    const first = await world.startWriter();
    await world.direct.carry(errand(['1.a']));
    const [file = ''] = world.spool.names(joe, 'new');
    const path = world.spool.maildirOf(joe);
    first.signal('SIGSTOP');
    const pending = world.direct.carry(errand(['2.a']));
    renameSync(join(path, 'new', file), join(path, 'cur', `${file.replace('1.a', '2.a')}:2,S`));
    await first.kill();
    await world.startWriter();
    assert.deepEqual((await pending).map(told), ['delivered']);
    assert.deepEqual(world.spool.names(joe, 'new'), []);
    assert.equal(world.spool.names(joe, 'cur').length, 1);
  });

  test('and does not come back, the message is in doubt only where it was handed over whole', async t => {
    const world = await openDirectWorld(t);
    world.spool.addMaildir(joe);
    const [never] = await world.direct.carry(errand(['1.a'], joe, { withinMs: 150 }));
    assert.equal(told(never), 'deferred hung');
    const writer = await world.startWriter();
    writer.signal('SIGSTOP');
    // Both sockets' buffers are full long before this body has passed.
    const large = bodyOf(Buffer.alloc(8_000_000, 'x'), 64_000);
    const pending = Promise.all([
      world.direct.carry(errand(['2.a'], joe, { withinMs: 700 })),
      world.direct.carry(errand(['3.a'], joe, { withinMs: 700, body: large })),
    ]);
    await pause(100);
    await writer.kill();
    const [small, cut] = await pending;
    assert.equal(told(small[0]), 'in-doubt hung');
    assert.equal(told(cut[0]), 'deferred hung');
  });
});

describe('when the writer hangs', () => {
  test('couriers answer by their deadlines, the parent is told once, and after the replacement the same name is there once', async t => {
    const world = await openDirectWorld(t, { requestTimeoutMs: 1500 });
    world.spool.addMaildir(joe);
    const writer = await world.startWriter();
    assert.equal(told((await world.direct.carry(errand(['0.a'])))[0]), 'delivered');
    writer.signal('SIGSTOP');
    const startedAtMs = performance.now();
    const soon = world.direct.carry(errand(['1.a'], joe, { withinMs: 200 }));
    const others = world.direct.carry(errand(['2.a', '3.a', '4.a']));
    assert.deepEqual((await soon).map(told), ['in-doubt hung']);
    assert.ok(performance.now() - startedAtMs < 1400);
    assert.equal(world.hungs(), 0, 'an impatient caller is no proof of a hang');
    assert.deepEqual([...new Set((await others).map(told))], ['in-doubt hung']);
    assert.ok(performance.now() - startedAtMs < 4000);
    await waitFor(() => world.hungs() > 0, { what: 'the parent to be told', limitMs: 3000 });
    await writer.kill();
    await world.startWriter();
    const outcomes = await world.direct.carry(errand(['1.a', '2.a', '3.a', '4.a']));
    assert.deepEqual([...new Set(outcomes.map(told))], ['delivered']);
    assert.equal(world.hungs(), 1);
    assert.deepEqual([...found(world.spool).entries()].sort(), [
      ['0.a', 1],
      ['1.a', 1],
      ['2.a', 1],
      ['3.a', 1],
      ['4.a', 1],
    ]);
  });

  test('a hung writer that wakes up after its replacement delivered adds nothing', async t => {
    const world = await openDirectWorld(t, { requestTimeoutMs: 300 });
    world.spool.addMaildir(joe);
    const old = await world.startWriter();
    assert.equal(await world.direct.verify(joe), 'present');
    old.signal('SIGSTOP');
    assert.deepEqual((await world.direct.carry(errand(['1.a']))).map(told), ['in-doubt hung']);
    await world.startWriter();
    assert.deepEqual((await world.direct.carry(errand(['1.a']))).map(told), ['delivered']);
    old.signal('SIGCONT');
    await waitFor(() => world.spool.names(joe, 'tmp').length === 0 && found(world.spool).size === 1, {
      what: 'the old writer to be done',
    });
    assert.deepEqual([...found(world.spool)], [['1.a', 1]]);
    // The old one closing must not take the new one's socket away.
    await old.kill();
    assert.deepEqual((await world.direct.carry(errand(['2.a']))).map(told), ['delivered']);
  });

  test('a body that was not handed over whole by its deadline is never delivered later: another courier may have it', async t => {
    const world = await openDirectWorld(t, { requestTimeoutMs: 20_000 });
    world.spool.addMaildir(joe);
    const writer = await world.startWriter();
    assert.equal(await world.direct.verify(joe), 'present');
    writer.signal('SIGSTOP');
    const body = bodyOf(Buffer.alloc(8_000_000, 'x'), 64_000);
    const [outcome] = await world.direct.carry(errand(['1.a'], joe, { body, withinMs: 200 }));
    assert.equal(told(outcome), 'deferred hung');
    writer.signal('SIGCONT');
    assert.equal(told((await world.direct.carry(errand(['2.a'], joe, { body })))[0]), 'delivered');
    await waitFor(() => world.spool.names(joe, 'tmp').length === 0, { what: 'the cut one to be dropped' });
    assert.deepEqual([...found(world.spool).keys()], ['2.a']);
    assert.equal(world.hungs(), 0);
  });

  test('more than the bound waits, and those whose turn never comes are deferred, not in doubt', async t => {
    const world = await openDirectWorld(t, { requestsLimit: 2, requestTimeoutMs: 5000 });
    world.spool.addMaildir(joe);
    const writer = await world.startWriter();
    writer.signal('SIGSTOP');
    const outcomes = await world.direct.carry(errand(['1.a', '2.a', '3.a', '4.a'], joe, { withinMs: 200 }));
    assert.deepEqual(outcomes.map(told), [
      'in-doubt hung',
      'in-doubt hung',
      'deferred hung',
      'deferred hung',
    ]);
    writer.signal('SIGCONT');
    await waitFor(() => found(world.spool).size === 2, { what: 'the two that were handed over' });
    assert.deepEqual((await world.direct.carry(errand(['3.a', '1.a']))).map(told), [
      'delivered',
      'delivered',
    ]);
    assert.deepEqual([...found(world.spool).keys()].sort(), ['1.a', '2.a', '3.a']);
  });
});

describe('the writer', () => {
  const silent = pino({ level: 'silent' });
  const spool = {
    path: '/srv/{user}',
    mark: '/srv/.m',
    home: null,
    sieve: [],
    account: null,
    create: false,
  };

  test('keeps its socket to itself and whoever it is given to, and removes it at its end', async t => {
    const socketPath = join(await tempFolder(t, 'run'), 'w.sock');
    const socketOwner = { uid: 4242, gid: 4243 };
    const started = await startWriter({ socketPath, socketOwner, spool, clock: realClock, log: silent });
    assert.ok(started.ok);
    const { uid, gid, mode } = statSync(socketPath);
    assert.deepEqual([uid, gid, mode & 0o777], [4242, 4243, 0o600]);
    assert.deepEqual(readdirSync(dirname(socketPath)), ['w.sock']);
    await started.writer.close();
    assert.equal(existsSync(socketPath), false);
  });

  test('that was replaced leaves the socket to its successor when it ends', async t => {
    const socketPath = join(await tempFolder(t, 'run'), 'w.sock');
    const options = { socketPath, socketOwner: null, spool, clock: realClock, log: silent };
    const old = await startWriter(options);
    const next = await startWriter(options);
    assert.ok(old.ok && next.ok);
    await old.writer.close();
    assert.equal(existsSync(socketPath), true);
    await next.writer.close();
    assert.equal(existsSync(socketPath), false);
  });

  test('says why it does not start', async t => {
    const socketPath = join(await tempFolder(t, 'run'), 'w.sock');
    const base = { socketPath, socketOwner: null, spool, clock: realClock, log: silent };
    for (const [options, why] of [
      [{ ...base, spool: { ...spool, path: 'srv/{user}' } }, 'spool path must be an absolute path'],
      [{ ...base, spool: { ...spool, mark: '/srv/{who}' } }, 'spool mark {who}'],
      [{ ...base, socketPath: '/nowhere/w.sock' }, 'socket /nowhere/w.sock: '],
    ] as const) {
      const started = await startWriter(options);
      assert.ok(!started.ok && started.why.startsWith(why), started.ok ? 'started' : started.why);
    }
  });

  test('closes on garbage, on a second request before its answer, and serves others meanwhile', async t => {
    const world = await openDirectWorld(t);
    await world.startWriter();
    world.spool.addMaildir(joe);
    const verify = encodeFrame({ kind: 'verify', user: joe });
    for (const bytes of [Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.concat([verify, verify])]) {
      const socket = connect(world.socketPath);
      socket.on('error', () => undefined).resume();
      socket.write(bytes);
      await within(new Promise(resolve => socket.once('close', resolve)), 2000, 'the close');
      assert.equal(await world.direct.verify(joe), 'present');
    }
  });

  test('drops a body whose sender goes away, small or large', async t => {
    const world = await openDirectWorld(t);
    await world.startWriter();
    world.spool.addMaildir(joe);
    for (const bytes of [1000, 5_000_000]) {
      const socket = connect(world.socketPath);
      const head = {
        kind: 'deliver',
        user: joe,
        name: `${bytes}.x`,
        from: '',
        to: joe,
        again: false,
      } as const;
      socket.write(encodeFrame({ ...head, bytes }));
      socket.write(Buffer.alloc(bytes - 1, 'x'));
      await new Promise<void>(resolve => socket.end(resolve));
      socket.destroy();
    }
    assert.deepEqual((await world.direct.carry(errand(['1.a']))).map(told), ['delivered']);
    await waitFor(() => world.spool.names(joe, 'tmp').length === 0, { what: 'tmp/ to be clean' });
    assert.deepEqual([...found(world.spool).keys()], ['1.a']);
  });
});
