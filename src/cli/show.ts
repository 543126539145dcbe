/**
 * The frame of every command that asks a running Homing something: ask, then print JSON or what `render` makes of the answer.
 */
import type { Asked } from './asked.ts';
import { clientFor, type Question } from './client.ts';
import { exit } from './exit.ts';
import { complain, type Io, say } from './io.ts';

export interface Shown {
  readonly lines: readonly string[];
  /** True where the answer is no: exit code 1. */
  readonly isNo?: boolean;
}

export async function show<T>(
  question: Question,
  render: (answer: T, columns: number | null) => Shown,
  asked: Asked,
  io: Io,
): Promise<number> {
  const client = await clientFor(asked, io);
  if (typeof client === 'number') return client;
  const answer = await client.ask<T>(question);
  if (!answer.ok) {
    await complain(io, answer.why);
    return answer.code;
  }
  const shown = renderSafely(answer.body, render, io.columns);
  if (shown === null) {
    await complain(io, `${client.base} answered in another form: is it a Homing of this version?`);
    return exit.unavailable;
  }
  await say(io, asked.json ? JSON.stringify(answer.body) : shown.lines.join('\n'));
  return shown.isNo === true ? exit.no : exit.ok;
}

/** An answer of another version may lack what we print: that is an answer to tell, not a crash. */
function renderSafely<T>(
  body: T,
  render: (answer: T, columns: number | null) => Shown,
  columns: number | null,
): Shown | null {
  try {
    return render(body, columns);
  } catch (error) {
    if (error instanceof TypeError) return null;
    throw error;
  }
}
