/** The body parser against the RFC's words, smugglers, and every way a message can be cut into chunks. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DotReader } from '../../../src/wire/dot.ts';

interface Read {
  readonly body: string;
  readonly rest: string;
  readonly ended: boolean;
  readonly bare: number;
}

function read(wire: Buffer, cuts: readonly number[]): Read {
  const pieces: Buffer[] = [];
  const reader = new DotReader(piece => pieces.push(Buffer.from(piece)));
  const edges = [...new Set([0, ...cuts.map(cut => Math.min(cut, wire.length)), wire.length])].sort(
    (a, b) => a - b,
  );
  for (let n = 0; n + 1 < edges.length; n++) {
    const chunk = Buffer.from(wire.subarray(edges[n], edges[n + 1]));
    const end = reader.feed(chunk);
    if (end === -1) continue;
    const rest = wire.subarray((edges[n] ?? 0) + end);
    return {
      body: Buffer.concat(pieces).toString('latin1'),
      rest: rest.toString('latin1'),
      ended: true,
      bare: reader.bareNewlines,
    };
  }
  return {
    body: Buffer.concat(pieces).toString('latin1'),
    rest: '',
    ended: false,
    bare: reader.bareNewlines,
  };
}

/** What a correct sender does (RFC 5321 §4.5.2). */
function stuff(message: string): string {
  const whole = message === '' || message.endsWith('\r\n') ? message : `${message}\r\n`;
  return `${whole.replace(/^\./, '..').replaceAll('\r\n.', '\r\n..')}.\r\n`;
}

const normalised = (message: string) => message.replace(/\r\n|\r|\n/g, '\r\n');
const nasty = fc
  .array(fc.constantFrom('\r', '\n', '.', '\r\n', '\r\n.', '..', 'a', 'é', '\0', 'MAIL FROM:<x@y>\r\n'), {
    maxLength: 40,
  })
  .map(parts => Buffer.from(parts.join('')).toString('latin1'));

const cases: readonly {
  readonly name: string;
  readonly wire: string;
  readonly body: string;
  readonly rest?: string;
  readonly bare?: number;
}[] = [
  { name: 'an empty message', wire: '.\r\n', body: '' },
  { name: 'one line', wire: 'a\r\n.\r\n', body: 'a\r\n' },
  { name: 'a stuffed dot line', wire: '..\r\n.\r\n', body: '.\r\n' },
  { name: 'a leading dot with other characters is stuffing', wire: '.a\r\n.\r\n', body: 'a\r\n' },
  { name: 'a stuffed dot after a true CRLF', wire: 'a\r\n..b\r\n.\r\n', body: 'a\r\n.b\r\n' },
  {
    name: 'commands behind the final dot are not the message',
    wire: 'a\r\n.\r\nQUIT\r\n',
    body: 'a\r\n',
    rest: 'QUIT\r\n',
  },
  { name: 'LF . LF ends nothing', wire: 'a\n.\nb\r\n.\r\n', body: 'a\r\n.\r\nb\r\n', bare: 2 },
  { name: 'LF . CRLF ends nothing', wire: 'a\n.\r\nb\r\n.\r\n', body: 'a\r\n.\r\nb\r\n', bare: 1 },
  { name: 'CRLF . LF ends nothing', wire: 'a\r\n.\nb\r\n.\r\n', body: 'a\r\n\r\nb\r\n', bare: 1 },
  { name: 'CR . CR ends nothing', wire: 'a\r.\rb\r\n.\r\n', body: 'a\r\n.\r\nb\r\n', bare: 2 },
  { name: 'CRLF . CR ends nothing', wire: 'a\r\n.\rb\r\n.\r\n', body: 'a\r\n\r\nb\r\n', bare: 1 },
  {
    name: 'CRLF . CR CRLF ends nothing',
    wire: 'a\r\n.\r\r\nb\r\n.\r\n',
    body: 'a\r\n\r\n\r\nb\r\n',
    bare: 1,
  },
  { name: 'LF .. CRLF keeps both dots', wire: 'a\n..\r\nb\r\n.\r\n', body: 'a\r\n..\r\nb\r\n', bare: 1 },
  { name: 'CR CRLF . CRLF ends after a bare CR', wire: 'a\r\r\n.\r\n', body: 'a\r\n\r\n', bare: 1 },
  { name: 'a NUL is a byte like others', wire: '\0\r\n.\r\n', body: '\0\r\n' },
];

