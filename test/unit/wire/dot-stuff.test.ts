import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DotStuffer } from '../../../src/wire/dot-stuff.ts';

function send(chunks: readonly Buffer[]): string {
  const stuffer = new DotStuffer();
  return Buffer.concat([...chunks.map(chunk => stuffer.stuff(chunk)), stuffer.end()]).toString('latin1');
}

/** What a peer makes of it that takes any LF for a line end, as Dovecot 2.3 does. */
function receive(wire: string): { body: string; rest: string } {
  const lines = wire.split(/(?<=\n)/);
  const end = lines.findIndex(line => line === '.\r\n' || line === '.\n');
  const body = lines.slice(0, end).map(line => (line.startsWith('.') ? line.slice(1) : line));
  return { body: body.join(''), rest: lines.slice(end + 1).join('') };
}

function splits(bytes: Buffer): Buffer[][] {
  return Array.from(bytes, (_, i) => [bytes.subarray(0, i), bytes.subarray(i)]);
}

describe('the end of a message', () => {
  test('a body without dots is written as it is, without a copy', () => {
    const chunk = Buffer.from('Subject: x\r\n\r\nhello. world\r\n');
    assert.equal(new DotStuffer().stuff(chunk), chunk);
  });

  test('dots at line starts are doubled at every split', () => {
    const body = Buffer.from('.a\r\n.\r\n..\r\nb.\r\n\r\n.\r\n');
    const wire = '..a\r\n..\r\n...\r\nb.\r\n\r\n..\r\n.\r\n';
    for (const chunks of splits(body)) assert.equal(send(chunks), wire);
    assert.equal(send([...body].map(byte => Buffer.of(byte))), wire);
  });

  test('an empty body is a lone dot, and a half line is ended first', () => {
    assert.equal(send([]), '.\r\n');
    assert.equal(send([Buffer.from('abc')]), 'abc\r\n.\r\n');
  });

  test('property: one message in is one message out, also to a peer that takes bare LF, whatever is in it', () => {
    const body = fc.string({
      maxLength: 60,
      unit: fc.constantFrom('a', '.', '\r', '\n', '\r\n', '\r\n.\r\n', '\n.\n', 'MAIL'),
    });
    fc.assert(
      fc.property(body, fc.nat(60), (text, cut) => {
        const bytes = Buffer.from(`${text}\r\n`);
        const { body: got, rest } = receive(send([bytes.subarray(0, cut), bytes.subarray(cut)]));
        assert.equal(got, `${text}\r\n`);
        assert.equal(rest, '');
      }),
      { numRuns: 2000 },
    );
  });
});
