/**
 * Waiting for a condition, with a deadline: what tests use in place of sleeps.
 * At the deadline it throws and says what was waited for, so that a failed test explains itself.
 */

export interface WaitOptions {
  /** What is waited for, as it should read in the failure: "node mail2 to be down". */
  readonly what: string;
  readonly limitMs?: number;
  readonly everyMs?: number;
  /** Called at the deadline; its text joins the error (a log's tail). */
  readonly tell?: () => string | Promise<string>;
}

/** Asks until the answer is neither undefined, null nor false, and returns it. A throwing question counts as "not yet". */
export async function waitFor<T>(
  ask: () => Promise<T | undefined | null | false> | T | undefined | null | false,
  { what, limitMs = 10_000, everyMs = 20, tell }: WaitOptions,
): Promise<T> {
  const deadlineAtMs = performance.now() + limitMs;
  let last = '';
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== null && answer !== false) return answer;
    } catch (error) {
      last = error instanceof Error ? ` (last error: ${error.message})` : '';
    }
    if (performance.now() >= deadlineAtMs) {
      const more = tell === undefined ? '' : `\n${await tell()}`;
      throw new Error(`waited ${limitMs} ms in vain for ${what}${last}${more}`);
    }
    await pause(everyMs);
  }
}

/** For the pace of polls and load only; never in place of a condition. */
export function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

/** The promise's value, or an error that says what took too long. */
export async function within<T>(promise: Promise<T>, limitMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no end within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
