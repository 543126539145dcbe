/**
 * Homing killed with -9 at instants nobody chose, under a steady stream by SMTP and LMTP, and started again each time:
 * all of it, and its serving or writer process alone. What was acknowledged must be in the mailboxes, read by real IMAP.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Canary, countCanaries, type Sighting } from '../../src/drill/canaries.ts';
import { readDeliveries } from '../../src/drill/deliveries.ts';
import { canaryHeader, lmtpSender, smtpSender } from '../../src/drill/senders.ts';
import { startStream } from '../../src/drill/stream.ts';
import { realClock } from '../../src/net/clock.ts';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import { type Homing, labSettings, startHoming } from '../lab/homing.ts';
import { openImap } from '../lab/imap-count.ts';
import { greetingOf } from '../lab/ports.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { pause, waitFor } from '../lab/wait.ts';

const users = ['alice', 'bob', 'carol', 'dave'].map(name => `${name}@example.org`);
const kills = process.env.HOMING_LONG === '1' ? 40 : 4;

describe('Homing killed under load', () => {
  let folder: TempFolder;
  const nodes: DovecotNode[] = [];
  let homing: Homing;

  before(async () => {
    folder = await openTempFolder('killed');
    const spoolDir = join(folder.path, 'spool');
    for (const [name, address] of [
      ['mail1', '127.0.0.11'],
      ['mail2', '127.0.0.12'],
    ] as const) {
      nodes.push(await startDovecotNode({ name, address, spoolDir, runDir: join(folder.path, name), users }));
    }
    const runDir = join(folder.path, 'homing');
    homing = await startHoming({ settings: await labSettings({ nodes, spoolDir, runDir }), runDir });
  });
  after(async () => {
    await homing?.kill9();
    await Promise.all(nodes.map(node => node.stop()));
    await folder?.remove();
  });

  async function play(run: string, trouble: () => Promise<void>): Promise<ReturnType<typeof countCanaries>> {
    const at = (port = 0) => ({ address: '127.0.0.1', port, replyLimitMs: 15_000 });
    const stream = startStream({
      clock: realClock,
      users,
      senders: {
        smtp: smtpSender(realClock, at(homing.ports.smtp), run),
        lmtp: lmtpSender(realClock, at(homing.ports.lmtp), run),
      },
      ...{ perSecond: 50, retryAfterMs: 200, mostUnderWay: 50 },
    });
    try {
      await trouble();
    } catch (error) {
      await stream.end(0);
      throw error;
    }
    const canaries = await stream.end(20_000);
    const { inDoubt } = readDeliveries(homing.logLines());
    let count = countCanaries(canaries, [], inDoubt);
    await waitFor(
      async () => {
        count = countCanaries(canaries, await sightings(run), inDoubt);
        return count.lost.length === 0 && (await queued()) === 0;
      },
      { what: 'all acknowledged mail to be found and the queue to be empty', limitMs: 20_000, everyMs: 300 },
    ).catch(() => undefined);
    assert.deepEqual(count.lost, [], homing.logText());
    assert.deepEqual(count.twice, [], 'twice, and nobody had called it in doubt');
    assert.equal(canaries.filter((one: Canary) => one.end !== 'acknowledged').length, 0);
    return count;
  }

  async function queued(): Promise<number> {
    const { json } = await homing.admin('/v1/status');
    return (json as { queue: { messages: number } }).queue.messages;
  }

  /** Read through a node, not through Homing: it is on trial. */
  async function sightings(run: string): Promise<Sighting[]> {
    const found: Sighting[] = [];
    const wanted = new RegExp(`^${canaryHeader}: ${run}/(\\d+)`, 'im');
    for (const user of users) {
      const client = await openImap({
        port: nodes[0]?.ports.imap ?? 0,
        address: nodes[0]?.address ?? '',
        user,
      });
      const box = await client.mailboxOpen('INBOX', { readOnly: true });
      if (box.exists > 0) {
        for await (const message of client.fetch('1:*', { uid: true, headers: [canaryHeader] })) {
          const number = wanted.exec(message.headers?.toString('latin1') ?? '')?.[1];
          if (number !== undefined) found.push({ number: Number(number), user });
        }
      }
      await client.logout();
    }
    return found;
  }

  test(`${kills} times as a whole: nothing acknowledged is lost, the journal and the queue open each time`, async () => {
    const count = await play('whole', async () => {
      for (let n = 0; n < kills; n++) {
        await pause(300 + Math.random() * 900);
        await homing.kill9();
        await homing.restart();
      }
      await pause(500);
    });
    assert.ok(count.acknowledged > 40 * kills, `${count.acknowledged} acknowledged`);
  });

  for (const role of ['serving', 'writer'] as const) {
    test(`its ${role} process alone: the parent starts another, nothing acknowledged is lost`, async () => {
      await play(role, async () => {
        // With a node dead, its users' mail goes through the writer.
        if (role === 'writer') await nodes[1]?.kill();
        for (let n = 0; n < 2; n++) {
          await pause(300 + Math.random() * 600);
          const [old] = homing.pids(role).slice(-1);
          await homing.kill9(role);
          await waitFor(() => homing.pids(role).some(pid => pid !== old), {
            what: `another ${role} process`,
          });
          await waitFor(() => greetingOf(homing.ports.lmtp ?? 0), { what: 'LMTP to greet again' });
        }
        await pause(300);
        if (role === 'writer') await nodes[1]?.restart();
      });
      if (role === 'writer')
        assert.ok(readDeliveries(homing.logLines()).tally.direct > 0, 'nothing went directly');
    });
  }
});
