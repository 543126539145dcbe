/** The trace field we add, and counting those a message brings. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { HopCount, receivedField, type Trace } from '../../../src/delivery/received.ts';

const trace: Trace = {
  helo: 'mx.example.net',
  address: '192.0.2.1',
  name: 'homing.example.org',
  protocol: 'ESMTP',
  id: '4XyZ01',
  recipient: 'joe@example.org',
  atMs: Date.UTC(2026, 10, 21, 4, 5, 6),
};

function counted(
  message: string,
  name = 'homing.example.org',
  sizes: readonly number[] = [],
): [number, number] {
  const count = new HopCount(name);
  const bytes = Buffer.from(message, 'latin1');
  let at = 0;
  for (const size of sizes) {
    count.feed(bytes.subarray(at, at + size));
    at += size;
  }
  count.feed(bytes.subarray(at));
  return [count.hops, count.ownHops];
}

describe('the Received field', () => {
  test('says from whom, by whom, how, for whom and when', () => {
    assert.equal(
      receivedField(trace),
      'Received: from mx.example.net ([192.0.2.1])\r\n\tby homing.example.org with ESMTP id 4XyZ01\r\n' +
        '\tfor <joe@example.org>;\r\n\tSat, 21 Nov 2026 04:05:06 +0000\r\n',
    );
  });

  test('names nobody where there are several recipients', () => {
    assert.doesNotMatch(receivedField({ ...trace, recipient: null }), /for|joe/);
  });

  test('writes IPv6 addresses and Unix sockets as the RFC asks', () => {
    assert.match(receivedField({ ...trace, address: '2001:db8::1' }), /\(\[IPv6:2001:db8::1\]\)/);
    assert.match(receivedField({ ...trace, address: '' }), /from mx\.example\.net \(local\)/);
  });

  test("lets no character of the client's choice out of its place", () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), helo => {
        const field = receivedField({ ...trace, helo });
        const from = /^Received: from ([A-Za-z0-9.:_[\]?-]+) \(\[192\.0\.2\.1\]\)\r\n\tby /.exec(field);
        assert.ok(from, field);
        assert.equal(field.split('\r\n').length, 5);
      }),
    );
  });
});

describe('counting hops', () => {
  const own = receivedField(trace);
  const other = receivedField({ ...trace, name: 'mx.example.net' });
  const cases: readonly {
    readonly name: string;
    readonly message: string;
    readonly hops: number;
    readonly own: number;
  }[] = [
    { name: 'none', message: 'Subject: x\r\n\r\nbody\r\n', hops: 0, own: 0 },
    {
      name: 'each field once, folded or not',
      message: `${other}${own}Received: x\r\nSubject: x\r\n\r\n`,
      hops: 3,
      own: 1,
    },
    { name: 'any case', message: 'RECEIVED: x\r\nreceived: y\r\n\r\n', hops: 2, own: 0 },
    { name: 'not those in the body', message: `Subject: x\r\n\r\n${own}${own}`, hops: 0, own: 0 },
    {
      name: 'not those inside another field',
      message: `Subject: x\r\n Received: y\r\n\tReceived: z\r\n\r\n`,
      hops: 0,
      own: 0,
    },
    {
      name: 'not a name that only begins alike',
      message: 'Received-SPF: x\r\nReceive: y\r\nX-Received: z\r\n\r\n',
      hops: 0,
      own: 0,
    },
    { name: 'ours in the last field', message: `${own}\r\nbody`, hops: 1, own: 1 },
    {
      name: 'not ours where our name is only a part',
      message: `${own.replace('by homing', 'by not.homing')}\r\n`,
      hops: 1,
      own: 0,
    },
    { name: 'without a header', message: '\r\nReceived: x\r\n', hops: 0, own: 0 },
    { name: 'of an empty message', message: '', hops: 0, own: 0 },
  ];
  for (const { name, message, hops, own: ours } of cases) {
    test(`counts ${name}, however it is cut`, () => {
      assert.deepEqual(counted(message), [hops, ours]);
      for (let at = 0; at <= message.length; at++)
        assert.deepEqual(counted(message, undefined, [at]), [hops, ours]);
      assert.deepEqual(
        counted(
          message,
          undefined,
          Array.from(message, () => 1),
        ),
        [hops, ours],
      );
    });
  }

  test('a megabyte in one header line costs no memory', () => {
    const count = new HopCount('x');
    for (let n = 0; n < 16; n++) count.feed(Buffer.alloc(65536, 'R'));
    assert.equal(count.hops, 0);
  });
});
