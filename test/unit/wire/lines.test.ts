import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Lines } from '../../../src/wire/lines.ts';

function readAll(chunks: readonly Buffer[], limit: number): string[] {
  const lines = new Lines(limit);
  const out: string[] = [];
  for (const chunk of chunks) {
    lines.push(chunk);
    for (;;) {
      const line = lines.nextLine();
      if (line === null) break;
      out.push(line === 'too-long' ? 'too-long' : `=${line.toString('latin1')}`);
      if (line === 'too-long') return out;
    }
  }
  out.push(`rest=${lines.rest().toString('latin1')}`);
  return out;
}

describe('lines', () => {
  test('end at CRLF or at a bare LF, and a bare CR is part of the line', () => {
    assert.deepEqual(readAll([Buffer.from('a\r\nb\n\r\nc\rd\r\nrest')], 10), [
      '=a',
      '=b',
      '=',
      '=c\rd',
      'rest=rest',
    ]);
  });

  test('beyond the limit are reported, with or without their end', () => {
    assert.deepEqual(readAll([Buffer.from('12345\n')], 5), ['=12345', 'rest=']);
    assert.deepEqual(readAll([Buffer.from('123456\n')], 5), ['too-long']);
    assert.deepEqual(readAll([Buffer.from('123456')], 5), ['too-long']);
  });

  test('are the same however the bytes were split', () => {
    const bytes = fc.array(fc.constantFrom(0x0a, 0x0d, 0x41, 0x00, 0xff), { maxLength: 60 });
    fc.assert(
      fc.property(bytes, fc.array(fc.nat(60), { maxLength: 12 }), fc.nat(12), (list, cuts, limit) => {
        const whole = Buffer.from(list);
        const points = [0, ...cuts.filter(cut => cut < whole.length).sort((a, b) => a - b), whole.length];
        const chunks = points.slice(1).map((end, index) => whole.subarray(points[index], end));
        assert.deepEqual(readAll(chunks, limit), readAll([whole], limit));
      }),
    );
  });

  test('and counted blocks take turns without losing a byte', () => {
    const lines = new Lines(100);
    lines.push(Buffer.from('one\r\nab'));
    assert.equal(String(lines.nextLine()), 'one');
    assert.equal(lines.take(3), null);
    lines.push(Buffer.from('\ntwo\nmore'));
    assert.equal(String(lines.take(3)), 'ab\n');
    assert.equal(String(lines.nextLine()), 'two');
    assert.equal(lines.heldBytes, 4);
    assert.equal(String(lines.rest()), 'more');
    assert.equal(lines.heldBytes, 0);
  });
});
