/** What an SMTP client is told when its recipients fare differently, what goes to the queue first, and who else hears of it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { pino } from 'pino';
import type { Outcome } from '../../../src/core/types.ts';
import { createBodySpool } from '../../../src/delivery/body.ts';
import type { Letter } from '../../../src/delivery/courier.ts';
import { composeDsn } from '../../../src/delivery/dsn.ts';
import { createKeep, type Enqueue, type Kept } from '../../../src/delivery/keep.ts';
import { realClock } from '../../../src/net/clock.ts';
import { delivered, greeted, openWorld, type Rules } from './receiving.ts';

const folder = mkdtempSync(join(tmpdir(), 'homing-settling-'));
after(() => rmSync(folder, { recursive: true }));
const spool = createBodySpool({ folder });
const userRules = () => ({
  defaultDomain: 'example.org',
  domains: new Set(['example.org']),
  detail: '+',
  masterSeparator: '',
  affinity: 'user' as const,
  aliases: new Map(),
});

const rejected: Outcome = {
  kind: 'rejected',
  courier: 'node',
  node: 'mail1',
  reply: { code: 552, enhanced: '5.2.2', lines: ['Quota', 'exceeded'] },
};
const deferred: Outcome = {
  kind: 'deferred',
  courier: 'direct',
  node: null,
  reply: { code: 451, enhanced: '4.3.0', lines: ['secret detail'] },
  failure: { kind: 'hung', text: 'secret detail' },
};
const doubt: Outcome = {
  kind: 'in-doubt',
  courier: 'node',
  node: 'mail1',
  reply: { code: 451, enhanced: '4.4.2', lines: ['?'] },
  failure: { kind: 'in-doubt', node: 'mail1' },
};
const fates: Readonly<Record<string, Outcome>> = { ok: delivered, no: rejected, later: deferred, doubt };

interface Queued {
  readonly from: string;
  readonly to: readonly string[];
  readonly kinds: readonly string[];
  readonly body: string;
}

async function send(
  from: string,
  to: readonly string[],
  options: { queueFails?: boolean; noQueue?: boolean } = {},
) {
  const queued: Queued[] = [];
  const enqueue: Enqueue = async (letter: Letter, entries: readonly Kept[]) => {
    if (options.queueFails === true) return { kind: 'disk-full' };
    const body = letter.body.memory?.toString('utf8') ?? '';
    queued.push({
      from: letter.from,
      to: entries.map(each => each.recipient.address),
      kinds: entries.map(each => each.outcome.kind),
      body,
    });
    return null;
  };
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'info' }, { write: line => void lines.push(JSON.parse(line)) });
  const keep = createKeep({ enqueue, spool, userRules, name: 'homing.test', clock: realClock, log });
  const rules: Rules = {
    kind: 'smtp',
    keep: options.noQueue === true ? null : keep,
    log,
    outcome: recipient => fates[recipient.user.replace(/\d*@.*/, '')] ?? delivered,
  };
  const world = await openWorld(rules);
  try {
    const client = await greeted(world.port, 'EHLO');
    client.write(
      `MAIL FROM:<${from}>\r\n${to.map(name => `RCPT TO:<${name}@example.org>\r\n`).join('')}DATA\r\n`,
    );
    await client.replies(to.length + 2);
    client.write('Subject: Grüße\r\nFrom: x@y\r\n\r\nthe body\r\n.\r\nNOOP\r\n');
    const [reply, next] = await client.replies(2);
    assert.equal(next, '250 2.0.0 OK', 'exactly one reply for the message');
    client.close();
    assert.equal(spool.memoryInUseBytes(), 0);
    return { reply: reply ?? '', queued, lines };
  } finally {
    await world.close();
  }
}

