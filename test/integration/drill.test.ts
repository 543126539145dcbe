/**
 * The drill itself on trial, without Homing: real Dovecot mailboxes behind a stand-in that is honest, or loses and doubles
 * mail on purpose. An honest one must pass; a liar must be caught, message by message.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SMTPServer } from 'smtp-server';
import { runDrill, type Stage } from '../../src/drill/drill.ts';
import { brokenPromises } from '../../src/drill/report.ts';
import { realClock } from '../../src/net/clock.ts';
import { staysIn } from '../demo/witness.ts';
import { type DovecotNode, password, startDovecotNode } from '../lab/dovecot-node.ts';
import { sendOne } from '../lab/mail.ts';
import { freePorts, greetingOf } from '../lab/ports.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';

const users = ['alice@example.org', 'bob@example.org'];
const short = { perSecond: 30, warmUpMs: 500, awayMs: 500, limitMs: 3000, toleranceMs: 100 };
const bounds = { backWithinMs: 3000 };

type Fate = 'forwarded' | 'dropped' | 'doubled';

describe('the drill on trial', () => {
  let folder: TempFolder;
  let home: DovecotNode;
  let victim: DovecotNode;

  before(async () => {
    folder = await openTempFolder('drill');
    const start = (name: string, address: string) =>
      startDovecotNode({
        name,
        address,
        spoolDir: join(folder.path, 'spool'),
        runDir: join(folder.path, name),
        users,
      });
    home = await start('mail1', '127.0.0.11');
    victim = await start('mail2', '127.0.0.12');
  });
  after(async () => {
    await Promise.all([home?.stop(), victim?.stop()]);
    await folder?.remove();
  });

  /** All users live on mail1; mail2 dies for nobody. */
  function stage(smtpPort: number): Stage {
    const at = { address: home.address };
    const nodes = [home, victim];
    return {
      clock: realClock,
      accounts: users.map(user => ({ user, password })),
      imap: { ...at, port: home.ports.imap },
      lmtp: { ...at, port: home.ports.lmtp },
      smtp: { address: '127.0.0.1', port: smtpPort },
      victim: 'mail2',
      kill: () => victim.kill(),
      revive: () => victim.restart(),
      isUp: async () => (await greetingOf(victim.ports.imap, victim.address)) !== null,
      homeOf: async () => 'mail1',
      placeOf: async () => 'mail1',
      queued: async () => 0,
      logLines: () => [],
      stays: async () =>
        nodes.flatMap(node => staysIn({ node: node.name, text: node.logText(), killedAtMs: [] }, Date.now())),
      tell: () => undefined,
    };
  }

  /** An SMTP front that says 250 to everything, whatever it then does. */
  async function withFront(
    fateOf: (number: number) => Fate,
    run: (port: number) => Promise<void>,
  ): Promise<void> {
    const [port = 0] = await freePorts(1);
    const front = new SMTPServer({
      ...{ authOptional: true, disabledCommands: ['AUTH', 'STARTTLS'], disableReverseLookup: true },
      onData: (stream, session, done) => {
        const chunks: Buffer[] = [];
        stream.on('data', chunk => chunks.push(chunk));
        stream.on('end', () => {
          const message = Buffer.concat(chunks);
          const to = session.envelope.rcptTo.map(one => one.address);
          const fate = fateOf(Number(/drill-(\d+)@/.exec(message.toString('latin1'))?.[1] ?? 0));
          const at = { address: home.address, port: home.ports.lmtp };
          const times = fate === 'dropped' ? 0 : fate === 'doubled' ? 2 : 1;
          const copies = Array.from({ length: times }, () =>
            sendOne(at, { kind: 'lmtp', from: 'a@b.example', to, message }),
          );
          void Promise.all(copies).then(() => done());
        });
      },
    });
    front.on('error', () => undefined);
    await new Promise<void>(resolve => front.listen(port, '127.0.0.1', () => resolve()));
    try {
      await run(port);
    } finally {
      await new Promise<void>(resolve => front.close(() => resolve()));
    }
  }

  test('honest delivery, a death that concerns nobody: no promise is broken', async () => {
    await withFront(
      () => 'forwarded',
      async port => {
        const record = await runDrill(stage(port), short);
        assert.deepEqual(brokenPromises(record, bounds), []);
        assert.ok(record.canaries.acknowledged > 20, `${record.canaries.acknowledged} acknowledged`);
        assert.equal(record.canaries.found, record.canaries.acknowledged);
        assert.ok(record.witnessedSessions >= 2);
      },
    );
  });

  test('messages acknowledged and dropped are reported lost, doubled ones twice: exactly those', async () => {
    const fates = new Map<number, Fate>();
    await withFront(
      number => {
        const fate: Fate = number % 8 === 4 ? 'dropped' : number % 8 === 6 ? 'doubled' : 'forwarded';
        fates.set(number, fate);
        return fate;
      },
      async port => {
        const { canaries, ...record } = await runDrill(stage(port), short);
        const numbers = (names: readonly string[]) =>
          [...new Set(names.map(name => Number.parseInt(name, 10)))].sort();
        const withFate = (fate: Fate) =>
          [...fates]
            .filter(([, one]) => one === fate)
            .map(([number]) => number)
            .sort();
        assert.deepEqual(numbers(canaries.lost), withFate('dropped'));
        assert.deepEqual(numbers(canaries.twice), withFate('doubled'));
        const sentences = brokenPromises({ ...record, canaries }, bounds).join('\n');
        assert.match(sentences, /lost though acknowledged/);
        assert.match(sentences, /delivered twice/);
      },
    );
  });
});
