import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type CommandEvent,
  type CommandLimits,
  CommandParser,
  defaultCommandLimits,
  type Token,
} from '../../../src/wire/imap-command.ts';

function show(token: Token): string {
  if (!('bytes' in token)) return token.kind;
  return `${token.kind}:${token.bytes.toString('latin1')}`;
}

function describeEvent(event: CommandEvent): string {
  switch (event.kind) {
    case 'command':
      return `${event.tag} ${event.name} [${event.tokens.map(show).join('|')}]`;
    case 'line':
      return `line ${event.bytes.toString('latin1')}`;
    case 'literal':
      return 'literal';
    default:
      return `${event.kind} ${event.tag ?? '-'}: ${event.why}`;
  }
}

function parse(chunks: readonly Buffer[], limits: CommandLimits = defaultCommandLimits): string[] {
  const parser = new CommandParser(limits);
  const out: string[] = [];
  for (const chunk of chunks) {
    parser.push(chunk);
    for (let event = parser.next(); event !== null; event = parser.next()) {
      out.push(describeEvent(event));
      if (event.kind === 'command' && event.name === 'AUTHENTICATE') parser.expectLine();
    }
  }
  return out;
}

const cases: readonly (readonly [name: string, input: string, events: readonly string[]])[] = [
  ['atoms', 'a1 login joe secret\r\n', ['a1 LOGIN [atom:joe|atom:secret]']],
  ['quoted strings with escapes', 'a LOGIN "j o\\"e" "\\\\"\r\n', ['a LOGIN [string:j o"e|string:\\]']],
  ['an empty string', 'a LOGIN joe ""\r\n', ['a LOGIN [atom:joe|string:]']],
  [
    'literals that wait',
    'a LOGIN {3}\r\njoe {2}\r\npw\r\nb NOOP\r\n',
    ['literal', 'literal', 'a LOGIN [string:joe|string:pw]', 'b NOOP []'],
  ],
  ['literals that do not wait', 'a LOGIN {3+}\r\njoe {2+}\r\np\n\r\n', ['a LOGIN [string:joe|string:p\n]']],
  ['an empty literal', 'a LOGIN joe {0+}\r\n\r\n', ['a LOGIN [atom:joe|string:]']],
  ['lists', 'a ID ("name" NIL)\r\n', ['a ID [open|string:name|atom:NIL|close]']],
  ['bare LF as a line end', 'a NOOP\nb NOOP\n', ['a NOOP []', 'b NOOP []']],
  ['passwords with wildcards', 'a LOGIN joe p%*\\]é\r\n', ['a LOGIN [atom:joe|atom:p%*\\]é]']],
  [
    'an answer to a continuation',
    'a AUTHENTICATE PLAIN\r\nQUJD {3}\r\nb NOOP\r\n',
    ['a AUTHENTICATE [atom:PLAIN]', 'line QUJD {3}', 'b NOOP []'],
  ],
  ['an empty line', '\r\na NOOP\r\n', ['bad -: no valid tag', 'a NOOP []']],
  ['a tag alone', 'a\r\n', ['bad a: no valid command']],
  ['a tag that must not be echoed', '+x NOOP\r\n* NOOP\r\n', ['bad -: no valid tag', 'bad -: no valid tag']],
  ['a string without end', 'a LOGIN "joe\r\nb NOOP\r\n', ['bad a: string without end', 'b NOOP []']],
  [
    'NUL',
    'a LOGIN j\0e x\r\na LOGIN {1+}\r\n\0 x\r\n',
    ['bad a: wrong character', 'bad a: NUL in a literal'],
  ],
  ['no space between strings', 'a LOGIN "a""b"\r\n', ['bad a: no space after a string']],
  ['a brace in the middle', 'a LOGIN {3} x\r\n', ['bad a: malformed literal']],
  ['literal8, which is for messages', 'a LOGIN ~{1}\r\nb NOOP\r\n', ['bad a: wrong character', 'b NOOP []']],
  [
    'a literal that is too big but waits',
    'a LOGIN {4097}\r\nb NOOP\r\n',
    ['bad a: literal too big', 'b NOOP []'],
  ],
  [
    'a literal that is too big and comes anyway',
    'a LOGIN {4097+}\r\nb NOOP\r\n',
    ['fatal a: literal too big'],
  ],
  [
    'a faulty command whose literal looks like a command',
    'a LOGIN "x {16+}\r\nevil LOGIN a b\r\n y\r\nb NOOP\r\n',
    ['bad a: string without end', 'b NOOP []'],
  ],
];