describe('one reply for all', () => {
  test('all delivered is 250 with our id, and nothing is queued', async () => {
    const { reply, queued } = await send('a@example.com', ['ok1', 'ok2']);
    assert.match(reply, /^250 2\.0\.0 OK, [0-9a-z]+$/);
    assert.deepEqual(queued, []);
  });

  test('one delivered and others deferred or in doubt is 250 once these are in the queue', async () => {
    const { reply, queued } = await send('a@example.com', ['later1', 'ok', 'doubt']);
    assert.match(reply, /^250 /);
    assert.deepEqual(
      queued.map(({ to, kinds }) => ({ to, kinds })),
      [{ to: ['later1@example.org', 'doubt@example.org'], kinds: ['deferred', 'in-doubt'] }],
    );
  });

  test('nobody delivered is the failure in its short form: strangers hear no detail', async () => {
    const { reply, queued } = await send('a@example.com', ['later', 'no']);
    assert.equal(reply, '451 4.3.0 Mail storage does not answer at the moment');
    assert.deepEqual(queued, []);
  });

  test("all refused is the node's word", async () => {
    const { reply } = await send('a@example.com', ['no1', 'no2']);
    assert.equal(reply, '552-5.2.2 Quota\n552 5.2.2 exceeded');
  });

  test('a queue that fails after a delivery is 451, and loud: twice is better than lost', async () => {
    const { reply, lines } = await send('a@example.com', ['ok', 'later'], { queueFails: true });
    assert.match(reply, /^451 /);
    assert.ok(lines.some(line => line.level === 50 && /cannot be queued/.test(String(line.msg))));
    assert.match((await send('a@example.com', ['ok', 'later'], { noQueue: true })).reply, /^451 /);
  });

  test('refused for some after others were delivered: a sender of ours gets a report through the queue', async () => {
    const { reply, queued } = await send('Sue+x@example.org', ['ok', 'no']);
    assert.match(reply, /^250 /);
    assert.equal(queued.length, 1);
    assert.equal(queued[0]?.from, '');
    assert.deepEqual(queued[0]?.to, ['Sue+x@example.org']);
    assert.match(queued[0]?.body ?? '', /Final-Recipient: rfc822; no@example\.org/);
  });

  test('a foreign sender is told through its own mail system', async () => {
    const { reply, queued, lines } = await send('a@example.com', ['ok', 'no', 'later']);
    assert.equal(
      reply,
      '554-5.0.0 Delivered to all recipients but these:\n554 5.0.0 refused <no@example.org>: 552 Quota exceeded',
    );
    assert.deepEqual(
      queued.map(each => each.to),
      [['later@example.org']],
    );
    assert.ok(lines.some(line => line.level === 40));
  });

  test('the null sender is never answered, and the log says who was dropped', async () => {
    const { reply, queued, lines } = await send('', ['ok', 'no']);
    assert.match(reply, /^250 /);
    assert.deepEqual(queued, []);
    assert.ok(lines.some(line => line.level === 40 && line.to === 'no@example.org'));
  });
});

describe('the report to the sender', () => {
  const report = async (text: string, reply = rejected.reply): Promise<string> => {
    const writer = spool.begin('d');
    await writer.write(Buffer.from(text));
    const finished = await writer.finish();
    assert.ok(finished.ok);
    const letter: Letter = {
      id: 'abc1',
      from: 'sue@example.org',
      body: finished.body,
      eightBit: false,
      smtpUtf8: false,
      acceptedAtMs: 0,
    };
    const recipient = {
      index: 0,
      address: 'no@example.org',
      user: 'no@example.org',
      detail: '',
      maildirName: 'x',
    };
    const dsn = await composeDsn({
      letter,
      refused: [{ recipient, outcome: { ...rejected, reply } }],
      name: 'homing.test',
      nowMs: Date.UTC(2026, 10, 21),
    });
    await finished.body.dispose();
    return dsn.toString('utf8');
  };

  test("has the three parts of RFC 3464, and the original's header without its body", async () => {
    const text = await report('Subject: hello\r\nX-Mine: 1\r\n\r\nsecret body\r\n');
    assert.match(text, /^Content-Type: multipart\/report; report-type=delivery-status;/im);
    assert.match(text, /^Auto-Submitted: auto-replied$/im);
    assert.match(text, /^To: sue@example\.org\r$/im);
    const parts = [
      ...text.matchAll(/^Content-Type: (text\/plain|message\/delivery-status|text\/rfc822-headers)/gim),
    ].map(match => match[1]);
    assert.deepEqual(parts, ['text/plain', 'message/delivery-status', 'text/rfc822-headers']);
    assert.match(text, /Reporting-MTA: dns; homing\.test\r\n/);
    assert.match(
      text,
      /\r\n\r\nFinal-Recipient: rfc822; no@example\.org\r\nAction: failed\r\nStatus: 5\.2\.2\r\n/,
    );
    assert.match(text, /Diagnostic-Code: smtp; 552 5\.2\.2 Quota exceeded\r\n/);
    assert.match(text, /Subject: hello\r\nX-Mine: 1\r\n/);
    assert.doesNotMatch(text, /secret body/);
    assert.equal(/\r(?!\n)|(?<!\r)\n/.test(text), false);
  });

  test('no word of a node breaks out of its field', async () => {
    const text = await report('\r\n', {
      code: 550,
      enhanced: null,
      lines: ['x\r\nFinal-Recipient: rfc822; evil@example.org'],
    });
    assert.equal(text.match(/^Final-Recipient/gm)?.length, 1);
    assert.match(text, /Status: 5\.0\.0/);
  });

  test('a header without end is cut off', async () => {
    const text = await report(`${'X-Long: y\r\n'.repeat(20_000)}`);
    assert.ok(text.length < 80_000);
  });
});
