/**
 * Homing's own processes under trouble: whose rights they have, and what an operator sees when one of them is killed, frozen or left
 * without its parent. Real nodes, real clients; signals go to process ids that the log named.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { startTicksOf } from '../../src/net/children.ts';
import { mailOwner } from '../lab/dovecot-node.ts';
import { handOver } from '../lab/mail.ts';
import { sessionGone, sessionProcesses, signal } from '../lab/processes.ts';
import { pause, waitFor } from '../lab/wait.ts';
import { Operated } from './operated.ts';
import { isLong, isRoot, openRaw, Raw, residentBytes, statusField } from './operating.ts';

let world: Operated;

before(async () => {
  world = await Operated.start({
    ...{ name: 'processes', from: 80, nodes: 2, users: 12 },
    // The shortest lease that is allowed here, so that the tests of it are short.
    over: {
      state: { lease: '2s' },
      failover: { spread: '100ms', hold: '6s', settle: '500ms' },
      limits: { preAuth: isLong ? '20s' : '3s', connectionsPerAddress: 20_000 },
    },
  });
});

after(() => world?.end());

/** The process of a role; thrown where there is none, for a signal to process 0 would hit ourselves. */
function one(role: 'serving' | 'writer'): number {
  const pid = world.pidOf(role);
  assert.notEqual(pid, 0, `there is no ${role} process`);
  return pid;
}
const serving = () => one('serving');
const writer = () => one('writer');

async function isReady(): Promise<void> {
  await waitFor(async () => (await world.homing.admin('/readyz')).status === 200, {
    what: 'it to be ready',
    limitMs: 15_000,
    tell: () => world.homing.logText(),
  });
}

/** True once another process than `old` serves and is ready. */
async function isReplaced(old: number, limitMs = 15_000): Promise<void> {
  await waitFor(
    async () => {
      const pid = world.pidOf('serving');
      return pid > 0 && pid !== old && (await world.homing.admin('/readyz')).status === 200;
    },
    { what: 'another serving process to be ready', limitMs, tell: () => world.homing.logText() },
  );
}

