/**
 * What serving process and writer say to each other survives any split, and nothing that breaks the rules gets through.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { failureKinds } from '../../../src/core/failure.ts';
import {
  createFrameReader,
  encodeFrame,
  parseAnswer,
  parseRequest,
  type WriterAnswer,
  type WriterRequest,
} from '../../../src/delivery/writer-wire.ts';

const text = fc.string({ unit: 'binary', maxLength: 20 }).map(one => one.toWellFormed());
const request: fc.Arbitrary<{ readonly header: WriterRequest; readonly body: Buffer }> = fc.oneof(
  fc.constant({ header: { kind: 'ping' } as const, body: Buffer.alloc(0) }),
  text.map(user => ({ header: { kind: 'verify', user } as const, body: Buffer.alloc(0) })),
  fc
    .tuple(text, text, text, text, fc.boolean(), fc.uint8Array({ maxLength: 60 }))
    .map(([user, name, from, to, again, bytes]) => ({
      header: { kind: 'deliver', user, name, from, to, again, bytes: bytes.length } as const,
      body: Buffer.from(bytes),
    })),
);
const answer: fc.Arbitrary<WriterAnswer> = fc.oneof(
  fc.constant({ kind: 'pong' } as const),
  fc.tuple(fc.boolean(), text).map(([already, file]) => ({ kind: 'done', already, file }) as const),
  fc
    .constantFrom('present', 'absent', 'unknown')
    .map(presence => ({ kind: 'presence', presence }) as WriterAnswer),
  fc
    .tuple(fc.constantFrom(...failureKinds), text, fc.boolean())
    .map(
      ([kind, why, mayBeThere]) =>
        ({ kind: 'failure', failure: { kind, text: why }, mayBeThere }) as WriterAnswer,
    ),
);

function split(bytes: Buffer, cuts: readonly number[]): readonly Buffer[] {
  const points = [0, ...cuts.map(cut => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return points.slice(1).map((point, i) => bytes.subarray(points[i] ?? 0, point));
}

describe('frames', () => {
  test('of requests come out as they went in, with their bodies, at any split', () => {
    fc.assert(
      fc.property(
        fc.array(request, { maxLength: 4 }),
        fc.array(fc.nat(5000), { maxLength: 8 }),
        (all, cuts) => {
          const bytes = Buffer.concat(all.flatMap(({ header, body }) => [encodeFrame(header), body]));
          const reader = createFrameReader(parseRequest);
          const out: { header: WriterRequest; body: Buffer; ended: boolean }[] = [];
          for (const piece of split(bytes, cuts)) {
            for (const event of reader.push(piece) ?? assert.fail('refused')) {
              const last = out.at(-1);
              if (event.kind === 'header')
                out.push({ header: event.header, body: Buffer.alloc(0), ended: false });
              else if (last === undefined || last.ended) assert.fail(`${event.kind} without a header`);
              else if (event.kind === 'body') last.body = Buffer.concat([last.body, event.bytes]);
              else last.ended = true;
            }
          }
          assert.deepEqual(
            out,
            all.map(one => ({ ...one, ended: true })),
          );
        },
      ),
    );
  });

  test('of answers come out as they went in, byte by byte', () => {
    fc.assert(
      fc.property(answer, one => {
        const reader = createFrameReader(parseAnswer);
        const events = [...encodeFrame(one)].flatMap(byte => reader.push(Buffer.from([byte])) ?? []);
        assert.deepEqual(events, [{ kind: 'header', header: one }, { kind: 'end' }]);
      }),
    );
  });

  test('of another version, or of no version at all, are refused at their first wrong byte, for good', () => {
    const good = encodeFrame({ kind: 'ping' });
    for (let at = 0; at < 4; at += 1) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] ?? 0) ^ 1;
      const reader = createFrameReader(parseRequest);
      for (let i = 0; i < at; i += 1) assert.deepEqual(reader.push(bad.subarray(i, i + 1)), []);
      assert.equal(reader.push(bad.subarray(at, at + 1)), null);
      assert.equal(reader.push(good), null);
    }
  });

  test('whose header is too long are refused before it is read', () => {
    const frame = encodeFrame({ kind: 'verify', user: 'x'.repeat(20_000) });
    assert.equal(createFrameReader(parseRequest).push(frame.subarray(0, 8)), null);
  });

  test('of garbage never pass and never throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), garbage => {
        const head = encodeFrame({ kind: 'ping' }).subarray(0, 4);
        for (const bytes of [Buffer.from(garbage), Buffer.concat([head, garbage])]) {
          const events = createFrameReader(parseRequest).push(bytes) ?? [];
          assert.deepEqual(events, []);
        }
      }),
    );
  });
});

describe('headers', () => {
  const deliver = { kind: 'deliver', user: 'u', name: 'n', from: '', to: 't', again: false, bytes: 3 };
  test('that lack something or have the wrong kind of it are refused', () => {
    assert.deepEqual(parseRequest(deliver), deliver);
    for (const key of Object.keys(deliver)) {
      for (const wrong of [undefined, null, {}, Number.NaN, -1, 1.5, 2 ** 60]) {
        assert.equal(parseRequest({ ...deliver, [key]: wrong }), null, `${key} ${String(wrong)}`);
      }
    }
    for (const other of [null, 1, 'deliver', [], {}, { kind: 'delete', user: 'u' }])
      assert.equal(parseRequest(other), null);
  });

  test('of answers likewise: an unknown failure, or a presence of another word', () => {
    for (const other of [
      null,
      { kind: 'done', already: 1, file: '' },
      { kind: 'presence', presence: 'maybe' },
      { kind: 'failure', failure: { kind: 'toString' }, mayBeThere: false },
      { kind: 'failure', failure: null, mayBeThere: false },
      { kind: 'failure', failure: { kind: 'io-error' } },
    ]) {
      assert.equal(parseAnswer(other), null);
    }
  });

  test('carry nothing that was not asked for', () => {
    assert.deepEqual(parseRequest({ ...deliver, path: '/etc', uid: 0 }), deliver);
  });
});
