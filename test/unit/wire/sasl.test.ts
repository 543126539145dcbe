import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { decodeBase64, readPlain, Secret, writePlain } from '../../../src/wire/sasl.ts';

describe('SASL PLAIN', () => {
  test('is read with and without an authorization identity', () => {
    const plain = readPlain(Buffer.from('\0joe\0pw'));
    assert.ok(plain.ok);
    assert.equal(plain.credentials.name.toString(), 'joe');
    assert.equal(plain.credentials.authzid.length, 0);
    assert.equal(plain.credentials.secret.reveal().toString(), 'pw');
    const master = readPlain(Buffer.from('joe\0admin\0pw'));
    assert.ok(master.ok && master.credentials.authzid.toString() === 'joe');
  });

  test('with too few or too many parts, or no name, is refused', () => {
    for (const message of ['', 'joe', '\0joe', '\0joe\0pw\0more', '\0\0pw']) {
      assert.equal(readPlain(Buffer.from(message)).ok, false, JSON.stringify(message));
    }
  });

  test('goes to the node with exactly the bytes that came', () => {
    const part = fc.uint8Array({ maxLength: 40 }).map(bytes => Buffer.from(bytes.filter(byte => byte !== 0)));
    fc.assert(
      fc.property(part, part, part, (authzid, name, secret) => {
        fc.pre(name.length > 0);
        const text = writePlain({ form: 'plain', authzid, name, secret: new Secret(secret) });
        const back = readPlain(decodeBase64(text) ?? Buffer.alloc(0));
        assert.ok(back.ok);
        assert.deepEqual(
          [back.credentials.authzid, back.credentials.name, back.credentials.secret.reveal()].map(String),
          [authzid, name, secret].map(String),
        );
      }),
    );
  });
});

describe('base64', () => {
  test('is strict: no other alphabet, no missing padding, no stray bits, no white space', () => {
    for (const text of [
      'QQ',
      'QQ=',
      'QR==',
      'Q===',
      'QQ==QQ==',
      'QQ== ',
      'Q-==',
      '=',
      '\nQQ==',
      'QUI\u00e9',
    ]) {
      assert.equal(decodeBase64(text), null, text);
    }
    assert.equal(decodeBase64('QQ==')?.toString(), 'A');
    assert.equal(decodeBase64('')?.length, 0);
  });
});

test('a secret shows itself nowhere', () => {
  const secret = new Secret(Buffer.from('hunter2'));
  const shown = [
    String(secret),
    JSON.stringify({ secret }),
    inspect({ secret }, { depth: 9, showHidden: true }),
    `${secret}`,
  ];
  for (const text of shown) assert.ok(!text.includes('hunter2') && !text.includes('104, 117'), text);
});