describe('the body of a message', () => {
  for (const { name, wire, body, rest = '', bare = 0 } of cases) {
    test(`${name}, whole and at every split point`, () => {
      const bytes = Buffer.from(wire, 'latin1');
      for (let first = 0; first <= bytes.length; first++) {
        for (let second = first; second <= bytes.length; second++) {
          assert.deepEqual(read(bytes, [first, second]), { body, rest, ended: true, bare });
        }
      }
      assert.deepEqual(read(bytes, [...bytes.keys()]), { body, rest, ended: true, bare });
    });
  }

  test('any message that a correct sender writes arrives as one message, bare newlines apart', () => {
    fc.assert(
      fc.property(nasty, fc.array(fc.nat(200), { maxLength: 12 }), (message, cuts) => {
        const whole = message === '' || message.endsWith('\r\n') ? message : `${message}\r\n`;
        const got = read(Buffer.from(`${stuff(message)}QUIT\r\n`, 'latin1'), cuts);
        assert.equal(got.ended, true);
        assert.equal(got.rest, 'QUIT\r\n');
        assert.equal(got.body, normalised(whole));
      }),
      { numRuns: 3000 },
    );
  });

  test('whatever a hostile sender writes, no bare CR or LF leaves, and the chunks do not matter', () => {
    fc.assert(
      fc.property(nasty, fc.array(fc.nat(200), { maxLength: 12 }), (wire, cuts) => {
        const bytes = Buffer.from(`${wire}\r\n.\r\n`, 'latin1');
        const whole = read(bytes, []);
        assert.deepEqual(read(bytes, cuts), whole);
        assert.equal(whole.ended, true);
        assert.equal(/\r(?!\n)|(?<!\r)\n/.test(whole.body), false);
        assert.ok(whole.body === '' || whole.body.endsWith('\r\n'));
        // Stuffed anew it is one message again: nothing in it can end it early.
        const again = read(Buffer.from(stuff(whole.body), 'latin1'), []);
        assert.deepEqual(again, { body: whole.body, rest: '', ended: true, bare: 0 });
      }),
      { numRuns: 3000 },
    );
  });

  test('a message that only a bare newline would end goes on', () => {
    for (const wire of ['a\n.\n', 'a\r\n.\n', 'a\n.\r\n', 'a\r.\r', 'a\r\n.\r', '.', '.\r', '.\n', '']) {
      assert.equal(read(Buffer.from(wire), []).ended, false, JSON.stringify(wire));
    }
  });

  test('a chunk of a clean message is handed on without a copy', () => {
    const seen: Buffer[] = [];
    const chunk = Buffer.from('Subject: x\r\n\r\nhello\r\n');
    new DotReader(piece => seen.push(piece)).feed(chunk);
    assert.equal(seen.length, 1);
    assert.equal(seen[0]?.buffer, chunk.buffer);
  });

  test('a megabyte of bare newlines leaves in as many pieces as it had chunks', () => {
    let pieces = 0;
    let bytes = 0;
    const reader = new DotReader(piece => {
      pieces++;
      bytes += piece.length;
    });
    const chunk = Buffer.alloc(65536, '\n');
    for (let n = 0; n < 16; n++) reader.feed(chunk);
    assert.equal(pieces, 16);
    assert.equal(bytes, 2 * 16 * 65536);
    assert.equal(reader.bareNewlines, 16 * 65536);
  });
});
