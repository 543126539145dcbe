/**
 * The content of map files by digest, as lines and built: what a view or a proposal names, and a few of before.
 * Must never let go of the content that the view of now names.
 */
import type { MapContent } from '../core/barrier.ts';
import { buildMap, type UserMap } from '../core/user-map.ts';

const kept = 8;

export class MapShelf {
  readonly maps = new Map<string, UserMap>();
  readonly contents = new Map<string, MapContent>();
  private readonly inUse: () => string;

  /** `inUse`: the digest that must stay. */
  constructor(inUse: () => string) {
    this.inUse = inUse;
  }

  learn(content: MapContent): void {
    const { digest, lines } = content;
    if (digest === '' || this.maps.has(digest)) return;
    for (const old of [...this.maps.keys()])
      if (this.maps.size >= kept && old !== this.inUse()) {
        this.maps.delete(old);
        this.contents.delete(old);
      }
    this.maps.set(digest, buildMap(lines, digest));
    this.contents.set(digest, content);
  }
}
