import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  lhloCommand,
  mailCommand,
  type Offers,
  rcptCommand,
  readOffers,
} from '../../../src/wire/smtp-command.ts';

const none: Offers = {
  pipelining: false,
  eightBitMime: false,
  smtpUtf8: false,
  size: false,
  sizeLimitBytes: 0,
};
const all: Offers = { pipelining: true, eightBitMime: true, smtpUtf8: true, size: true, sizeLimitBytes: 0 };
const plain = { bytes: 120, eightBit: true, smtpUtf8: false };

describe('the envelope that goes to a node', () => {
  test('says only what the node offered', () => {
    assert.deepEqual(mailCommand({ from: 'a@x', ...plain }, none), { ok: true, line: 'MAIL FROM:<a@x>\r\n' });
    assert.deepEqual(mailCommand({ from: 'a@x', ...plain }, all), {
      ok: true,
      line: 'MAIL FROM:<a@x> SIZE=120 BODY=8BITMIME\r\n',
    });
    assert.deepEqual(mailCommand({ from: '', ...plain, eightBit: false }, all), {
      ok: true,
      line: 'MAIL FROM:<> SIZE=120\r\n',
    });
    assert.deepEqual(mailCommand({ from: 'é@x', ...plain }, all), {
      ok: true,
      line: 'MAIL FROM:<é@x> SIZE=120 BODY=8BITMIME SMTPUTF8\r\n',
    });
  });

  test('is read from the LHLO reply of Dovecot', () => {
    const offers = readOffers([
      'mail1',
      '8BITMIME',
      'CHUNKING',
      'ENHANCEDSTATUSCODES',
      'PIPELINING',
      'size 1000',
      'VRFY',
    ]);
    assert.deepEqual(offers, {
      pipelining: true,
      eightBitMime: true,
      smtpUtf8: false,
      size: true,
      sizeLimitBytes: 1000,
    });
    assert.deepEqual(readOffers(['PIPELINING']), none, 'the first line is a name, whatever it looks like');
  });

  test('a UTF-8 local part never goes to a node without SMTPUTF8; a UTF-8 domain goes as A-labels', () => {
    assert.deepEqual(rcptCommand('grüße@x', none), { ok: false, why: 'no-utf8-route' });
    assert.deepEqual(mailCommand({ from: 'grüße@x', ...plain }, none), { ok: false, why: 'no-utf8-route' });
    assert.deepEqual(rcptCommand('a@müller.example', none), {
      ok: true,
      line: 'RCPT TO:<a@xn--mller-kva.example>\r\n',
    });
    assert.deepEqual(rcptCommand('a@müller.example', all), {
      ok: true,
      line: 'RCPT TO:<a@müller.example>\r\n',
    });
  });

  test('quoted local parts and address literals pass as they are', () => {
    for (const address of [
      '"john doe"@x',
      '"a\\"b"@x',
      'u@[192.0.2.1]',
      'u@[IPv6:2001:db8::1]',
      'user',
      'a+b=c/d@x',
      "o'hara@x",
    ]) {
      assert.deepEqual(rcptCommand(address, none), { ok: true, line: `RCPT TO:<${address}>\r\n` });
    }
  });

  test('what could end the path or the line is refused', () => {
    const bad = [
      '',
      'a b@x',
      'a>b@x',
      '<a@x>',
      'a@x> SIZE=1',
      'a\r\nRSET@x',
      'a\n@x',
      '"a\r"@x',
      '"a"b"@x',
      'a@x y',
      'a@\u0000',
      'a@b@c',
      '"a',
      'a\u2028@x',
      '\ud800@x',
      'x'.repeat(1001),
    ];
    for (const address of bad)
      assert.deepEqual(rcptCommand(address, all), { ok: false, why: 'bad-address' }, JSON.stringify(address));
  });

  test('property: whatever the address, it is one line, ended by the only CRLF, with one path', () => {
    const nasty = fc.string({
      maxLength: 40,
      unit: fc.constantFrom(
        'a',
        '@',
        '"',
        '\\',
        '\r',
        '\n',
        '<',
        '>',
        ' ',
        'é',
        '\u0000',
        '.',
        '[',
        ']',
        ':',
      ),
    });
    fc.assert(
      fc.property(nasty, fc.boolean(), (address, utf8) => {
        const encoded = rcptCommand(address, utf8 ? all : none);
        if (!encoded.ok) return;
        assert.match(encoded.line, /^RCPT TO:<[^\r\n]*>\r\n$/);
        assert.equal(/\P{ASCII}/u.test(encoded.line) && !utf8, false);
        // Outside of quotes nothing closes the path early.
        assert.doesNotMatch(encoded.line.slice(9, -3).replace(/^"(?:[^"\\]|\\.)*"/, ''), /[<> ]/);
      }),
      { numRuns: 2000 },
    );
  });

  test('our own name cannot break the line', () => {
    assert.equal(lhloCommand('mx.example'), 'LHLO mx.example\r\n');
    assert.equal(lhloCommand('a\r\nRSET'), 'LHLO [127.0.0.1]\r\n');
  });
});
