/** What the client is told, as case tables: nothing acknowledged is lost, nothing delivered is asked for again. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { settleLmtp, settleSmtp } from '../../../src/core/settle.ts';
import type { Outcome, Reply } from '../../../src/core/types.ts';

function outcome(kind: Outcome['kind'], code: number, courier: Outcome['courier'] = 'node'): Outcome {
  const reply: Reply = { code, enhanced: `${Math.trunc(code / 100)}.0.0`, lines: [`said ${code}`] };
  return { kind, courier, node: courier === 'node' ? 'mail1' : null, reply };
}

const letters: Readonly<Record<string, Outcome>> = {
  D: outcome('delivered', 250),
  Q: outcome('delivered', 250, 'queue'),
  X: outcome('delivered', 250, 'direct'),
  R: outcome('rejected', 550),
  r: outcome('rejected', 552),
  T: outcome('deferred', 451),
  t: outcome('deferred', 452),
  I: outcome('in-doubt', 451),
};

function spell(word: string): Outcome[] {
  return [...word].map(letter => letters[letter] ?? assert.fail(letter));
}

const sender = { from: 'ann@example.net', id: 'A1' };

describe('settle over SMTP', () => {
  // outcomes, reply, queued, bounced, reply where the queue fails
  const cases: readonly (readonly [string, number, number[], number[], number])[] = [
    ['D', 250, [], [], 250],
    ['DDD', 250, [], [], 250],
    ['DQX', 250, [], [], 250],
    ['R', 550, [], [], 550],
    ['rR', 552, [], [], 552],
    ['T', 451, [], [], 451],
    ['tT', 452, [], [], 452],
    ['RT', 451, [], [], 451],
    ['TR', 451, [], [], 451],
    ['I', 250, [0], [], 451],
    ['IT', 250, [0, 1], [], 451],
    ['IR', 250, [0], [1], 451],
    ['DT', 250, [1], [], 451],
    ['DR', 250, [], [1], 451],
    ['DRTI', 250, [2, 3], [1], 451],
    ['QR', 250, [], [1], 451],
    ['TTXT', 250, [0, 1, 3], [], 451],
  ];
  for (const [word, code, queue, bounce, ifQueueFails] of cases) {
    test(`${word} is answered ${code}, queues [${queue}], bounces [${bounce}]`, () => {
      const settled = settleSmtp(spell(word), sender);
      assert.equal(settled.reply.code, code);
      assert.deepEqual(settled.queue, queue);
      assert.deepEqual(settled.bounce, bounce);
      assert.deepEqual(settled.dropped, []);
      assert.equal(settled.ifQueueFails.code, ifQueueFails);
    });
  }

  test('a message from the null sender is never bounced, and its refused recipients are named for the log', () => {
    assert.deepEqual(settleSmtp(spell('DRR'), { from: '', id: 'A1' }), {
      queue: [],
      bounce: [],
      dropped: [1, 2],
      reply: { code: 250, enhanced: '2.0.0', lines: ['OK, A1'] },
      ifQueueFails: { code: 250, enhanced: '2.0.0', lines: ['OK, A1'] },
    });
  });

  test('never 4xx or 5xx once anyone has it, never 2xx while anyone is neither delivered, queued, bounced nor dropped', () => {
    const words = fc.array(fc.constantFrom(...Object.values(letters)), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(words, fc.constantFrom('', 'ann@example.net'), (outcomes, from) => {
        const { reply, queue, bounce, dropped } = settleSmtp(outcomes, { from, id: 'A1' });
        if (outcomes.some(each => each.kind === 'delivered')) assert.equal(reply.code, 250);
        const cared = [...queue, ...bounce, ...dropped];
        assert.equal(new Set(cared).size, cared.length);
        outcomes.forEach((each, position) => {
          if (reply.code !== 250) assert.equal(cared.includes(position), false);
          else assert.equal(cared.includes(position), each.kind !== 'delivered');
        });
        if (reply.code >= 500) assert.ok(outcomes.every(each => each.kind === 'rejected'));
      }),
    );
  });

  test('a transaction without recipients is a bug, not a 250', () => {
    assert.throws(() => settleSmtp([], sender));
  });
});

describe('settle over LMTP', () => {
  test('gives one reply for each RCPT, in order, duplicates included, in the words of the node', () => {
    const replies = settleLmtp(spell('DRTDDI'));
    assert.deepEqual(
      replies.map(reply => reply.code),
      [250, 550, 451, 250, 250, 451],
    );
    assert.deepEqual(replies[1]?.lines, ['said 550']);
  });

  test('a recipient whose outcome went missing is in doubt, not delivered', () => {
    assert.deepEqual(
      settleLmtp([null]).map(reply => reply.code),
      [451],
    );
  });

  test('a reply that contradicts its outcome never reaches the peer', () => {
    const crooked = [outcome('deferred', 250), outcome('rejected', 250), outcome('in-doubt', 250)];
    assert.deepEqual(
      settleLmtp(crooked).map(reply => reply.code),
      [451, 451, 451],
    );
    assert.deepEqual(
      settleLmtp([outcome('delivered', 451)]).map(reply => reply.code),
      [250],
    );
    assert.deepEqual(
      settleLmtp([outcome('deferred', 550)]).map(reply => reply.code),
      [451],
    );
    const toStranger = settleSmtp([outcome('deferred', 250)], sender).reply;
    assert.equal(toStranger.code, 451);
    assert.doesNotMatch(toStranger.lines.join(), /mail1/);
  });
});
