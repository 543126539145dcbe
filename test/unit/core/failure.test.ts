/** Outages look like outages in every protocol, and nothing raw gets out. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  closingReply,
  type FailureKind,
  failureKinds,
  imapAnswer,
  isTransient,
  lmtpReply,
  logText,
  logWord,
  pop3Answer,
  sieveAnswer,
  smtpReply,
} from '../../../src/core/failure.ts';

/** The only ones that may be final: the client's own doing. */
const permanent: readonly FailureKind[] = [
  'not-ours',
  'too-big',
  'bad-address',
  'mail-loop',
  'bad-line-ends',
  'no-utf8-route',
];

describe('failure', () => {
  test('an outage is never a 5xx and never a wrong password, in any protocol', () => {
    for (const kind of failureKinds) {
      const f = { kind };
      assert.equal(isTransient(f), !permanent.includes(kind), kind);
      assert.equal(smtpReply(f).code < 500, isTransient(f), kind);
      if (!isTransient(f)) continue;
      assert.notEqual(imapAnswer(f).code, 'AUTHENTICATIONFAILED', kind);
      assert.equal(pop3Answer(f).code, 'SYS/TEMP', kind);
      assert.equal(sieveAnswer(f).code, 'TRYLATER', kind);
    }
  });

  test('a node that is away is UNAVAILABLE, SYS/TEMP, TRYLATER and 451 4.4.1', () => {
    for (const kind of [
      'no-node',
      'held',
      'stale',
      'node-unreachable',
      'node-tls-failed',
      'node-silent',
    ] as const) {
      assert.equal(imapAnswer({ kind }).code, 'UNAVAILABLE');
      assert.deepEqual([smtpReply({ kind }).code, smtpReply({ kind }).enhanced], [451, '4.4.1']);
    }
  });

  test('disk trouble is 451, over quota 452, a strange domain 550 5.7.1, too many recipients and other homes 452 4.5.3', () => {
    for (const kind of [
      'mount-missing',
      'mount-read-only',
      'disk-full',
      'disk-quota',
      'io-error',
      'hung',
    ] as const) {
      assert.equal(lmtpReply({ kind }).code, 451);
    }
    const spoken = (kind: FailureKind): string =>
      `${smtpReply({ kind }).code} ${smtpReply({ kind }).enhanced}`;
    assert.equal(spoken('over-quota'), '452 4.2.2');
    assert.equal(spoken('not-ours'), '550 5.7.1');
    assert.equal(spoken('too-many-recipients'), '452 4.5.3');
    assert.equal(spoken('other-home'), '452 4.5.3');
  });

  test('code and enhanced code agree in their class (RFC 2034 §4)', () => {
    for (const kind of failureKinds) {
      for (const reply of [smtpReply({ kind }), lmtpReply({ kind }), closingReply({ kind })]) {
        assert.equal(reply.enhanced?.charAt(0), String(reply.code).charAt(0), kind);
      }
      assert.equal(closingReply({ kind }).code, 421);
    }
  });

  test('strangers learn neither nodes nor details; the own MTA and the log do', () => {
    const f = { kind: 'node-unreachable', node: 'mail1', text: 'ECONNREFUSED' } as const;
    for (const said of [smtpReply(f).lines, imapAnswer(f).text, pop3Answer(f).text, sieveAnswer(f).text]) {
      assert.doesNotMatch(String(said), /mail1|ECONN/);
    }
    assert.deepEqual(lmtpReply(f).lines, [
      'The mail node cannot be reached at the moment (mail1: ECONNREFUSED)',
    ]);
    assert.equal(logText(f), 'node-unreachable mail1: ECONNREFUSED');
    assert.equal(logWord(f), 'node-unreachable');
  });

  test('an impossible name looks like any wrong login', () => {
    assert.deepEqual(imapAnswer({ kind: 'bad-address' }), {
      code: 'AUTHENTICATIONFAILED',
      text: 'Authentication failed',
    });
    assert.equal(pop3Answer({ kind: 'bad-address' }).code, 'AUTH');
    assert.equal(sieveAnswer({ kind: 'bad-address' }).code, null);
  });

  test('whatever a peer said, answers stay one short line of printable ASCII that cannot end a quoted string', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...failureKinds),
        fc.string({ unit: 'binary' }),
        fc.string({ unit: 'binary' }),
        (kind, node, text) => {
          const f = { kind, node, text: `${text}\r\n250 OK\r\n${'x'.repeat(1000)}` };
          for (const line of [...lmtpReply(f).lines, ...smtpReply(f).lines, logText(f)]) {
            assert.match(line, /^[ -~]{1,400}$/);
          }
          for (const text of [imapAnswer(f).text, pop3Answer(f).text, sieveAnswer(f).text])
            assert.match(text, /^[^"\\\r\n]{1,100}$/);
        },
      ),
    );
  });
});
