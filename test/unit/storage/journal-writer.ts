/** Appends numbered records for ever and says each number after it is kept: to be killed. Arguments: folder. */
import { openJournal } from '../../../src/storage/journal.ts';

const opened = openJournal({ folder: process.argv[2] ?? '', name: 'j' });
if (!opened.ok) throw new Error(opened.why);
const { journal, records } = opened;
const last = records.at(-1) as { n: number } | undefined;
for (let n = (last?.n ?? -1) + 1; ; n += 1) {
  const record = { n, text: 'x'.repeat((n * 37) % 5000) };
  const kept = n % 50 === 49 ? journal.rewrite([record]) : journal.append(record);
  if (!kept.ok) throw new Error(kept.why);
  process.stdout.write(`${n}\n`);
}
