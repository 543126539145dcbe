/** One person has one name, whatever they typed and wherever; hostile names have none. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { affinityKey, canonicalUser, type UserRules } from '../../../src/core/canonical.ts';

const rules: UserRules = {
  defaultDomain: 'example.org',
  domains: new Set(['example.org']),
  detail: '+',
  masterSeparator: '*',
  affinity: 'user',
  aliases: new Map([
    ['info@example.org', 'ann@example.org'],
    ['sales@example.org', 'INFO@example.org'],
    ['loop@example.org', 'pool@example.org'],
    ['pool@example.org', 'loop@example.org'],
    ['evil@example.org', '../etc/passwd'],
    ['self@example.org', 'self@example.org'],
  ]),
};

function userOf(raw: string, by: UserRules = rules): string {
  const found = canonicalUser(raw, by);
  return found.ok ? found.user : `refused: ${found.why}`;
}

describe('canonical user', () => {
  const same: readonly (readonly [string, string])[] = [
    ['joe', 'joe@example.org'],
    ['JOE', 'joe@example.org'],
    ['Joe@Example.ORG', 'joe@example.org'],
    ['joe+lists', 'joe@example.org'],
    ['joe+lists+more@example.org', 'joe@example.org'],
    ['joe+@example.org', 'joe@example.org'],
    ['joe*admin', 'joe@example.org'],
    ['joe+x*admin', 'joe@example.org'],
    ['joe@example.org*admin', 'joe@example.org'],
    ['joe@example.org*admin@corp.example', 'joe@example.org'],
    ['joe*admin@example.org', 'joe@example.org'],
    ['"joe"@example.org', 'joe@example.org'],
    ['"joe"', 'joe@example.org'],
    ['"j\\oe+x"@example.org', 'joe@example.org'],
    ['+joe@example.org', '+joe@example.org'],
    ['*@example.org', '*@example.org'],
    ['joe@other.example', 'joe@other.example'],
    ['JO\u0308RG@example.org', 'jörg@example.org'],
    ['JÖRG@example.org', 'jörg@example.org'],
    ['ΟΔΟΣ@example.org', 'οδος@example.org'],
    ['joe@MÜNCHEN.example', 'joe@münchen.example'],
    ['info', 'ann@example.org'],
    ['Sales+x@example.org', 'ann@example.org'],
    ['self', 'self@example.org'],
    ['a b@example.org', 'a b@example.org'],
    ['"a b"@example.org', 'a b@example.org'],
  ];
  for (const [raw, user] of same) test(`${raw} is ${user}`, () => assert.equal(userOf(raw), user));

  const hostile: readonly (readonly [string, string])[] = [
    ['', 'nothing'],
    ['joe\0', 'NUL'],
    ['joe\r\nRCPT TO:<x@y>', 'a line end'],
    ['joe\x7f', 'DEL'],
    ['joe\x85', 'a C1 control'],
    ['joe\u2028', 'a line separator'],
    ['joe\u200b', 'a zero width space'],
    ['joe\u202e', 'a direction override'],
    ['joe\u00a0x', 'a no-break space'],
    ['\ud800joe', 'a lone high surrogate'],
    ['joe\udfff', 'a lone low surrogate'],
    ['joe\u0378', 'an unassigned code point'],
    ['joe\uffff', 'a noncharacter'],
    ['../joe', 'a path'],
    ['a/b@example.org', 'a slash'],
    ['a\\b', 'a backslash'],
    ['..', 'two dots'],
    ['.', 'a dot'],
    ['.homing', 'a leading dot'],
    ['a..b@example.org', 'two dots within'],
    ['joe@..', 'a domain of dots'],
    ['joe@.example.org', 'a domain with a leading dot'],
    ['joe@example.org.', 'a domain with a final dot'],
    ['joe@example/org', 'a domain with a slash'],
    ['joe@[127.0.0.1]', 'an address literal'],
    ['joe@exa mple.org', 'a domain with a space'],
    ['@example.org', 'only a domain'],
    ['joe@', 'an empty domain'],
    ['@', 'only an @'],
    ['a@b@example.org', 'two @'],
    ['"a@b"@example.org', 'a quoted @'],
    ['"joe@example.org*x"@strange.example', 'a quoted name that would change its domain'],
    ['"joe', 'an open quote'],
    ['jo"e@example.org', 'a quote within'],
    ['"a\\"b"@example.org', 'an escaped quote'],
    ['"a\\\\b"@example.org', 'an escaped backslash'],
    ['"../x"@example.org', 'a quoted path'],
    ['""@example.org', 'an empty quoted name'],
    [' joe', 'a leading space'],
    ['joe @example.org', 'a space before the @'],
    [`${'a'.repeat(255)}@example.org`, 'too many characters'],
    [`${'ü'.repeat(122)}@example.org`, 'too many bytes'],
    ['a'.repeat(250), 'a name too long with its default domain'],
    ['loop', 'an alias loop'],
    ['evil', 'an alias that leads to a path'],
  ];
  for (const [raw, what] of hostile) {
    test(`refuses ${what}`, () => assert.equal(canonicalUser(raw, rules).ok, false, userOf(raw)));
  }

  test('keeps detail, local and domain apart', () => {
    assert.deepEqual(canonicalUser('Joe+Lists.A@Example.org', rules), {
      ok: true,
      user: 'joe@example.org',
      detail: 'Lists.A',
      domain: 'example.org',
      local: 'joe',
    });
    assert.deepEqual(canonicalUser('info+x', rules), {
      ok: true,
      user: 'ann@example.org',
      detail: 'x',
      domain: 'example.org',
      local: 'ann',
    });
  });

  test('without detail, master separator and default domain, a name is only folded', () => {
    const bare: UserRules = {
      ...rules,
      defaultDomain: '',
      detail: '',
      masterSeparator: '',
      aliases: new Map(),
    };
    assert.equal(userOf('Joe+X*y', bare), 'joe+x*y');
    assert.equal(userOf('joe@example.org', bare), 'joe@example.org');
  });

  test('several delimiters each begin the detail, as in Postfix and Dovecot', () => {
    const both = { ...rules, detail: '+-' };
    assert.equal(userOf('joe-a+b', both), 'joe@example.org');
    assert.equal(userOf('joe+a-b', both), 'joe@example.org');
  });

  /** Names with everything that means something, and anything else. */
  const spicy = fc.string({
    unit: fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...'abzAZ09.+*@"\\/ -_ßİıΣςſKÅéÉ') },
      {
        weight: 1,
        arbitrary: fc.constantFrom('\u0301', '\u0308', '\u0345', '\u200d', '\u1e9e', 'ǅ', '\u0130', '\u03f4'),
      },
      { weight: 1, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }) },
    ),
    maxLength: 30,
  });

  test('is its own canonical form, well formed, bounded and harmless in a path, whatever was typed', () => {
    fc.assert(
      fc.property(spicy, raw => {
        const found = canonicalUser(raw, rules);
        if (!found.ok) return;
        const again = canonicalUser(found.user, rules);
        assert.deepEqual(again, { ...found, detail: '' });
        assert.ok(found.user.isWellFormed() && Buffer.byteLength(found.user) <= 255);
        assert.equal(found.user, `${found.local}@${found.domain}`);
        assert.doesNotMatch(found.user, /[\p{Cc}\p{Cs}/\\"]|\.\.|^\./u);
        assert.equal(found.user.normalize('NFC').toLowerCase(), found.user);
      }),
      { numRuns: 5000 },
    );
  });

  test('is the same for a login and for every spelling of the address', () => {
    const name = fc.stringMatching(/^[a-z0-9ä\u00e9][a-z0-9._äé-]{0,10}$/);
    fc.assert(
      fc.property(name, fc.constantFrom('', '+x', '+X.y+z'), (local, detail) => {
        fc.pre(!local.includes('..'));
        const login = userOf(local);
        const decomposed = local.normalize('NFD');
        const spellings = [
          `${local}${detail}@example.org`,
          `${local.toUpperCase()}${detail}@EXAMPLE.ORG`,
          `"${decomposed}${detail}"@Example.Org`,
          `${decomposed}${detail}`,
          `${local}${detail}*admin`,
          `${local}${detail}@example.org*admin`,
        ];
        for (const spelling of spellings) assert.equal(userOf(spelling), login, spelling);
      }),
    );
  });

  test('never throws, and says why in words that hold nothing of the name', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 400 }), raw => {
        const found = canonicalUser(raw, rules);
        if (!found.ok) assert.match(found.why, /^[a-zA-Z0-9@ ,]+$/);
      }),
    );
  });

  test('100,000 names take a fraction of a second', () => {
    const start = performance.now();
    for (let i = 0; i < 100_000; i += 1) canonicalUser(`User${i}+x@Example.org`, rules);
    const ms = performance.now() - start;
    assert.ok(ms < 1500, `${ms} ms`);
  });
});

describe('affinity key', () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['user', 'joe@example.org', 'joe@example.org'],
    ['domain', 'joe@example.org', 'example.org'],
    ['domain', 'root', 'root'],
    ['{local}', 'joe@example.org', 'joe'],
    ['{domain}/{local}', 'joe@example.org', 'example.org/joe'],
    ['{user}', 'joe@example.org', 'joe@example.org'],
    ['{local}', '{domain}@example.org', '{domain}'],
  ];
  for (const [affinity, user, key] of cases) {
    test(`${affinity} of ${user} is ${key}`, () => assert.equal(affinityKey(user, { affinity }), key));
  }
});
