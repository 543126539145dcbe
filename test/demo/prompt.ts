/**
 * The demo takes orders from its terminal: `kill mail2`, `start mail2`, `map`. Each answers one line or a table.
 */
import { createInterface } from 'node:readline';
import { type DemoCluster, demoUsers, mapUsers } from './cluster.ts';
import { mapLines } from './pages.ts';

export const orderLines: readonly string[] = [
  'Type here, then Enter:',
  '  kill mail2      kill -9 of that node and all its processes',
  '  start mail2     bring it back',
  '  where           where each user would be sent now, and why',
];

/** Reads orders until `close`. */
export function takeOrders(cluster: DemoCluster, say: (line: string) => void): { close(): void } {
  // Not as a terminal: the terminal's own line editing is enough, and Ctrl-C stays a signal.
  const lines = createInterface({ input: process.stdin, terminal: false });
  let last = Promise.resolve();
  lines.on('line', line => {
    last = last.then(() => obey(line.trim(), cluster, say)).catch(error => say(`failed: ${error}`));
  });
  return {
    close: () => {
      lines.close();
      process.stdin.destroy();
    },
  };
}

async function obey(line: string, cluster: DemoCluster, say: (line: string) => void): Promise<void> {
  const [verb = '', name = ''] = line.split(/\s+/);
  if (verb === '') return;
  const node = cluster.nodes.find(one => one.name === name);
  if (verb === 'where') {
    for (const row of mapLines(await places(cluster), 'NODE NOW')) say(row);
  } else if (node === undefined || (verb !== 'kill' && verb !== 'start')) {
    for (const row of orderLines) say(row);
  } else if (verb === 'kill') {
    await cluster.kill(name);
    say(`${name} is dead`);
  } else {
    await node.restart();
    say(`${name} runs again`);
  }
}

interface Explained {
  readonly user: string;
  readonly place: { readonly node?: string; readonly kind: string; readonly why: string };
}

/** The running proxy's word; where it gives none, what the settings alone say. */
async function places({ homing }: DemoCluster): Promise<{ user: string; node: string; why: string }[]> {
  const rows: { user: string; node: string; why: string }[] = [];
  for (const user of demoUsers) {
    const answer = await homing.admin(`/v1/explain?user=${encodeURIComponent(user)}`);
    if (answer.status !== 200) return mapUsers(homing.configFile, demoUsers);
    const { place } = answer.json as Explained;
    rows.push({ user, node: place.node ?? '-', why: `${place.kind}: ${place.why}` });
  }
  return rows;
}
