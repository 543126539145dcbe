/**
 * A key's ranking of nodes by weighted rendezvous hashing: every node draws a number for the key, the nodes are ranked by it. The first
 * is the home node; a node that leaves or joins moves only the users that it gives or takes (promise 5).
 *
 *     h    = a number in (0, 1) from mix(hash(key), hash(node name))        the same for ever, whatever other nodes there are
 *     cost = -ln(h) / weight                                               lowest first: the design's highest -weight / ln(h)
 *
 * Machines must agree to the last bit (promise 4), and `Math.log` is not specified to: engines may differ in its last digits. So the
 * logarithm here is our own, of + - * / alone, which IEEE 754 and ECMAScript fix exactly. Must never change after 1.0.
 */
import { type Hash64, hash64, mix32 } from './hash.ts';
import type { NodeName } from './types.ts';

export interface Weighted {
  readonly name: NodeName;
  /** 0 takes nobody. */
  readonly weight: number;
}

/** Ranks for one set of nodes; what depends on the nodes alone is computed once. Build one per view and pool. */
export interface Ranker {
  /** Best first; nodes of weight 0 are left out. */
  rank(key: string): NodeName[];
  /** The same as `rank(key)[0]`, or null without nodes: quicker, nothing is sorted. */
  first(key: string): NodeName | null;
}

/** Apart from the keys' seed 0, so that a user called like a node is nothing special. */
const nodeSeed = 0x686f6d65;

export function createRanker(nodes: readonly Weighted[]): Ranker {
  const able = nodes.filter(node => node.weight > 0).toSorted((x, y) => (x.name < y.name ? -1 : 1));
  const names = able.map(node => node.name);
  const weights = Float64Array.from(able, node => node.weight);
  const hashes = able.map(node => hash64(node.name, nodeSeed));
  const lanesA = Int32Array.from(hashes, hash => hash.a);
  const lanesB = Int32Array.from(hashes, hash => hash.b);
  const drawOf = (key: Hash64, i: number): number => draw(key.a ^ (lanesA[i] ?? 0), key.b ^ (lanesB[i] ?? 0));
  return {
    rank: text => {
      const key = hash64(text);
      const costs = names.map((name, i) => ({ name, cost: minusLn(drawOf(key, i)) / (weights[i] ?? 1) }));
      // Names are in order already and the sort is stable: of equal costs the lower name is first.
      return costs.sort((x, y) => x.cost - y.cost).map(entry => entry.name);
    },
    first: text => {
      const key = hash64(text);
      let best = -1;
      let bestCost = Number.POSITIVE_INFINITY;
      for (let i = 0; i < names.length; i += 1) {
        const h = drawOf(key, i);
        const weight = weights[i] ?? 1;
        // -ln(h) ≥ 1 - h, so most losers need no logarithm; the margin is far above its error.
        if ((1 - h) / weight > bestCost * 1.000001) continue;
        const cost = minusLn(h) / weight;
        if (cost >= bestCost) continue;
        best = i;
        bestCost = cost;
      }
      return names[best] ?? null;
    },
  };
}

/** All nodes in the key's order of preference. For many keys over the same nodes use a `Ranker`. */
export function rank(key: string, nodes: readonly Weighted[]): NodeName[] {
  return createRanker(nodes).rank(key);
}

/** The key's home node, or null where no node has weight. */
export function first(key: string, nodes: readonly Weighted[]): NodeName | null {
  return createRanker(nodes).first(key);
}

// Written out: ECMAScript leaves the last digits of Math's own constants to the engine.
// biome-ignore-start lint/suspicious/noApproximativeNumericConstant: see above
const sqrtHalf = 0.7071067811865476;
const ln2 = 0.6931471805599453;
// biome-ignore-end lint/suspicious/noApproximativeNumericConstant: see above

/** A uniform number in (0, 1), never its ends, with 52 random bits: a multiple of 2^-53, so exact. */
function draw(laneA: number, laneB: number): number {
  const a = mix32((laneA + 0x9e3779b9) | 0);
  const b = mix32((laneB + a) | 0);
  const c = mix32((a + b) | 0);
  const d = mix32((b + c) | 0);
  return ((c >>> 6) * 67108864 + (d >>> 6) + 0.5) / 4503599627370496;
}

/**
 * -ln(x) for x in (0, 1): x = m·2^-k with m in [√½, √2), ln m = 2·artanh(s), s = (m-1)/(m+1), |s| < 0.1716.
 * Relative error below 1e-14; every operation is exactly specified, so the result is the same everywhere.
 */
export function minusLn(x: number): number {
  let m = x;
  let k = 0;
  while (m < sqrtHalf) {
    m *= 2;
    k += 1;
  }
  const s = (m - 1) / (m + 1);
  const z = s * s;
  let series = 1 / 21;
  for (let odd = 19; odd > 0; odd -= 2) series = series * z + 1 / odd;
  return k * ln2 - 2 * s * series;
}
