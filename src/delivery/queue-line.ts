/**
 * Who is next in the queue: entries by the time of their next attempt, and among those due, one user after the other.
 * The queue runner asks it; it knows no files, no clock and no courier. One user's ten thousand messages never make another wait.
 */
import type { NodeName, User } from '../core/types.ts';

/** What is kept in memory of an entry. */
export interface Row {
  readonly key: string;
  /** Its first recipient's. */
  readonly user: User;
  readonly from: string;
  /** Nodes whose return may help; empty where nobody knows. */
  readonly nodes: readonly NodeName[];
  readonly recipients: number;
  readonly attempts: number;
  /** Unix ms. */
  readonly acceptedAtMs: number;
  /** Unix ms. */
  readonly nextAtMs: number;
  /** The last reply in one line, cut. */
  readonly last: string;
}

interface Timed {
  readonly atMs: number;
  readonly key: string;
}

/** Rows a step, so that a hundred thousand never block the event loop (design §4: 10 ms). */
const sliceRows = 2_000;

export class QueueLine {
  readonly #rows = new Map<string, Row>();
  /** Binary heap. A row's older times stay in it until they surface, and are passed over then. */
  #times: Timed[] = [];
  readonly #due = new Map<User, string[]>();
  readonly #dueKeys = new Set<string>();
  /** Nodes that came back, and how far we are through the rows for them. */
  readonly #hastening = new Map<NodeName | null, IterableIterator<Row>>();

  get size(): number {
    return this.#rows.size;
  }

  get dueCount(): number {
    return this.#dueKeys.size;
  }

  rows(): IterableIterator<Row> {
    return this.#rows.values();
  }

  /** A new entry, or an entry's next time. */
  put(row: Row): void {
    this.#rows.set(row.key, row);
    push(this.#times, { atMs: row.nextAtMs, key: row.key });
  }

  drop(key: string): void {
    this.#rows.delete(key);
  }

  /** Unix ms of the next row that is not due yet, or null. */
  nextAtMs(): number | null {
    this.#forgetStale();
    return this.#times[0]?.atMs ?? null;
  }

  /** Moves on, a slice at a time: what has come due by `nowMs`, or is hastened, joins its user's line. True: there is more to do. */
  comeDue(nowMs: number): boolean {
    for (let i = 0; i < sliceRows; i += 1) {
      this.#forgetStale();
      const first = this.#times[0];
      if (first === undefined || first.atMs > nowMs) return this.#hastenSlice();
      pop(this.#times);
      const row = this.#rows.get(first.key);
      if (row !== undefined) this.#join(row);
    }
    return true;
  }

  /** Every row that may wait for this node is due, as `comeDue` gets to it; null: every row. */
  hasten(node: NodeName | null): void {
    this.#hastening.set(node, this.#rows.values());
  }

  #hastenSlice(): boolean {
    let budget = sliceRows;
    for (const [node, rows] of this.#hastening) {
      for (let next = rows.next(); ; next = rows.next()) {
        if (next.done === true) {
          this.#hastening.delete(node);
          break;
        }
        const { nodes } = next.value;
        if (node === null || nodes.length === 0 || nodes.includes(node)) this.#join(next.value);
        budget -= 1;
        if (budget === 0) return true;
      }
    }
    return false;
  }

  /** The next one due, which leaves the line (not the queue); its user goes behind all others. */
  take(): Row | null {
    for (const [user, keys] of this.#due) {
      const key = keys.shift();
      this.#due.delete(user);
      if (keys.length > 0) this.#due.set(user, keys);
      if (key === undefined) continue;
      this.#dueKeys.delete(key);
      const row = this.#rows.get(key);
      if (row !== undefined) return row;
    }
    return null;
  }

  #join(row: Row): void {
    if (this.#dueKeys.has(row.key)) return;
    this.#dueKeys.add(row.key);
    const keys = this.#due.get(row.user);
    if (keys === undefined) this.#due.set(row.user, [row.key]);
    else keys.push(row.key);
  }

  #forgetStale(): void {
    for (let first = this.#times[0]; first !== undefined; first = this.#times[0]) {
      const row = this.#rows.get(first.key);
      if (row !== undefined && row.nextAtMs === first.atMs && !this.#dueKeys.has(row.key)) return;
      pop(this.#times);
    }
  }
}

function push(heap: Timed[], timed: Timed): void {
  let at = heap.push(timed) - 1;
  while (at > 0) {
    const up = (at - 1) >> 1;
    const parent = heap[up];
    if (parent === undefined || parent.atMs <= timed.atMs) return;
    heap[at] = parent;
    heap[up] = timed;
    at = up;
  }
}

function pop(heap: Timed[]): Timed | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    const left = 2 * at + 1;
    const right = left + 1;
    const smaller = (heap[right]?.atMs ?? Number.POSITIVE_INFINITY) < (heap[left]?.atMs ?? 0) ? right : left;
    const child = heap[smaller];
    if (child === undefined || child.atMs >= last.atMs) break;
    heap[at] = child;
    at = smaller;
  }
  heap[at] = last;
  return first;
}
