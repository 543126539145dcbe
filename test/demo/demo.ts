/**
 * `npm run demo`: a cluster to look at and to connect a mail client to, until Ctrl-C.
 * `npm run demo -- --drill`: the same cluster, a node killed and brought back, and a report; exit 1 if a promise was broken.
 * Leaves nothing running and nothing on the disk, however it ends.
 */
import { parseArgs } from 'node:util';
import { runDrill, usualDrill } from '../../src/drill/drill.ts';
import { sendOne } from '../../src/drill/mail-talk.ts';
import { brokenPromises, reportLines } from '../../src/drill/report.ts';
import { numberedMessage } from '../lab/mail.ts';
import { type DemoCluster, demoUsers, type MapRow, mapUsers, startCluster } from './cluster.ts';
import { demoStage } from './drill-stage.ts';
import { connectLines, mapLines, usageText } from './pages.ts';
import { orderLines, takeOrders } from './prompt.ts';

/** Sessions must be back this long after the death was noticed: spread of the closes, a retry, a hold's worth of slack. */
const backWithinMs = 5000;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

interface Wishes {
  readonly drill: boolean;
  readonly rootFs: string | null;
  readonly freePorts: boolean;
  readonly perSecond: number;
}

function readArguments(): Wishes | string {
  try {
    const { values } = parseArgs({
      options: {
        drill: { type: 'boolean', default: false },
        'dovecot-root': { type: 'string' },
        'free-ports': { type: 'boolean', default: false },
        rate: { type: 'string', default: String(usualDrill.perSecond) },
        help: { type: 'boolean', default: false },
      },
    });
    const perSecond = Number(values.rate);
    if (values.help) return usageText;
    if (!(perSecond >= 1 && perSecond <= 500)) return '--rate: messages a second, 1 to 500';
    return {
      ...{ drill: values.drill, freePorts: values['free-ports'], perSecond },
      rootFs: values['dovecot-root'] ?? null,
    };
  } catch (error) {
    return `${error instanceof Error ? error.message : String(error)}\n${usageText}`;
  }
}

async function main(): Promise<number> {
  const wishes = readArguments();
  if (typeof wishes === 'string') {
    say(wishes);
    return wishes === usageText ? 0 : 64;
  }
  const stop = new AbortController();
  const stopped = new Promise<'stopped'>(resolve =>
    stop.signal.addEventListener('abort', () => resolve('stopped')),
  );
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      // The second time somebody means it: nodes and Homing are killed by the exit hooks.
      if (stop.signal.aborted) process.exit(130);
      stop.abort();
    });
  }
  say('Starting three Dovecot nodes and Homing …');
  const cluster = await startCluster({
    users: demoUsers,
    rootFs: wishes.rootFs,
    freePorts: wishes.freePorts,
    tell: say,
  });
  let orders: { close(): void } | null = null;
  try {
    const rows = await mapUsers(cluster.homing.configFile, demoUsers);
    await deliverSomeMail(cluster);
    for (const line of mapLines(rows)) say(line);
    if (wishes.drill) {
      const played = drill(cluster, rows, wishes.perSecond);
      const code = await Promise.race([played, stopped]);
      return code === 'stopped' ? 130 : code;
    }
    for (const line of connectLines(cluster)) say(line);
    for (const line of orderLines) say(line);
    say('Ctrl-C ends it all.\n');
    orders = takeOrders(cluster, say);
    const ended = await Promise.race([stopped, cluster.homing.ended]);
    if (ended === 'stopped') return 0;
    say(`Homing ended by itself (${ended ?? 'killed'}); its last lines:\n${cluster.homing.logText()}`);
    return 1;
  } finally {
    orders?.close();
    say('Stopping …');
    await cluster.end();
    say('Stopped: nothing is left running.');
  }
}

async function deliverSomeMail({ ports }: DemoCluster): Promise<void> {
  const from = 'friend@example.net';
  for (const [n, user] of demoUsers.entries()) {
    for (const subject of ['Welcome', 'This came through Homing']) {
      const message = numberedMessage({ number: `hello-${n}-${subject.length}`, to: user, from, subject });
      const at = { address: '127.0.0.1', port: ports.lmtp };
      const [receipt] = await sendOne(at, { kind: 'lmtp', from, to: [user], message });
      if (receipt?.kind !== 'acknowledged')
        throw new Error(`mail for ${user} was not taken: ${receipt?.text}`);
    }
  }
}

async function drill(cluster: DemoCluster, rows: readonly MapRow[], perSecond: number): Promise<number> {
  const stage = demoStage({
    cluster,
    users: demoUsers,
    victim: busiestNode(rows),
    tell: line => say(`… ${line}`),
  });
  const record = await runDrill(stage, { ...usualDrill, perSecond });
  say('');
  for (const line of reportLines(record, { backWithinMs })) say(line);
  say('');
  return brokenPromises(record, { backWithinMs }).length === 0 ? 0 : 1;
}

/** The node that is home to most: its death is felt most. */
function busiestNode(rows: readonly MapRow[]): string {
  const counts = Map.groupBy(rows, row => row.node);
  const [[busiest = 'mail1'] = []] = [...counts].toSorted(([, a], [, b]) => b.length - a.length);
  return busiest;
}

process.exitCode = await main().catch(error => {
  say(error instanceof Error ? error.message : String(error));
  return 1;
});
