/**
 * "Did you mean": the nearest of a few known words by edit distance, for unknown keys and values.
 */

/** Insertions, deletions, replacements and swaps of neighbours that turn one word into the other, capped by their length. */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((row[j - 1] ?? 0) + 1, (last[j] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/** The nearest known word, or null where none is near: at most two edits, or a third of a long word. */
export function nearest(word: string, known: readonly string[]): string | null {
  const plain = (w: string): string => w.toLowerCase().replace(/[-_]/g, '');
  const asked = plain(word.slice(0, 64));
  let best: { word: string; distance: number } | null = null;
  for (const candidate of known) {
    const distance = editDistance(asked, plain(candidate));
    if (best === null || distance < best.distance) best = { word: candidate, distance };
  }
  const most = asked.length <= 3 ? 1 : Math.max(2, Math.floor(asked.length / 3));
  return best !== null && best.distance <= most ? best.word : null;
}

/** `did you mean rendezvous? ` or ''. */
export function didYouMean(word: string, known: readonly string[]): string {
  const found = nearest(word, known);
  return found === null ? '' : `did you mean ${found}? `;
}
