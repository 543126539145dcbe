/** Calls between parent and child: answered, bounded, and all ended when the channel is lost. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import { type Answer, type Ipc, openIpc, type ProcessChannel } from '../../../src/net/ipc.ts';

class Wire extends EventEmitter implements ProcessChannel {
  connected = true;
  other: Wire | null = null;
  isMute = false;
  send(message: unknown): boolean {
    if (!this.isMute) queueMicrotask(() => this.other?.emit('message', structuredClone(message)));
    return true;
  }
  cut(): void {
    for (const end of [this, this.other]) {
      if (!end) continue;
      end.connected = false;
      end.emit('disconnect');
    }
  }
}

function pair(answers: Readonly<Record<string, Answer>>): { near: Ipc; wire: Wire; lost: string[] } {
  const a = new Wire();
  const b = new Wire();
  a.other = b;
  b.other = a;
  const lost: string[] = [];
  const common = { timeoutMs: 200, maxPending: 2 };
  openIpc({ channel: b, answers, onLost: () => lost.push('far'), ...common });
  return {
    near: openIpc({ channel: a, answers: {}, onLost: () => lost.push('near'), ...common }),
    wire: a,
    lost,
  };
}

test('a call brings back what the other side answered, at once or later', async () => {
  const { near } = pair({ add: ([a, b]) => Number(a) + Number(b), later: async () => new Map([['k', 1]]) });
  assert.deepEqual(await near.call('add', [2, 3]), { ok: true, value: 5 });
  assert.deepEqual(await near.call('later', []), { ok: true, value: new Map([['k', 1]]) });
});

test('an exception of the other side arrives as a word, and an unknown call too', async () => {
  const { near } = pair({
    fail: () => {
      throw new Error('disk gone');
    },
  });
  assert.deepEqual(await near.call('fail', []), { ok: false, why: 'disk gone' });
  assert.deepEqual(await near.call('toString', []), { ok: false, why: 'no such call: toString' });
});

test('a call without an answer ends by its deadline, and a late answer is dropped', async () => {
  let release = () => {};
  const { near } = pair({ slow: () => new Promise<void>(resolve => (release = resolve)) });
  const result = await near.call('slow', [], 20);
  assert.equal(result.ok, false);
  release();
  assert.deepEqual(await near.call('slow', [], 20).then(one => one.ok), false);
});

test('no more calls wait than the bound allows', async () => {
  const { near, wire } = pair({});
  wire.isMute = true;
  const waiting = [near.call('x', [], 50), near.call('x', [], 50)];
  assert.deepEqual(await near.call('x', [], 50), { ok: false, why: 'busy' });
  await Promise.all(waiting);
});

test('a lost channel answers every waiting call at once, and is told of once on each side', async () => {
  const { near, wire, lost } = pair({ never: () => new Promise(() => {}) });
  const waiting = near.call('never', [], 60_000);
  wire.cut();
  assert.deepEqual(await waiting, { ok: false, why: 'channel lost' });
  assert.deepEqual(await near.call('never', []), { ok: false, why: 'channel lost' });
  assert.deepEqual(lost.toSorted(), ['far', 'near']);
  assert.equal(near.isOpen, false);
});
