/**
 * The barrier's promises in seeded worlds (barrier.md): every run is the same for its seed, so a breach can be replayed.
 * HOMING_LONG=1 runs many more; HOMING_SEED=n runs one.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Breakage } from './sim-store.ts';
import { World } from './world.ts';

const long = process.env.HOMING_LONG === '1';
const one = process.env.HOMING_SEED;
const seeds = one !== undefined ? [Number(one)] : Array.from({ length: long ? 400 : 5 }, (_, i) => i + 1);

describe('whatever happens to nodes, members and the parent, no user is on two nodes', () => {
  for (const fence of ['none', 'required'] as const)
    test(`fence ${fence}, ${seeds.length} worlds`, async () => {
      const sum = { commits: 0, admitted: 0, refused: 0, pinned: 0, restarts: 0 };
      for (const seed of seeds) {
        const report = await new World({ seed, fence }).run();
        assert.equal(report.breach, null, `seed ${seed}`);
        sum.commits += report.commits;
        sum.admitted += report.admitted;
        sum.refused += report.refused;
        sum.pinned += report.pinned;
        sum.restarts += report.restarts;
      }
      // A world in which nothing happens proves nothing.
      assert.ok(sum.commits > 10 * seeds.length, `only ${sum.commits} commits`);
      assert.ok(sum.admitted > 200 * seeds.length, `only ${sum.admitted} admissions`);
      if (seeds.length > 1) assert.ok(sum.pinned > 0 && sum.restarts > 0, JSON.stringify(sum));
    });
});

describe('the checks catch what would break the promises', () => {
  const twoNodes = /is on n\d \(.*and on n\d|which sends/;
  const broken: Readonly<Record<Exclude<Breakage, 'none'>, RegExp>> = {
    'ack-before-closing': twoNodes,
    'pins-lost': twoNodes,
    'commit-without-all': twoNodes,
    'acts-after-lease': twoNodes,
    'joiner-not-told': twoNodes,
    'holds-all': /a bystander/,
  };
  for (const [breakage, sentence] of Object.entries(broken) as [Exclude<Breakage, 'none'>, RegExp][])
    test(breakage, async () => {
      const breaches: string[] = [];
      for (let seed = 1; seed <= 30 && breaches.length === 0; seed += 1) {
        const { breach } = await new World({ seed, fence: 'none', breakage }).run();
        if (breach !== null) breaches.push(`seed ${seed}: ${breach}`);
      }
      assert.match(breaches[0] ?? 'not noticed', sentence);
    });
});
