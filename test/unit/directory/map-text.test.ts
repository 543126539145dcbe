/** An operator's mistake is named with its line and its cure; what is right is taken as it is meant. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { UserRules } from '../../../src/core/canonical.ts';
import { checkMapRegex } from '../../../src/directory/map-regex.ts';
import { checkTargets, parseMapText } from '../../../src/directory/map-text.ts';

const rules: UserRules = {
  defaultDomain: 'example.org',
  domains: new Set(['example.org']),
  detail: '+',
  masterSeparator: '*',
  affinity: 'user',
  aliases: new Map([['info@example.org', 'ann@example.org']]),
};

const parse = (text: string) => parseMapText(text, 'users.map', rules);

describe('map file', () => {
  const good: readonly (readonly [string, unknown, unknown])[] = [
    ['joe -> mail1', { kind: 'user', user: 'joe@example.org' }, { node: 'mail1' }],
    ['Joe@Example.ORG->mail1', { kind: 'user', user: 'joe@example.org' }, { node: 'mail1' }],
    ['  joe@x.example\t->\tpool:big  ', { kind: 'user', user: 'joe@x.example' }, { pool: 'big' }],
    ['joe -> mail1 # since the move', { kind: 'user', user: 'joe@example.org' }, { node: 'mail1' }],
    ['joe#1 -> mail1', { kind: 'user', user: 'joe#1@example.org' }, { node: 'mail1' }],
    ['j o e -> mail1', { kind: 'user', user: 'j o e@example.org' }, { node: 'mail1' }],
    ['info -> mail1', { kind: 'user', user: 'info@example.org' }, { node: 'mail1' }],
    ['@Example.NET -> mail.1-a_b', { kind: 'domain', domain: 'example.net' }, { node: 'mail.1-a_b' }],
    ['/^t[0-9]+@/ -> mail1', { kind: 'regex', source: '^t[0-9]+@' }, { node: 'mail1' }],
    ['/a->b#c/ -> mail1', { kind: 'regex', source: 'a->b#c' }, { node: 'mail1' }],
    ['/a\\/b[/]\\S/ -> pool:p # x', { kind: 'regex', source: 'a\\/b[/]\\S' }, { pool: 'p' }],
    ['joe -> mail1\r', { kind: 'user', user: 'joe@example.org' }, { node: 'mail1' }],
    ['\ufeffjoe -> mail1', { kind: 'user', user: 'joe@example.org' }, { node: 'mail1' }],
  ];
  for (const [text, pattern, target] of good) {
    test(`takes ${JSON.stringify(text)}`, () => {
      assert.deepEqual(parse(text), { lines: [{ file: 'users.map', line: 1, pattern, target }], errors: [] });
    });
  }

  const wrong: readonly (readonly [string, RegExp])[] = [
    ['joe mail1', /has no ->; a line is: user, @domain or \/regex\/, then ->/],
    ['joe', /has no ->/],
    ['-> mail1', /no user before/],
    ['joe ->', /names no node after/],
    ['joe -> # later', /names no node after/],
    ['joe -> mail 1', /no node’s name/],
    ['joe -> mail1 mail2', /no node’s name/],
    ['joe -> mail1 -> mail2', /no node’s name/],
    ['joe -> pool: big', /without spaces/],
    ['joe -> pool:', /no node’s name/],
    ['joe -> ../x', /no node’s name/],
    ['joe+lists -> mail1', /means joe@example.org; write that/],
    ['joe*admin -> mail1', /means joe@example.org; write that/],
    ['"joe" -> mail1', /means joe@example.org; write that/],
    ['../joe -> mail1', /slash/],
    ['a@b@c -> mail1', /misplaced quote or @/],
    ['jo\0e -> mail1', /control/],
    ['@ -> mail1', /write @example.org/],
    ['@a..b -> mail1', /write @example.org/],
    ['@a@b -> mail1', /write @example.org/],
    ['/abc -> mail1', /no closing slash/],
    ['// -> mail1', /empty/],
    ['/(/ -> mail1', /no regex/],
    ['/a/i -> mail1', /no flags/],
    ['/a/ mail1', /-> must follow/],
    ['/^Joe/ -> mail1', /upper case/],
    ['/(a+)+$/ -> mail1', /very long/],
    [`${'x'.repeat(3000)} -> mail1`, /longer than 2000/],
    [`/${'x'.repeat(600)}/ -> mail1`, /longer than 500/],
  ];
  for (const [text, message] of wrong) {
    test(`names what is wrong in ${JSON.stringify(text.slice(0, 40))}`, () => {
      const { lines, errors } = parse(`# first\n\n${text}\n`);
      assert.deepEqual(lines, []);
      assert.deepEqual(
        errors.map(error => [error.file, error.line]),
        [['users.map', 3]],
      );
      assert.match(errors[0]?.message ?? '', message);
    });
  }

  test('tells all errors of a file with their lines, and where a pattern stood before', () => {
    const { errors } = parse(
      'joe -> mail1\nbad\n# c\nJOE@example.org -> mail1\n@a -> x\n@A -> y\n/q/ -> x\n/q/ -> x',
    );
    assert.deepEqual(
      errors.map(error => `${error.file}:${error.line} ${error.message.slice(0, 54)}`),
      [
        'users.map:2 has no ->; a line is: user, @domain or /regex/, then -',
        'users.map:4 joe@example.org stands already at users.map:1: remove ',
        'users.map:6 @a stands already at users.map:5: remove one of them',
        'users.map:8 /q/ stands already at users.map:7: remove one of them',
      ],
    );
  });

  test('an alias may be placed by its own name, which does not place the one it stands for', () => {
    assert.equal(parse('info -> mail1\nann -> mail2').errors.length, 0);
  });

  test('garbage ends in a bounded list of errors, not in a crash', () => {
    const { lines, errors } = parse('garbage\n'.repeat(50_000));
    assert.equal(lines.length, 0);
    assert.equal(errors.length, 101);
    assert.match(errors.at(-1)?.message ?? '', /more errors/);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), text => {
        const found = parse(text);
        assert.ok(found.errors.length <= 101 && found.lines.length <= 301);
      }),
    );
  });

  test('too many regexes are refused, since every login tries them', () => {
    const text = Array.from({ length: 1001 }, (_, i) => `/^u${i}@/ -> mail1`).join('\n');
    assert.deepEqual(
      parse(text).errors.map(error => error.line),
      [1001],
    );
  });

  test('100,000 lines are read in a fraction of a second', () => {
    const text = Array.from({ length: 100_000 }, (_, i) => `user${i}@example.org -> mail${i % 3}`).join('\n');
    const start = performance.now();
    const { lines, errors } = parse(text);
    assert.equal(lines.length, 100_000);
    assert.equal(errors.length, 0);
    assert.ok(performance.now() - start < 2000);
  });

  test('unknown nodes and pools are named with the known ones, and a pool taken for a node with its cure', () => {
    const { lines } = parse(
      'a -> mail1\nb -> mial1\nc -> pool:big\nd -> big\ne -> pool:mail1\nf -> pool:nix',
    );
    const nodes = [
      { name: 'mail1', pool: 'default' },
      { name: 'mail2', pool: 'big' },
    ];
    assert.deepEqual(
      checkTargets(lines, nodes).map(({ line, message }) => `${line}: ${message}`),
      [
        '2: no node is called mial1; known: mail1, mail2',
        '4: no node is called big; write pool:big',
        '5: no pool is called mail1; write mail1 alone',
        '6: no pool is called nix; known: default, big',
      ],
    );
  });
});

describe('map regex', () => {
  const quick = [
    '^[a-z]+@example\\.org$',
    '(foo|bar)@',
    '(foo|bar)?baz',
    '^test-(?:[0-9]{4}-)+x',
    '[+*(]+',
    '\\(a+\\)+',
    '(ab)+',
    '(a|b){2}',
    '.*@(?<dom>.*)',
    '\\p{Lu}',
    '(?<!x)y',
    '(?<=x)y',
    '[\\]+|]+a+',
  ];
  for (const source of quick) test(`takes ${source}`, () => assert.equal(checkMapRegex(source), null));

  const slow = [
    '(a+)+',
    '(a*)*',
    '(a|aa)+$',
    '((a+)b)*',
    '(?:x+y?)+',
    '(a{2,})+',
    '(.*){5}',
    '(a+){4,}',
    '(a)\\1',
    '(?<n>a)\\k<n>',
    '((a|b)c)+',
  ];
  for (const source of slow) test(`refuses ${source}`, () => assert.notEqual(checkMapRegex(source), null));
});
