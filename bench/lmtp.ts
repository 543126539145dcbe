/**
 * Messages a second by LMTP: through Homing to three Dovecot nodes, against straight to one node, in turns within one run.
 * Prints each round, the medians and their ratio, and the CPU that Homing itself used for a message. Read the ratio: all of it shares
 * this machine's cores. Run: npm run bench -- [--messages 2000] [--rounds 5] [--connections 10]
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openMailTalk } from '../src/drill/mail-talk.ts';
import { startDovecotNode } from '../test/lab/dovecot-node.ts';
import { labSettings, startHoming } from '../test/lab/homing.ts';
import { numberedMessage } from '../test/lab/mail.ts';
import { sessionProcesses } from '../test/lab/processes.ts';
import { openTempFolder } from '../test/lab/temp-folder.ts';

const { values } = parseArgs({
  options: {
    messages: { type: 'string', default: '2000' },
    rounds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '10' },
  },
});
const messages = Number(values.messages);
const rounds = Number(values.rounds);
const connections = Number(values.connections);
const perConnection = 100;
const bodyBytes = 4096;
const users = Array.from({ length: 60 }, (_, n) => `user${n}@example.org`);

interface To {
  readonly address: string;
  readonly port: number;
}

/** Messages a second, over `connections` links that are renewed every hundred messages. */
async function deliverAll(to: To): Promise<number> {
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < messages) {
      const talk = await openMailTalk(to);
      await talk.ask('LHLO bench.invalid');
      for (let i = 0; i < perConnection && next < messages; i += 1) {
        const number = next++;
        const user = users[number % users.length] ?? '';
        talk.write(`MAIL FROM:<bench@example.net>\r\nRCPT TO:<${user}>\r\nDATA\r\n`);
        for (const wanted of [250, 250, 354]) expect((await talk.reply()).code, wanted);
        talk.write(`${numberedMessage({ number, to: user, bodyBytes })}.\r\n`);
        expect((await talk.reply()).code, 250);
      }
      talk.close();
    }
  };
  const startedAtMs = performance.now();
  await Promise.all(Array.from({ length: connections }, one));
  return messages / ((performance.now() - startedAtMs) / 1000);
}

function expect(code: number, wanted: number): void {
  if (code !== wanted) throw new Error(`${code} where ${wanted} was due`);
}

/** User and system time of a session's processes, in seconds. Children that ended are not in it: Homing's live long. */
function cpuSeconds(session: number): number {
  let ticks = 0;
  for (const { pid } of sessionProcesses(session)) {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / 100;
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0;

const folder = await openTempFolder('homing-bench');
const spoolDir = join(folder.path, 'spool');
const start = (n: number) =>
  startDovecotNode({
    name: `mail${n}`,
    address: `127.0.0.${70 + n}`,
    spoolDir,
    runDir: join(folder.path, `mail${n}`),
    users,
  });
const nodes = await Promise.all([1, 2, 3].map(start));
const runDir = join(folder.path, 'homing');
const settings = await labSettings({
  nodes,
  spoolDir,
  runDir,
  over: { log: { level: 'info', file: join(runDir, 'log') } },
});
const homing = await startHoming({ settings, runDir });
try {
  const straight = { address: nodes[0]?.address ?? '', port: nodes[0]?.ports.lmtp ?? 0 };
  const through = { address: '127.0.0.1', port: homing.ports.lmtp ?? 0 };
  // Warm-up: processes forked, maildirs made, code compiled.
  await deliverAll(straight);
  await deliverAll(through);
  const rates: { straight: number[]; through: number[]; cpuUs: number[] } = {
    straight: [],
    through: [],
    cpuUs: [],
  };
  for (let round = 1; round <= rounds; round += 1) {
    const direct = await deliverAll(straight);
    const cpuBefore = cpuSeconds(homing.pid);
    const proxied = await deliverAll(through);
    const cpuUs = ((cpuSeconds(homing.pid) - cpuBefore) / messages) * 1e6;
    rates.straight.push(direct);
    rates.through.push(proxied);
    rates.cpuUs.push(cpuUs);
    console.log(
      `round ${round}: straight to one node ${direct.toFixed(0)}/s, through Homing to three ${proxied.toFixed(0)}/s, ratio ${(proxied / direct).toFixed(2)}, Homing's CPU ${cpuUs.toFixed(0)} µs a message`,
    );
  }
  const ratio = median(rates.through) / median(rates.straight);
  console.log(
    `median: straight ${median(rates.straight).toFixed(0)}/s, through Homing ${median(rates.through).toFixed(0)}/s, ratio ${ratio.toFixed(2)}, Homing's CPU ${median(rates.cpuUs).toFixed(0)} µs a message (${messages} messages of ${bodyBytes} bytes a round, ${connections} connections)`,
  );
} finally {
  await homing.stop();
  await Promise.all(nodes.map(node => node.stop()));
  await folder.remove();
}
