/**
 * The lab's own promises: its Dovecot nodes refuse whom they should, share one tree, and die completely.
 * If these fail, no other integration test can be believed.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import {
  maildirFiles,
  numbersByDoveadm,
  numbersByImap,
  numbersInMaildir,
  openImap,
} from '../lab/imap-count.ts';
import { handOver } from '../lab/mail.ts';
import { greetingOf } from '../lab/ports.ts';
import { sessionProcesses } from '../lab/processes.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { within } from '../lab/wait.ts';

const alice = 'alice@example.org';

/** The long run does it all again with Debian 13's Dovecot 2.4, in a folder of its own (about a minute to make). */
const systems = process.env.HOMING_LONG === '1' ? [null, '/var/tmp/homing-trixie'] : [null];

for (const system of systems)
  describe(`a lab of two Dovecot nodes over one maildir tree${system === null ? '' : ', Dovecot 2.4'}`, () => {
    let folder: TempFolder;
    let first: DovecotNode;
    let second: DovecotNode;

    before(async () => {
      folder = await openTempFolder('lab');
      const spoolDir = join(folder.path, 'spool');
      if (system !== null)
        execFileSync('sh', [join(import.meta.dirname, '../lab/trixie.sh'), system], { stdio: 'ignore' });
      const rootFs = system === null ? {} : { rootFs: system };
      const start = (name: string, address: string) =>
        startDovecotNode({
          name,
          address,
          spoolDir,
          runDir: join(folder.path, name),
          users: [alice],
          ...rootFs,
        });
      first = await start('mail1', '127.0.0.11');
      second = await start('mail2', '127.0.0.12');
    });
    after(async () => {
      await Promise.all([first?.stop(), second?.stop()]);
      await folder?.remove();
    });

    test('the nodes are of the version that was asked for', () => {
      if (system !== null) assert.equal(first.version, '2.4');
      assert.match(first.version, /^2\.[34]$/);
    });

    test('a message handed to one node is found once, through the other node and in the files', async () => {
      const [receipt] = await handOver({ ...lmtp(first), to: alice, number: 1 });
      assert.equal(receipt?.kind, 'acknowledged');
      const once = new Map([['1', 1]]);
      assert.deepEqual(
        await numbersByImap({ port: second.ports.imap, address: second.address, user: alice }),
        once,
      );
      assert.deepEqual(await numbersByDoveadm(second, alice), once);
      assert.deepEqual(await numbersInMaildir(first.spoolDir, alice), once);
      assert.equal((await maildirFiles(first.spoolDir, alice)).length, 1);
    });

    test('an unknown recipient is refused with 550, a known one beside it is taken', async () => {
      const receipts = await handOver({ ...lmtp(first), to: ['nobody@example.org', alice], number: 2 });
      assert.deepEqual(
        receipts.map(one => [one.kind, one.kind === 'refused' ? one.code : 0]),
        [
          ['refused', 550],
          ['acknowledged', 0],
        ],
      );
    });

    test('a wrong password and an unknown user are refused at login', async () => {
      const at = { port: first.ports.imap, address: first.address };
      await assert.rejects(openImap({ ...at, user: alice, password: 'wrong' }));
      await assert.rejects(openImap({ ...at, user: 'nobody@example.org' }));
    });

    test('a user added while the node runs can log in', async () => {
      await first.setUsers([alice, 'new@example.org']);
      const client = await openImap({
        port: first.ports.imap,
        address: first.address,
        user: 'new@example.org',
      });
      await client.logout();
    });

    test('kill leaves no process and no listener, restart brings back the same ports', async () => {
      const { pid, ports, address } = second;
      assert.ok(sessionProcesses(pid).length > 5);
      const cut = new Promise<void>(resolve => {
        void openImap({ port: ports.imap, address, user: alice }).then(async client => {
          client.once('close', () => resolve());
          await second.kill();
        });
      });
      await within(cut, 5000, 'the session of a killed node to break');
      assert.deepEqual(sessionProcesses(pid), []);
      assert.equal(await greetingOf(ports.imap, address), null);
      await second.restart();
      assert.match((await greetingOf(ports.imap, address)) ?? '', /^\* OK .*mail2 ready/);
      assert.notEqual(second.pid, pid);
    });

    test('a frozen node takes connections and says nothing, and answers when thawed', async () => {
      const { ports, address } = second;
      second.freeze();
      assert.equal(await greetingOf(ports.imap, address, 300), null);
      second.thaw();
      assert.match((await greetingOf(ports.imap, address)) ?? '', /^\* OK/);
    });
  });

function lmtp(node: DovecotNode): { kind: 'lmtp'; port: number; address: string } {
  return { kind: 'lmtp', port: node.ports.lmtp, address: node.address };
}
