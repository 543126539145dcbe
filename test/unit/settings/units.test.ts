/**
 * Durations, sizes, "did you mean", and values in one line of YAML.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parse } from 'yaml';
import { formatDuration, parseDuration } from '../../../src/settings/duration.ts';
import { inline } from '../../../src/settings/inline.ts';
import { editDistance, nearest } from '../../../src/settings/nearest.ts';
import { readAddress } from '../../../src/settings/read.ts';
import { formatSize, parseSize } from '../../../src/settings/size.ts';

const valueIn = (read: { ok: boolean; value?: unknown }): unknown => (read.ok ? read.value : null);
const faultOf = (read: ReturnType<typeof parseDuration>): string =>
  read.ok ? 'no fault' : read.faults.map(f => `${f.why}; ${f.right}`).join();

describe('durations', () => {
  for (const [text, ms] of [
    ['800ms', 800],
    ['1s', 1000],
    ['1.5s', 1500],
    ['5m', 300_000],
    ['24h', 86_400_000],
    ['5d', 432_000_000],
    [' 10 s ', 10_000],
    ['0s', 0],
    ['0.1ms', 0.1],
  ] as const) {
    test(`${text} is ${ms} ms`, () => assert.equal(valueIn(parseDuration(text)), ms));
  }

  test('a bare number is refused and told with both units', () => {
    assert.match(faultOf(parseDuration(5)), /5 has no unit; write 5s or 5ms/);
    assert.match(faultOf(parseDuration('5')), /5 has no unit; write 5s or 5ms/);
  });

  test('nonsense, negative, endless and unknown units are refused, never NaN', () => {
    for (const bad of [
      '',
      's',
      '-1s',
      '1e3s',
      '1w',
      '1S',
      '1M',
      '101d',
      '0x10s',
      '9'.repeat(400),
      null,
      undefined,
      true,
      [],
      {},
      Number.NaN,
    ]) {
      assert.equal(parseDuration(bad).ok, false, String(bad));
    }
    assert.match(faultOf(parseDuration('1w')), /"w" is not a unit of time; the units are/);
  });

  test('what is formatted reads back as the same', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 8_640_000_000 }),
        ms => valueIn(parseDuration(formatDuration(ms))) === ms,
      ),
    );
  });

  test('any input at all gets an answer, not an exception', () => {
    fc.assert(
      fc.property(
        fc.anything(),
        input => typeof parseDuration(input).ok === 'boolean' && typeof parseSize(input).ok === 'boolean',
      ),
    );
  });
});

describe('sizes', () => {
  for (const [text, bytes] of [
    ['512B', 512],
    ['64KiB', 65_536],
    ['64kib', 65_536],
    ['10MiB', 10_485_760],
    ['1GB', 1_000_000_000],
    ['1.5KiB', 1536],
  ] as const) {
    test(`${text} is ${bytes} bytes`, () => assert.equal(valueIn(parseSize(text)), bytes));
  }

  test('a bare number and an unknown unit are refused', () => {
    assert.match(faultOf(parseSize(10)), /10 has no unit; write 10B or 10MiB/);
    assert.match(faultOf(parseSize('10X')), /"X" is not a unit of size/);
    for (const bad of [-1, '-1B', '1e9B', '999999999999TiB', null, {}])
      assert.equal(parseSize(bad).ok, false);
  });

  test('what is formatted reads back as the same', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 50 }), n => valueIn(parseSize(formatSize(n))) === n),
    );
  });
});

describe('did you mean', () => {
  test('near words are found, case and dashes do not matter, far ones are not', () => {
    const keys = ['interval', 'timeout', 'rise', 'fall', 'greetingTimeout'];
    assert.equal(nearest('intervall', keys), 'interval');
    assert.equal(nearest('greeting-timeout', keys), 'greetingTimeout');
    assert.equal(nearest('TIMEOUT', keys), 'timeout');
    assert.equal(nearest('ries', keys), 'rise');
    assert.equal(nearest('xyz', keys), null);
    assert.equal(nearest('', keys), null);
  });

  test('the distance is symmetric, zero for the same word, and never more than the longer word', () => {
    const word = fc.string({ maxLength: 12 });
    fc.assert(
      fc.property(word, word, (a, b) => {
        const d = editDistance(a, b);
        assert.equal(d, editDistance(b, a));
        assert.equal(editDistance(a, a), 0);
        assert.ok(d <= Math.max(a.length, b.length));
      }),
    );
  });
});

describe('addresses', () => {
  test('IPv4 and bracketed IPv6 with a port are taken apart', () => {
    assert.deepEqual(valueIn(readAddress('0.0.0.0:143')), { address: '0.0.0.0', port: 143 });
    assert.deepEqual(valueIn(readAddress('[::1]:993')), { address: '::1', port: 993 });
  });

  test('names, missing ports, wrong brackets and ports beyond 65535 are refused', () => {
    for (const bad of [
      'localhost:143',
      '143',
      ':143',
      '*:143',
      '127.0.0.1',
      '::1:143',
      '[127.0.0.1]:143',
      '127.0.0.1:65536',
      '256.1.1.1:1',
      '127.0.0.1:-1',
      '',
    ]) {
      assert.equal(readAddress(bad).ok, false, bad);
    }
  });
});

test('a value in one line of YAML reads back as the same value', () => {
  const value = fc.letrec(tie => ({
    v: fc.oneof(
      { maxDepth: 3 },
      fc.string(),
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
      fc.array(tie('v'), { maxLength: 3 }),
    ),
  })).v;
  fc.assert(fc.property(value, v => assert.deepEqual(parse(inline(v)), v)));
  for (const word of ['on', 'off', 'null', '1', '1.5', '~', '-', '+', '*', 'a: b', '1e3', '0x1', '.5', 'y']) {
    assert.equal(parse(inline(word)), word);
  }
});
