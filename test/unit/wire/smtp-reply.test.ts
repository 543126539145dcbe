import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { Reply } from '../../../src/core/types.ts';
import { ReplyReader } from '../../../src/wire/smtp-reply.ts';

function read(chunks: readonly (string | Buffer)[]): {
  replies: Reply[];
  fault: string | null;
  atRest: boolean;
} {
  const reader = new ReplyReader();
  const replies: Reply[] = [];
  for (const chunk of chunks) {
    const fault = reader.feed(Buffer.from(chunk), replies);
    if (fault !== null) return { replies, fault, atRest: false };
  }
  return { replies, fault: null, atRest: reader.atRest };
}

const dovecot =
  '220 mail1 Dovecot (Debian) ready.\r\n250-mail1\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 STARTTLS\r\n' +
  "250 2.1.0 OK\r\n550 5.1.1 <nobody@x> User doesn't exist: nobody@x\r\n354 OK\r\n250 2.0.0 <a@x> Grüße Saved\r\n";

describe("a node's replies", () => {
  test('are the same wherever the network splits them', () => {
    const whole = read([dovecot]);
    assert.equal(whole.fault, null);
    assert.equal(whole.replies.length, 6);
    const bytes = Buffer.from(dovecot);
    for (let i = 0; i <= bytes.length; i += 1)
      assert.deepEqual(read([bytes.subarray(0, i), bytes.subarray(i)]), whole);
    assert.deepEqual(read([...bytes].map(byte => Buffer.of(byte))), whole);
  });

  test('keep their words, with the enhanced code told apart and taken off every line', () => {
    const { replies } = read([
      '452-4.2.2 Mailbox is full\r\n452 4.2.2 Try later\r\n',
      '250 ok\r\n',
      '250\r\n',
    ]);
    assert.deepEqual(replies, [
      { code: 452, enhanced: '4.2.2', lines: ['Mailbox is full', 'Try later'] },
      { code: 250, enhanced: null, lines: ['ok'] },
      { code: 250, enhanced: null, lines: [''] },
    ]);
  });

  test('an enhanced code of another class than the reply is text', () => {
    assert.deepEqual(read(['250 5.1.1 odd\r\n']).replies, [
      { code: 250, enhanced: null, lines: ['5.1.1 odd'] },
    ]);
    assert.equal(read(['250 2.1.0\r\n']).replies[0]?.enhanced, '2.1.0');
  });

  test('carry no control character into a reply of ours', () => {
    const { replies } = read(['550 5.0.0 a\u0007b\tc\u001b[31m\u0085d\u2028e\rf\r\n']);
    assert.deepEqual(replies[0]?.lines, ['a?b c?[31m?d?e?f']);
  });

  test('that are no replies are a fault, not a crash', () => {
    for (const bad of [
      'hello\r\n',
      '99 x\r\n',
      '650 x\r\n',
      '250_x\r\n',
      '250-a\r\n251 b\r\n',
      '\r\n',
      'OK\n',
      '2',
    ]) {
      const { fault, replies, atRest } = read([bad]);
      assert.ok(fault !== null || !atRest, bad);
      assert.equal(replies.length, 0);
    }
  });

  test('are bounded: endless lines, endless replies and floods end the connection', () => {
    assert.match(read([`250 ${'x'.repeat(3000)}`]).fault ?? '', /too long/);
    assert.match(read([`250 ${'x'.repeat(3000)}\r\n`]).fault ?? '', /too long/);
    assert.match(read(Array.from({ length: 3000 }, () => 'x')).fault ?? '', /too long/);
    assert.match(read(['250-x\r\n'.repeat(65)]).fault ?? '', /too many lines/);
    assert.match(read(['250 x\r\n'.repeat(40_000)]).fault ?? '', /too much/);
  });

  test('garbage in any split never throws', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 }), chunks => {
        read(chunks.map(chunk => Buffer.from(chunk)));
      }),
      { numRuns: 300 },
    );
  });

  test('property: any list of replies, written and split anyhow, is read back', () => {
    const text = fc.string({ maxLength: 30, unit: fc.constantFrom('a', 'é', '.', ' ', '漢', '5') });
    const reply = fc.record({
      code: fc.integer({ min: 200, max: 559 }),
      lines: fc.array(text, { minLength: 1, maxLength: 4 }),
    });
    fc.assert(
      fc.property(
        fc.array(reply, { maxLength: 6 }),
        fc.array(fc.nat(200), { maxLength: 12 }),
        (replies, cuts) => {
          const bytes = Buffer.from(
            replies
              .map(({ code, lines }) =>
                lines.map((line, i) => `${code}${i < lines.length - 1 ? '-' : ' '}x${line}\r\n`).join(''),
              )
              .join(''),
          );
          const at = [0, ...cuts.map(cut => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
          const got = read(at.slice(1).map((end, i) => bytes.subarray(at[i], end)));
          assert.equal(got.fault, null);
          assert.deepEqual(
            got.replies,
            replies.map(({ code, lines }) => ({
              code,
              enhanced: null,
              lines: lines.map(line => `x${line}`),
            })),
          );
        },
      ),
    );
  });
});
