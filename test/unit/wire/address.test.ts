/** Envelope addresses: what the RFC allows, what clients really send, and what must never get through. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { encodeMailbox, parseMailbox, parsePath } from '../../../src/wire/address.ts';

const good: readonly {
  readonly argument: string;
  readonly side: 'from' | 'to';
  readonly address: string | null;
  readonly params?: Record<string, string>;
}[] = [
  { argument: '<joe@example.org>', side: 'to', address: 'joe@example.org' },
  { argument: ' <joe@Example.ORG>  ', side: 'to', address: 'joe@example.org' },
  { argument: '<>', side: 'from', address: null },
  {
    argument: '<> SIZE=12 body=8BITMIME',
    side: 'from',
    address: null,
    params: { SIZE: '12', BODY: '8BITMIME' },
  },
  { argument: '<@relay.example,@b.example:joe@example.org>', side: 'to', address: 'joe@example.org' },
  { argument: '<postmaster>', side: 'to', address: 'postmaster' },
  { argument: '<PostMaster>', side: 'to', address: 'PostMaster' },
  { argument: '<"joe"@example.org>', side: 'to', address: 'joe@example.org' },
  { argument: '<"joe smith"@example.org>', side: 'to', address: '"joe smith"@example.org' },
  { argument: '<"a\\"b\\\\c"@example.org>', side: 'to', address: '"a\\"b\\\\c"@example.org' },
  {
    argument: '<"a>b@c"@example.org> SIZE=1',
    side: 'to',
    address: '"a>b@c"@example.org',
    params: { SIZE: '1' },
  },
  {
    argument: '<jürgen@bücher.example> SMTPUTF8',
    side: 'from',
    address: 'jürgen@bücher.example',
    params: { SMTPUTF8: '' },
  },
  { argument: '<joe@[192.0.2.1]>', side: 'to', address: 'joe@[192.0.2.1]' },
  { argument: '<joe@[ipv6:2001:DB8::1]>', side: 'to', address: 'joe@[IPv6:2001:db8::1]' },
  { argument: '<joe..smith.@docomo.example>', side: 'from', address: 'joe..smith.@docomo.example' },
  { argument: `<${'v'.repeat(100)}@example.org>`, side: 'from', address: `${'v'.repeat(100)}@example.org` },
  { argument: '<joe@under_score.example>', side: 'to', address: 'joe@under_score.example' },
];

const bad: readonly { readonly argument: string; readonly side: 'from' | 'to'; readonly why: RegExp }[] = [
  { argument: '<>', side: 'to', why: /no domain/ },
  { argument: 'joe@example.org', side: 'to', why: /angle brackets/ },
  { argument: '<joe@example.org', side: 'to', why: /angle brackets/ },
  { argument: '<<joe@example.org>>', side: 'to', why: /angle brackets/ },
  { argument: '<joe@example.org>SIZE=1', side: 'from', why: /space/ },
  { argument: '<joe@example.org> SIZE=1 SIZE=2', side: 'from', why: /twice/ },
  { argument: '<joe@example.org> =1', side: 'from', why: /bad parameter/ },
  {
    argument: `<joe@example.org>${' A'.repeat(1)}${Array.from({ length: 20 }, (_, n) => ` K${n}`).join('')}`,
    side: 'from',
    why: /too many/,
  },
  { argument: '<joe smith@example.org>', side: 'to', why: /local part/ },
  { argument: '<joe@exa mple.org>', side: 'to', why: /domain/ },
  { argument: '<joe@>', side: 'to', why: /domain/ },
  { argument: '<@example.org>', side: 'to', why: /local part/ },
  { argument: '<joe@example..org>', side: 'to', why: /domain/ },
  { argument: '<joe@[300.1.1.1]>', side: 'to', why: /domain/ },
  { argument: '<joe@[]>', side: 'to', why: /domain/ },
  { argument: '<""@example.org>', side: 'to', why: /local part/ },
  { argument: '<"joe"x@example.org>', side: 'to', why: /local part/ },
  { argument: '<joe\u0000@example.org>', side: 'to', why: /control/ },
  { argument: '<joe\r\nRCPT TO:<x@y>@example.org>', side: 'to', why: /control/ },
  { argument: '<"joe\nsmith"@example.org>', side: 'to', why: /control/ },
  { argument: '<joe\u202egro@example.org>', side: 'to', why: /invisible/ },
  { argument: '<joe\ud800@example.org>', side: 'to', why: /control/ },
  { argument: `<${'l'.repeat(65)}@example.org>`, side: 'to', why: /longer than 64/ },
  {
    argument: `<l@${'d'.repeat(60)}.${'d'.repeat(60)}.${'d'.repeat(60)}.${'d'.repeat(70)}.example>`,
    side: 'to',
    why: /longer than 254/,
  },
];

describe('an envelope address', () => {
  for (const { argument, side, address, params = {} } of good) {
    test(`${side} ${argument} is taken`, () => {
      const parsed = parsePath(argument, side);
      assert.ok(parsed.ok, parsed.ok ? '' : parsed.why);
      assert.equal(parsed.value.mailbox?.address ?? null, address);
      assert.deepEqual(Object.fromEntries(parsed.value.params), params);
    });
  }

  for (const { argument, side, why } of bad) {
    test(`${side} ${JSON.stringify(argument).slice(0, 60)} is refused`, () => {
      const parsed = parsePath(argument, side);
      assert.ok(!parsed.ok);
      assert.match(parsed.why, why);
    });
  }

  test('only a name beyond ASCII asks for SMTPUTF8', () => {
    const plain = parseMailbox('joe@example.org');
    const utf8 = parseMailbox('jürgen@example.org');
    assert.ok(plain.ok && utf8.ok);
    assert.deepEqual([plain.value.utf8, utf8.value.utf8], [false, true]);
  });

  test('whatever is accepted has one safe spelling, which means the same when read again', () => {
    const char = fc.constantFrom(
      'a',
      'Z',
      '0',
      '.',
      '@',
      '"',
      '\\',
      ' ',
      '<',
      '>',
      ',',
      'ü',
      '[',
      ']',
      ':',
      '\t',
      '\0',
      '=',
    );
    const text = fc.array(char, { maxLength: 20 }).map(chars => chars.join(''));
    fc.assert(
      fc.property(text, text, (local, domain) => {
        for (const raw of [`${local}@${domain}`, `"${local}"@${domain}`, `${local}@example.org`]) {
          const first = parseMailbox(raw);
          if (!first.ok) continue;
          const { address } = first.value;
          assert.match(address, /^(?:[^\s"<>@,\\]+|"(?:[^"\\\p{Cc}]|\\["\\])+")@[^\s"<>@,\\]+$/u);
          assert.deepEqual(parseMailbox(address), first);
          const path = parsePath(`<${address}> SIZE=1`, 'to');
          assert.ok(path.ok);
          assert.equal(path.value.mailbox?.address, address);
        }
      }),
      { numRuns: 5000 },
    );
  });

  test('any local part without controls survives being quoted', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('a', '"', '\\', ' ', '@', '>', 'é'), minLength: 1, maxLength: 30 }),
        local => {
          const parsed = parseMailbox(encodeMailbox(local, 'example.org'));
          assert.ok(parsed.ok);
          assert.equal(parsed.value.local, local);
        },
      ),
    );
  });
});
