/**
 * What lies in the spool has LF line ends, and the sizes in its name are those that Dovecot would count.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createStoredForm } from '../../../src/storage/stored-form.ts';

interface Stored {
  readonly bytes: Buffer;
  readonly physicalBytes: number;
  readonly virtualBytes: number;
}

function store(...chunks: readonly Buffer[]): Stored {
  const form = createStoredForm();
  const bytes = Buffer.concat([...chunks.map(chunk => form.push(chunk)), form.end()]);
  return { bytes, physicalBytes: form.physicalBytes, virtualBytes: form.virtualBytes };
}

test('CRLF becomes LF, and each such line counts one more in the virtual size', () => {
  const stored = store(Buffer.from('a\r\n\r\nbc\r\n'));
  assert.deepEqual([stored.bytes.toString(), stored.physicalBytes, stored.virtualBytes], ['a\n\nbc\n', 6, 9]);
});

test('bare CRs are kept, at the end too', () => {
  assert.equal(store(Buffer.from('a\rb\r\r\nc\r')).bytes.toString(), 'a\rb\r\nc\r');
});

test('bytes and sizes are the same at any split, for any bytes', () => {
  const text = fc
    .array(fc.constantFrom('\r', '\n', '\r\n', 'a', 'bc', '\0', '\xff'), { maxLength: 40 })
    .map(parts => Buffer.from(parts.join(''), 'latin1'));
  fc.assert(
    fc.property(text, fc.array(fc.nat(60), { maxLength: 6 }), (bytes, cuts) => {
      const points = [0, ...cuts.map(cut => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
      const chunks = points.slice(1).map((point, i) => bytes.subarray(points[i] ?? 0, point));
      const stored = store(...chunks);
      const expected = Buffer.from(bytes.toString('latin1').replace(/\r\n/g, '\n'), 'latin1');
      // Dovecot's virtual size: every LF that has no CR before it is sent as two bytes.
      const bare = expected.toString('latin1').match(/(?<!\r)\n/g)?.length ?? 0;
      assert.deepEqual(stored, {
        bytes: expected,
        physicalBytes: expected.length,
        virtualBytes: expected.length + bare,
      });
    }),
    { numRuns: 2000 },
  );
});
