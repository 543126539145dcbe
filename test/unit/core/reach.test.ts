/** A proxy on a node talks to that node over loopback. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reach } from '../../../src/core/reach.ts';

const node = (name: string, address: string) => ({ name, address });

test('the own node is reached over loopback, all others at their address', () => {
  assert.equal(reach(node('mail1', '10.0.0.1'), 'mail1'), '127.0.0.1');
  assert.equal(reach(node('mail1', 'mail1.example.org'), 'mail1'), '127.0.0.1');
  assert.equal(reach(node('mail1', '2001:db8::1'), 'mail1'), '::1');
  assert.equal(reach(node('mail2', '10.0.0.2'), 'mail1'), '10.0.0.2');
  assert.equal(reach(node('mail1', '10.0.0.1'), null), '10.0.0.1');
});

test('a loopback address that the settings name is kept', () => {
  assert.equal(reach(node('mail1', '127.0.0.11'), 'mail1'), '127.0.0.11');
});
