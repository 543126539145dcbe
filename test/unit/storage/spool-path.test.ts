/**
 * A user's name becomes a path below the spool root, or is refused: never anything else.
 */
import assert from 'node:assert/strict';
import { normalize } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  isPerUser,
  parseSpoolTemplate,
  type SpoolTemplate,
  spoolPath,
} from '../../../src/storage/spool-path.ts';

function template(text: string): SpoolTemplate {
  const parsed = parseSpoolTemplate(text);
  assert.ok(parsed.ok, text);
  return parsed.template;
}

const usual = template('/srv/mail/{domain}/{local}/Maildir');

describe('the path of a user', () => {
  for (const [text, user, expected] of [
    ['/srv/mail/{domain}/{local}/Maildir', 'joe@example.org', ['/srv/mail', 'example.org', 'joe', 'Maildir']],
    ['/srv/mail/{user}', 'joe@example.org', ['/srv/mail', 'joe@example.org']],
    ['/home/{local}/Maildir', 'joe', ['/home', 'joe', 'Maildir']],
    ['/srv/v-{domain}-x/{local}', 'a@b', ['/srv', 'v-b-x', 'a']],
    ['/srv/{local}/', 'a', ['/srv', 'a']],
    ['/{local}', 'a', ['/', 'a']],
    ['/srv/{local}', 'o"dd@at@b', ['/srv', 'o"dd@at']],
    ['/srv/{local}', 'jürgen@b', ['/srv', 'jürgen']],
    ['/srv/{local}', 'a+b=c d%2f', ['/srv', 'a+b=c d%2f']],
  ] as const) {
    test(`of ${user} in ${text} is ${expected.join(' ')}`, () => {
      const path = spoolPath(template(text), user);
      assert.ok(path.ok);
      assert.deepEqual([path.root, ...path.folders], expected);
      assert.equal(path.path, expected.join('/').replace('//', '/'));
    });
  }

  for (const user of [
    '..@example.org',
    '../../etc/passwd@example.org',
    '.@example.org',
    '.ssh@example.org',
    '...@example.org',
    'a/b@example.org',
    '/@example.org',
    'a\0@example.org',
    'a\n@example.org',
    'a\u0085@example.org',
    '@example.org',
    'joe@..',
    'joe@.hidden',
    'joe@a/../b',
    'joe@',
    'joe',
    '',
    `${'x'.repeat(256)}@example.org`,
    `${'ü'.repeat(128)}@example.org`,
    'a\ud800@example.org',
  ]) {
    test(`is refused for ${JSON.stringify(user.slice(0, 40))}`, () => {
      assert.equal(spoolPath(usual, user).ok, false);
    });
  }

  test('keeps upper and lower case as the canonical user has it: the node looks under exactly this name', () => {
    const upper = spoolPath(usual, 'Joe@example.org');
    const lower = spoolPath(usual, 'joe@example.org');
    assert.ok(upper.ok && lower.ok);
    assert.notEqual(upper.path, lower.path);
  });

  test('is filled in once only: braces in a name are a name', () => {
    const path = spoolPath(usual, '{domain}@example.org');
    assert.ok(path.ok);
    assert.deepEqual(path.folders, ['example.org', '{domain}', 'Maildir']);
  });

  test('never leaves the root, and differs for different users', () => {
    const part = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 12 }),
      fc.array(fc.constantFrom('.', '/', '\0', '\\', '%2e', '~', '@', 'a', '{user}'), { maxLength: 6 }),
    );
    const hostile = fc
      .tuple(part, part)
      .map(([local, domain]) => `${[local].flat().join('')}@${[domain].flat().join('')}`);
    const seen = new Map<string, string>();
    fc.assert(
      fc.property(hostile, user => {
        const path = spoolPath(usual, user);
        if (!path.ok) return;
        assert.equal(normalize(path.path), path.path);
        assert.match(path.path, /^\/srv\/mail\/[^/\0]+\/[^/\0]+\/Maildir$/u);
        const other = seen.get(path.path);
        assert.ok(other === undefined || other === user, `${other} and ${user}`);
        seen.set(path.path, user);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('a template', () => {
  for (const [text, why] of [
    ['srv/{user}', 'absolute'],
    ['/srv/{uid}', '{uid}'],
    ['/srv/{user', 'brace'],
    ['/srv/{{user}}', 'brace'],
    ['/srv/../{user}', '..'],
    ['/srv/./{user}', '.'],
    ['/srv/\0/{user}', 'NUL'],
  ] as const) {
    test(`is refused: ${JSON.stringify(text)}`, () => {
      const parsed = parseSpoolTemplate(text);
      assert.ok(!parsed.ok);
      assert.ok(parsed.why.includes(why), parsed.why);
    });
  }

  test('that gives all users one folder is told apart', () => {
    assert.equal(isPerUser(template('/srv/mail/{domain}')), false);
    assert.equal(isPerUser(template('/srv/mail')), false);
    assert.equal(isPerUser(usual), true);
  });
});
