/** Where mail goes by LMTP, and where the chain for a dead home takes over. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isNodeForMail, isOtherHome } from '../../../src/core/mail-node.ts';
import type { Place } from '../../../src/core/types.ts';

const at = (node: string): Place => ({ kind: 'home', node, why: '' });

test('mail goes by LMTP to home, override and pin, and to the stand-in of a node that was drained', () => {
  assert.ok(isNodeForMail(at('mail1')));
  assert.ok(isNodeForMail({ kind: 'override', node: 'mail1', why: '' }));
  assert.ok(isNodeForMail({ kind: 'pin', node: 'mail1', why: '' }));
  assert.ok(isNodeForMail({ kind: 'failover', node: 'mail2', why: 'mail1 (drain)', homeDown: false }));
});

test('the stand-in of a dead node gets no mail as if it were the home', () => {
  assert.ok(!isNodeForMail({ kind: 'failover', node: 'mail2', why: 'mail1 (down)', homeDown: true }));
  assert.ok(!isNodeForMail({ kind: 'held', node: 'mail1', why: '' }));
  assert.ok(!isNodeForMail({ kind: 'none', why: '' }));
});

test('pin-first tells another home from the same one', () => {
  assert.ok(!isOtherHome(at('mail1'), at('mail1')));
  assert.ok(isOtherHome(at('mail1'), at('mail2')));
  assert.ok(isOtherHome(at('mail1'), { kind: 'none', why: '' }));
  assert.ok(!isOtherHome({ kind: 'none', why: '' }, { kind: 'none', why: '' }));
});
