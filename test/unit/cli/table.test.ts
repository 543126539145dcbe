/**
 * Tables fit the terminal, line up whatever script a name is in, and let no control character through.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ageText, printable, table, width } from '../../../src/cli/table.ts';

const head = [{ title: 'A' }, { title: 'B', align: 'right' as const }, { title: 'C' }];

describe('a table', () => {
  test('lines up its columns, numbers to the right, without blanks at line ends', () => {
    assert.deepEqual(
      table(
        head,
        [
          ['x', '1', 'yes'],
          ['longer', '100', ''],
        ],
        null,
      ),
      ['A         B  C', 'x         1  yes', 'longer  100'],
    );
  });

  test('cuts the widest column where the terminal ends', () => {
    const lines = table(head, [['a'.repeat(50), '1', 'b'.repeat(20)]], 40);
    assert.ok(
      lines.every(line => width(line) <= 40),
      lines.join('\n'),
    );
    assert.ok(lines[1]?.includes('…'));
  });

  test('counts wide and combining characters as terminals do', () => {
    assert.equal(width('日本'), 4);
    assert.equal(width('e\u0301'), 1);
    const lines = table(
      [{ title: 'USER' }, { title: 'X' }],
      [
        ['日本', '1'],
        ['ab', '2'],
      ],
      null,
    );
    assert.deepEqual(lines, ['USER  X', '日本  1', 'ab    2']);
  });

  test('never lets a control or direction character through, and never grows beyond a terminal that has room for its columns', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.string({ unit: 'binary' }), { maxLength: 3 }), { maxLength: 5 }),
        fc.integer({ min: 28, max: 200 }),
        (rows, columns) => {
          for (const line of table(head, rows, columns)) {
            assert.ok(!/[\p{Cc}\p{Cf}]/u.test(line));
            assert.ok(width(line) <= columns, `${width(line)} > ${columns}`);
          }
        },
      ),
    );
  });

  test('escapes are readable', () => assert.equal(printable('a\x1b\u202eb'), 'a\\x1b\\u{202e}b'));
});

test('ages are told in at most two units', () => {
  for (const [ms, text] of [
    [-5, '0 s'],
    [320, '0.3 s'],
    [61_000, '1 min 1 s'],
    [3_600_000, '1 h'],
    [93_784_000, '1 d 2 h'],
  ] as const) {
    assert.equal(ageText(ms), text);
  }
});
