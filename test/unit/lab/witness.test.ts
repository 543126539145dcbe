/** Node logs as evidence: lines as Dovecot 2.3 and 2.4 really write them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { staysIn } from '../../demo/witness.ts';

const log23 = `2026-11-21 04:30:06.109050 imap-login: Info: Login: user=<alice@example.org>, method=PLAIN, rip=127.0.0.1, lip=127.0.0.11, mpid=18018, secured, session=<nlWr0MFgBIt/AAAB>
2026-11-21 04:30:06.106732 lmtp(alice@example.org)<18017><yHcPBk4eAWthRgAAg+zDdQ:R2>: Info: msgid=unspecified: saved mail to INBOX
2026-11-21 04:30:07.612276 imap-login: Info: Disconnected: Connection closed (auth failed, 1 attempts in 0 secs): user=<bob@example.org>, method=PLAIN, rip=127.0.0.1, lip=127.0.0.11, secured, session=<bV+r0MFgBot/AAAB>
2026-11-21 04:30:08.110416 imap(alice@example.org)<18018><nlWr0MFgBIt/AAAB>: Info: Disconnected: Connection closed (select finished 0.000 secs ago) in=16 out=734
`;
const log24 = `2026-11-21 04:30:45.117832 imap-login: Info: Logged in: user=<alice@example.org>, method=PLAIN, rip=127.0.0.1, lip=127.0.0.11, mpid=18327, secured, session=<LpD+0sFglqB/AAAB>
2026-11-21 04:30:45.119130 imap(alice@example.org)<18327><LpD+0sFglqB/AAAB>: Info: Disconnected: Logged out in=16 out=782 deleted=0
2026-11-21 04:30:46.116162 lmtp(bob@example.org)<18326><fBSSBnUeAWuWRwAAg+zDdQ:R2>: Info: sieve: msgid=<a@b>: stored mail into mailbox 'INBOX'
`;
const endMs = Date.parse('2026-11-21T05:00:00Z');

describe('a node as a witness', () => {
  test('tells sessions and deliveries of Dovecot 2.3, to the microsecond, and no failed logins', () => {
    const stays = staysIn({ node: 'mail1', text: log23, killedAtMs: [] }, endMs);
    assert.deepEqual(
      stays.map(stay => [stay.what, stay.user, Math.round((stay.untilMs - stay.fromMs) * 1000) / 1000]),
      [
        ['delivery', 'alice@example.org', 0],
        ['session', 'alice@example.org', 2001.366],
      ],
    );
    assert.equal(stays[1]?.fromMs, Date.parse('2026-11-21T04:30:06Z') + 109.05);
  });

  test('tells the same of Dovecot 2.4, and of mail that a Sieve script has filed', () => {
    const stays = staysIn({ node: 'mail1', text: log24, killedAtMs: [] }, endMs);
    assert.deepEqual(
      stays.map(stay => [stay.what, stay.user]),
      [
        ['session', 'alice@example.org'],
        ['delivery', 'bob@example.org'],
      ],
    );
  });

  test('ends a session without a last line at the kill that came after it, or now', () => {
    const [first = ''] = log23.split('\n');
    const killMs = Date.parse('2026-11-21T04:31:00Z');
    const [killed] = staysIn({ node: 'mail1', text: first, killedAtMs: [killMs - 100_000, killMs] }, endMs);
    assert.equal(killed?.untilMs, killMs);
    const [open] = staysIn({ node: 'mail1', text: first, killedAtMs: [] }, endMs);
    assert.equal(open?.untilMs, endMs);
  });
});
