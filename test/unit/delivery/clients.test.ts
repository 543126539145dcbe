/** Mail clients that others wrote: nodemailer, and Python's or Perl's own where they are on the machine (in CI one of them must be). */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { createTransport } from 'nodemailer';
import { delivered, openWorld, type Rules, type World, withoutTrace } from './receiving.ts';

const run = promisify(execFile);

async function inWorld(rules: Rules, work: (world: World) => Promise<void>): Promise<void> {
  const world = await openWorld(rules);
  try {
    await work(world);
  } finally {
    await world.close();
  }
}

const refuseAnn: Rules['verifyAtNode'] = async (_node, _from, rcpt) =>
  rcpt.startsWith('ann')
    ? { code: 550, enhanced: '5.1.1', lines: ['no such user'] }
    : { code: 250, enhanced: '2.1.5', lines: ['OK'] };

describe('nodemailer', () => {
  for (const kind of ['smtp', 'lmtp'] as const) {
    test(`brings messages by ${kind} over a kept connection`, async () => {
      await inWorld({ kind, verifyAtNode: refuseAnn }, async world => {
        const transport = createTransport({
          host: '127.0.0.1',
          port: world.port,
          lmtp: kind === 'lmtp',
          pool: true,
          maxConnections: 1,
          ignoreTLS: true,
        });
        for (let n = 0; n < 20; n++) {
          const text = `.first\r\n..second\r\n.\r\n${'x'.repeat(n * 5000 + 1)}`;
          const told = await transport.sendMail({
            envelope: {
              from: 'sue@example.com',
              to: ['joe@example.org', 'ann@example.org', 'bob+x@example.org'],
            },
            raw: `Subject: ${n}\r\n\r\n${text}`,
          });
          assert.deepEqual(told.accepted, ['joe@example.org', 'bob+x@example.org']);
          assert.deepEqual(told.rejected, ['ann@example.org']);
          assert.equal(withoutTrace(world.arrived[n]?.body ?? ''), `Subject: ${n}\r\n\r\n${text}\r\n`);
        }
        assert.equal(world.receiver.connections(), 1);
        transport.close();
      });
    });
  }

  test('sends UTF-8 addresses where they are offered', async () => {
    await inWorld({ kind: 'smtp', smtpUtf8: true }, async world => {
      const transport = createTransport({ host: '127.0.0.1', port: world.port, ignoreTLS: true });
      await transport.sendMail({
        envelope: { from: 'sue@example.com', to: ['jürgen@example.org'] },
        raw: 'Subject: x\r\n\r\nü\r\n',
      });
      assert.deepEqual(world.arrived[0]?.to, ['jürgen@example.org']);
      assert.equal(world.arrived[0]?.letter.smtpUtf8, true);
      transport.close();
    });
  });
});

const python = `
import smtplib, sys, json
port, kind = int(sys.argv[1]), sys.argv[2]
client = (smtplib.LMTP if kind == 'lmtp' else smtplib.SMTP)('127.0.0.1', port, local_hostname='python.test')
told = []
for n in range(3):
    body = b'Subject: %d\\r\\n\\r\\n.dot\\r\\n..two\\r\\nlast\\r\\n' % n
    told.append(client.sendmail('sue@example.com', ['joe@example.org', 'ann@example.org'], body, mail_options=['BODY=8BITMIME']))
if kind == 'lmtp':
    # sendmail reads one reply after the dot whatever it speaks, so with two accepted recipients we read the other one.
    client.mail('sue@example.com')
    client.rcpt('joe@example.org')
    client.rcpt('full@example.org')
    first = client.data(b'x')
    told.append({'first': first, 'second': client.getreply()})
client.quit()
print(json.dumps([{k: [v[0], v[1].decode()] for k, v in t.items()} for t in told]))
`;

const perl = `
use Net::SMTP;
my $client = Net::SMTP->new('127.0.0.1', Port => $ARGV[0], Hello => 'perl.test') or die 'no connection';
for my $n (0 .. 2) {
  $client->mail('sue@example.com', Bits => 8) or die 'mail';
  $client->to('joe@example.org') or die 'rcpt';
  $client->to('ann@example.org') and die 'accepted';
  $client->data() or die 'data';
  $client->datasend("Subject: $n\\r\\n\\r\\n.dot\\r\\n..two\\r\\nlast\\r\\n");
  $client->dataend() or die 'dataend: ' . $client->message();
}
$client->quit();
print 'done';
`;

const has = (program: string, words: readonly string[]): boolean => spawnSync(program, words).status === 0;
const hasPython = has('python3', ['-c', 'import smtplib']);
const hasPerl = has('perl', ['-MNet::SMTP', '-e', '1']);
const outcome: Rules['outcome'] = ({ user }) =>
  user.startsWith('full')
    ? { ...delivered, kind: 'rejected', reply: { code: 552, enhanced: '5.2.2', lines: ['full'] } }
    : delivered;

function arrivedThrice(world: World): void {
  assert.deepEqual(
    world.arrived.map(each => withoutTrace(each.body)),
    [0, 1, 2].map(n => `Subject: ${n}\r\n\r\n.dot\r\n..two\r\nlast\r\n`),
  );
}

describe('clients of other languages', () => {
  test('are on the machine where the project is tested for all', () => {
    assert.ok(
      hasPython || hasPerl || process.env.CI === undefined,
      'neither python3 with smtplib nor perl with Net::SMTP is here',
    );
  });

  if (hasPython) {
    test("Python's LMTP class hears a reply for each recipient", async () => {
      await inWorld({ verifyAtNode: refuseAnn, outcome }, async world => {
        const { stdout } = await run('python3', ['-c', python, String(world.port), 'lmtp'], {
          timeout: 20_000,
        });
        const refused = { 'ann@example.org': [550, '5.1.1 no such user'] };
        const each = { first: [250, '2.0.0 Saved'], second: [552, '5.2.2 full'] };
        assert.deepEqual(JSON.parse(stdout), [refused, refused, refused, each]);
        world.arrived.pop();
        arrivedThrice(world);
      });
    });

    test("Python's SMTP class hears who was refused at RCPT", async () => {
      await inWorld({ kind: 'smtp', verifyAtNode: refuseAnn }, async world => {
        const { stdout } = await run('python3', ['-c', python, String(world.port), 'smtp'], {
          timeout: 20_000,
        });
        assert.deepEqual(
          JSON.parse(stdout),
          Array(3).fill({ 'ann@example.org': [550, '5.1.1 no such user'] }),
        );
        arrivedThrice(world);
      });
    });
  }

  if (hasPerl) {
    test("Perl's Net::SMTP brings messages too", async () => {
      await inWorld({ kind: 'smtp', verifyAtNode: refuseAnn }, async world => {
        const { stdout } = await run('perl', ['-e', perl, String(world.port)], { timeout: 20_000 });
        assert.equal(stdout, 'done');
        arrivedThrice(world);
      });
    });
  }
});