describe('an IMAP command before login', () => {
  for (const [name, input, events] of cases) {
    test(`is read with ${name}, at every split point`, () => {
      const bytes = Buffer.from(input, 'latin1');
      assert.deepEqual(parse([bytes]), events);
      assert.deepEqual(parse([...bytes].map(byte => Buffer.from([byte]))), events);
      for (let cut = 1; cut < bytes.length; cut += 1) {
        assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]), events, `split at ${cut}`);
      }
    });
  }

  test('accepts a literal of exactly 4096 bytes', () => {
    const [event] = parse([Buffer.from(`a LOGIN joe {4096+}\r\n${'x'.repeat(4096)}\r\n`)]);
    assert.equal(event, `a LOGIN [atom:joe|string:${'x'.repeat(4096)}]`);
  });

  test('ends the session when a line, or a chain of literals, never ends', () => {
    assert.deepEqual(parse([Buffer.alloc(8193, 'a')]), ['fatal -: line too long']);
    const chain = `a X ${`{4000+}\r\n${'x'.repeat(4000)} `.repeat(20)}`;
    assert.deepEqual(parse([Buffer.from(chain)]), ['fatal a: literal too big']);
    const empties = `a X${' {0+}\r\n'.repeat(10_000)}`;
    assert.equal(parse([Buffer.from(empties)]).at(-1), 'fatal a: literal too big');
  });

  test('has a limited number of arguments', () => {
    assert.deepEqual(parse([Buffer.from(`a X${' y'.repeat(81)}\r\n`)]), ['bad a: too many arguments']);
  });

  test('never quotes the input in a complaint, for it may hold a password', () => {
    for (const line of [
      'a LOGIN joe "hunter2\r\n',
      'a LOGIN joe hunter2{\r\n',
      'hunter2\r\n',
      'a hunter2! x\r\n',
    ]) {
      const parser = new CommandParser();
      parser.push(Buffer.from(line));
      const event = parser.next();
      assert.equal(event?.kind, 'bad');
      assert.ok(event.kind === 'bad' && !event.why.includes('hunter2'));
    }
  });

  test('leaves what follows it unparsed until it is asked for', () => {
    const parser = new CommandParser();
    parser.push(Buffer.from('a LOGIN joe x\r\nb SELECT INBOX\r\nc FE'));
    assert.equal(parser.next()?.kind, 'command');
    assert.equal(parser.rest().toString(), 'b SELECT INBOX\r\nc FE');
    assert.equal(parser.next(), null);
  });

  test('gives the same events however garbage is split, and stays within its limits', () => {
    const limits: CommandLimits = { lineBytes: 24, literalBytes: 6, commandBytes: 60, tokens: 4 };
    const piece = fc.constantFrom(
      'a ',
      'LOGIN ',
      'joe ',
      '"',
      '\\',
      '{3+}\r\n',
      '{2}\r\n',
      '{9+}\r\n',
      '\r\n',
      '\n',
      '\0',
      '(',
      ')',
      '~',
      'xyz',
      '+',
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 40 }),
        fc.array(fc.nat(200), { maxLength: 10 }),
        (pieces, cuts) => {
          const whole = Buffer.from(pieces.join(''), 'latin1');
          const points = [0, ...cuts.filter(cut => cut < whole.length).sort((a, b) => a - b), whole.length];
          const chunks = points.slice(1).map((end, index) => whole.subarray(points[index], end));
          assert.deepEqual(parse(chunks, limits), parse([whole], limits));
        },
      ),
      { numRuns: 500 },
    );
  });
});
