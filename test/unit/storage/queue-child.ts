/** Queues without end, ten at once, and prints each id once it is acknowledged. Ended by kill -9 (queue-folder.test.ts). */
import { writeSync } from 'node:fs';
import { Readable } from 'node:stream';
import type { QueueEnvelope } from '../../../src/storage/queue-envelope.ts';
import { openQueueFolder } from '../../../src/storage/queue-folder.ts';

const [path = '', prefix = ''] = process.argv.slice(2);
const opened = await openQueueFolder(path);
if (!opened.ok) throw new Error('no queue');
let count = 0;

async function worker(queue: Extract<typeof opened, { ok: true }>['queue']): Promise<never> {
  for (;;) {
    count += 1;
    const id = `${prefix}n${count}`;
    const bytes = Buffer.from(`Subject: ${id}\r\n\r\n`.concat('x'.repeat((count * 977) % 70_000), '\r\n'));
    const recipient = {
      index: 0,
      address: 'a@y',
      user: 'a@y',
      detail: '',
      maildirName: 'm',
      doubt: null,
      last: null,
      refused: false,
    };
    const envelope: QueueEnvelope = {
      version: 1,
      id,
      from: '',
      eightBit: false,
      smtpUtf8: false,
      acceptedAtMs: 1,
      bodyBytes: bytes.length,
      attempts: 1,
      nextAtMs: 1,
      recipients: [recipient],
    };
    const streamed = count % 2 === 0;
    const open = () => Readable.from([bytes.subarray(0, 9), bytes.subarray(9)], { objectMode: false });
    const added = await queue.add(
      envelope,
      { bytes: bytes.length, memory: streamed ? null : bytes, open },
      'x1',
    );
    if (added.ok) writeSync(1, `${added.key}\n`);
    if (count % 7 === 0 && added.ok) await queue.update(added.key, { ...envelope, attempts: 2 });
  }
}

await Promise.all(Array.from({ length: 10 }, () => worker(opened.queue)));
