import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  capabilitySet,
  type ResponseEvent,
  ResponseParser,
  withoutReferrals,
} from '../../../src/wire/imap-response.ts';

function describeEvent(event: ResponseEvent): string {
  switch (event.kind) {
    case 'continue':
      return `+ ${event.text}`;
    case 'fatal':
      return `fatal ${event.why}`;
    case 'tagged':
      return `${event.tag} ${event.status} <${event.code?.name ?? ''}:${event.code?.value ?? ''}> ${event.text}`;
    case 'untagged':
      return `* ${event.name} <${event.code?.name ?? ''}:${event.code?.value ?? ''}> ${event.text}`;
  }
}

function parse(chunks: readonly Buffer[]): string[] {
  const parser = new ResponseParser();
  const out: string[] = [];
  for (const chunk of chunks) {
    parser.push(chunk);
    for (let event = parser.next(); event !== null; event = parser.next()) out.push(describeEvent(event));
  }
  return out;
}

const cases: readonly (readonly [name: string, input: string, events: readonly string[]])[] = [
  [
    'a greeting with capabilities',
    '* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] Dovecot ready.\r\n',
    ['* OK <CAPABILITY:IMAP4rev1 AUTH=PLAIN> Dovecot ready.'],
  ],
  ['a goodbye', '* BYE too many\r\n', ['* BYE <:> too many']],
  ['a refusal', 'a NO [AUTHENTICATIONFAILED] no.\r\n', ['a NO <AUTHENTICATIONFAILED:> no.']],
  ['a refusal without code or text', 'a NO\r\n', ['a NO <:> ']],
  [
    'an untagged list',
    '* CAPABILITY IMAP4rev1 IDLE\r\na OK x\r\n',
    ['* CAPABILITY <:> IMAP4rev1 IDLE', 'a OK <:> x'],
  ],
  ['a continuation', '+ \r\n+ idling\r\n+\r\n', ['+ ', '+ idling', '+ ']],
  [
    'a literal',
    '* ID ("name" {5}\r\na\r\nOK)\r\na OK x\r\n',
    ['* ID <:> ("name" {5}\r\na\r\nOK)', 'a OK <:> x'],
  ],
  [
    'text that looks like a literal',
    '* OK hello {5}\r\na OK x {3}\r\n',
    ['* OK <:> hello {5}', 'a OK <:> x {3}'],
  ],
  ['another protocol', '220 mail ESMTP\r\n', ['fatal not an IMAP response']],
  ['garbage', '\0\x01\x02\r\n', ['fatal not an IMAP response']],
];

describe("a node's reply", () => {
  for (const [name, input, events] of cases) {
    test(`is read with ${name}, at every split point`, () => {
      const bytes = Buffer.from(input, 'latin1');
      assert.deepEqual(parse([bytes]), events);
      for (let cut = 1; cut < bytes.length; cut += 1) {
        assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]), events, `split at ${cut}`);
      }
    });
  }

  test('keeps every byte of an untagged response, for passing on', () => {
    const raw = '* ID ("a" {3}\r\n\xff\r\n "b")\r\n';
    const parser = new ResponseParser();
    parser.push(Buffer.from(`${raw}a OK done\r\n* rest`, 'latin1'));
    const event = parser.next();
    assert.ok(event?.kind === 'untagged');
    assert.equal(event.raw.toString('latin1'), raw);
    assert.equal(parser.next()?.kind, 'tagged');
    assert.equal(parser.rest().toString(), '* rest');
  });

  test('cannot make us hold more than its limits', () => {
    assert.deepEqual(parse([Buffer.alloc(20_000, 'x')]), ['fatal line too long']);
    assert.deepEqual(parse([Buffer.from('* ID {9999999}\r\n')]), ['fatal response too big']);
    assert.deepEqual(parse([Buffer.from(`* ID${' {4000}\r\n'.padEnd(4009, 'x').repeat(20)}`)]), [
      'fatal response too big',
    ]);
  });

  test('loses its login referrals and nothing else', () => {
    assert.equal(withoutReferrals('IMAP4rev1 LOGIN-REFERRALS  IDLE login-referrals'), 'IMAP4rev1 IDLE');
    assert.ok(capabilitySet('imap4rev1 Literal+').has('LITERAL+'));
  });
});