describe('whose rights they have', () => {
  test('serving and writer are not root, in no way, and keep no capability', () => {
    if (!isRoot) {
      // Started by an ordinary account, all of them stay that account.
      for (const pid of [world.homing.pid, serving(), writer()])
        assert.equal(statusField(pid, 'Uid'), statusField(process.pid, 'Uid'));
      return;
    }
    const { uid } = mailOwner();
    for (const pid of [serving(), writer()]) {
      const uids = statusField(pid, 'Uid').split(/\s+/);
      const gids = statusField(pid, 'Gid').split(/\s+/);
      assert.equal(new Set(uids).size, 1);
      assert.equal(new Set(gids).size, 1);
      assert.notEqual(uids[0], '0');
      assert.notEqual(gids[0], '0');
      assert.deepEqual(statusField(pid, 'Groups').split(/\s+/).filter(Boolean), [gids[0]]);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'])
        assert.match(statusField(pid, set), /^0+$/, set);
    }
    assert.equal(statusField(writer(), 'Uid').split(/\s+/)[0], String(uid));
    assert.notEqual(statusField(serving(), 'Uid'), statusField(writer(), 'Uid'));
  });

  test('the parent accepts nobody: its sockets only listen, and the writer has none of the listeners', async () => {
    const client = await openRaw(world.at(), world.users[0] ?? '');
    const clientPort = client.socket.localPort ?? 0;
    const sockets = (pid: number) =>
      readdirSync(`/proc/${pid}/fd`).flatMap(fd => {
        try {
          return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
        } catch {
          return [];
        }
      });
    const rows = readFileSync('/proc/net/tcp', 'latin1')
      .split('\n')
      .map(line => line.trim().split(/\s+/));
    const hex = (port: number) => `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
    const ofClient = rows.find(
      row => row[2]?.endsWith(hex(clientPort)) && row[1]?.endsWith(hex(world.at().port)),
    );
    assert.ok(ofClient, 'the session is seen in /proc/net/tcp');
    const name = `socket:[${ofClient[9]}]`;
    assert.ok(sockets(serving()).includes(name));
    assert.ok(!sockets(world.homing.pid).includes(name) && !sockets(writer()).includes(name));
    const listening = rows.filter(row => row[3] === '0A' && row[1]?.endsWith(hex(world.at().port)));
    assert.equal(listening.length, 1);
    assert.ok(!sockets(writer()).includes(`socket:[${listening[0]?.[9]}]`));
    client.leave();
  });
});

describe('the serving process', () => {
  test('killed: clients queue in the kernel meanwhile, none is refused, and a new member takes its place', async () => {
    const [user = '', other = ''] = world.users;
    const old = serving();
    const held = await openRaw(world.at(), user);
    signal(old, 'SIGKILL');
    const refused: string[] = [];
    const waiting: Raw[] = [];
    // As fast as clients come: from before its end until after the next one is there.
    await waitFor(
      async () => {
        const raw = new Raw(world.at());
        raw.socket.on('error', error => refused.push(error.message));
        waiting.push(raw);
        const pid = world.pidOf('serving');
        return pid !== 0 && pid !== old && waiting.some(one => one.text.startsWith('* OK'));
      },
      { what: 'somebody to be greeted', tell: () => world.homing.logText(), limitMs: 15_000 },
    );
    assert.deepEqual(
      refused.filter(why => why.includes('REFUSED')),
      [],
    );
    const last = waiting.at(-1);
    await last?.hears(/^\* OK/);
    await held.isClosed();
    await isReplaced(old);
    const again = await openRaw(world.at(), user);
    assert.ok((await openRaw(world.at(), other)).socket.writable);
    again.leave();
    for (const raw of waiting) raw.leave();
    const status = await world.ask<{ members: { pid: number }[] }>('status');
    assert.deepEqual(
      status.members.map(one => one.pid),
      [serving()],
    );
  });

  test('frozen: it is killed once its lease is over, and replaced; its clients are let go', async () => {
    const old = serving();
    const held = await openRaw(world.at(), world.users[1] ?? '');
    const frozenAtMs = performance.now();
    signal(old, 'SIGSTOP');
    await isReplaced(old, 20_000);
    const tookMs = performance.now() - frozenAtMs;
    assert.ok(tookMs > 2000 && tookMs < 10_000, `replaced after ${tookMs} ms`);
    await held.isClosed();
    assert.deepEqual(
      sessionProcesses(world.homing.pid).filter(row => row.pid === old),
      [],
    );
    (await openRaw(world.at(), world.users[1] ?? '')).leave();
  });

  test('killed again and again: each time there is another, and the pauses stay short', async () => {
    for (let round = 0; round < 3; round += 1) {
      const old = serving();
      signal(old, 'SIGKILL');
      await isReplaced(old);
    }
    (await openRaw(world.at(), world.users[2] ?? '')).leave();
  });
});

describe('the writer', () => {
  test('killed: another takes its place, and mail for a node that is down is written all the same', async () => {
    const old = writer();
    signal(old, 'SIGKILL');
    await waitFor(() => ![0, old].includes(world.pidOf('writer')), {
      what: 'another writer',
      tell: () => world.homing.logText(),
    });
    const [user = ''] = await world.usersOf('mail2');
    const deliver = (number: string) =>
      handOver({ kind: 'lmtp', port: world.homing.ports.lmtp ?? 0, to: user, number });
    // The first message makes the folder that verifies its user while the node is away.
    assert.equal((await deliver('before'))[0]?.kind, 'acknowledged');
    await world.node('mail2').kill();
    try {
      const receipts = await deliver('after-writer');
      assert.equal(receipts[0]?.kind, 'acknowledged', JSON.stringify(receipts));
    } finally {
      await world.node('mail2').restart();
      await world.isNode('mail2', row => row.health === 'up', 'to be up again');
    }
  });
});

describe('the parent', () => {
  test('frozen for a moment: sessions live on, logins too, and nobody is killed for it', async () => {
    const old = serving();
    const held = await openRaw(world.at(), world.users[3] ?? '');
    signal(world.homing.pid, 'SIGSTOP');
    const frozenAtMs = performance.now();
    try {
      while (performance.now() - frozenAtMs < 500) {
        assert.ok(await held.answers(), 'while the parent is away');
        await pause(100);
      }
    } finally {
      signal(world.homing.pid, 'SIGCONT');
    }
    await waitFor(async () => (await world.homing.admin('/readyz')).status === 200, {
      what: 'it to be ready',
    });
    assert.equal(serving(), old, world.homing.logText());
    assert.ok(await held.answers(), world.homing.logText());
    held.leave();
  });

  test('frozen for longer than a lease: sessions end within it, and all is well once it is woken', async () => {
    const held = await openRaw(world.at(), world.users[3] ?? '');
    signal(world.homing.pid, 'SIGSTOP');
    try {
      await held.isClosed(3500);
    } finally {
      signal(world.homing.pid, 'SIGCONT');
    }
    await waitFor(() => openRaw(world.at(), world.users[3] ?? '').then(raw => raw.leave() === undefined), {
      what: 'a login to work again',
      limitMs: 15_000,
      tell: () => world.homing.logText(),
    });
    await isReady();
  });

  test('killed: its children end by themselves within the lease, and the next start works', async () => {
    const { homing } = world;
    const held = await openRaw(world.at(), world.users[4] ?? '');
    const children = [serving(), writer()];
    signal(homing.pid, 'SIGKILL');
    await sessionGone(homing.pid, 5000);
    await held.isClosed();
    assert.deepEqual(children.map(startTicksOf), [null, null]);
    await homing.restart();
    (await openRaw(world.at(), world.users[4] ?? '')).leave();
  });

  test('killed, and started anew before its children have ended: they are ended first, nothing is refused', async () => {
    const { homing } = world;
    const before = homing.pid;
    const old = serving();
    // Frozen, so that it can't end by itself.
    signal(old, 'SIGSTOP');
    signal(writer(), 'SIGKILL');
    signal(before, 'SIGKILL');
    await waitFor(() => sessionProcesses(before).every(row => row.pid === old), {
      what: 'only the frozen one to be left',
    });
    const next = await world.startAgain();
    assert.equal(startTicksOf(old), null);
    assert.ok(next.logLines().some(line => String(line.msg).includes('processes of an earlier start ended')));
    (await openRaw(world.at(), world.users[5] ?? '')).leave();
  });
});

describe('idle clients', () => {
  const count = isLong ? 10_000 : 2000;

  test(`${count} that never log in: bounded, closed at the deadline, and others log in meanwhile`, async () => {
    const restBytes = residentBytes(serving());
    const openedAtMs = performance.now();
    const idle: Raw[] = [];
    for (let index = 0; index < count; index += 1) {
      idle.push(new Raw(world.at(index % 4 === 0 ? 'imaps' : 'imap')));
      // In waves: more than the kernel's queue holds would be connections that only the client believes in.
      if (index % 500 === 499) await Promise.all(idle.slice(-500).map(raw => raw.hears(/^\* OK/)));
    }
    const user = await openRaw(world.at(), world.users[6] ?? '');
    assert.ok(await user.answers());
    const grownBytes = residentBytes(serving()) - restBytes;
    assert.ok(grownBytes / count < 60_000, `${Math.round(grownBytes / count)} bytes each`);
    await waitFor(() => idle.every(raw => raw.closed || raw.ended), {
      what: 'all idle ones to be closed',
      limitMs: isLong ? 60_000 : 15_000,
      everyMs: 100,
      tell: () => `${idle.filter(raw => !raw.ended).length} of ${count} are open`,
    });
    assert.ok(performance.now() - openedAtMs > 2900, 'not before their deadline');
    assert.ok(await user.answers());
    user.leave();
    for (const raw of idle) raw.leave();
  });
});
