/**
 * The demo's cluster as the stage of a drill: how to kill and revive a node, and whom to ask what is so.
 */
import type { Stage } from '../../src/drill/drill.ts';
import { realClock } from '../../src/net/clock.ts';
import { password } from '../lab/dovecot-node.ts';
import type { DemoCluster } from './cluster.ts';
import { staysIn } from './witness.ts';

interface StatusJson {
  readonly nodes: readonly { readonly name: string; readonly health: string }[];
  readonly queue: { readonly messages: number };
}
interface ExplainJson {
  readonly home: string;
  readonly place: { readonly node?: string };
}

export interface StageOptions {
  readonly cluster: DemoCluster;
  readonly users: readonly string[];
  readonly victim: string;
  tell(line: string): void;
}

export function demoStage({ cluster, users, victim, tell }: StageOptions): Stage {
  const { homing, ports, nodes, kills } = cluster;
  const ask = async <T>(path: string): Promise<T> => {
    const answer = await homing.admin(path);
    if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body}`);
    return answer.json as T;
  };
  const status = () => ask<StatusJson>('/v1/status');
  const explain = (user: string) => ask<ExplainJson>(`/v1/explain?user=${encodeURIComponent(user)}`);
  return {
    ...{ clock: realClock, victim, tell, accounts: users.map(user => ({ user, password })) },
    imap: { address: '127.0.0.1', port: ports.imap },
    smtp: { address: '127.0.0.1', port: ports.smtp },
    lmtp: { address: '127.0.0.1', port: ports.lmtp },
    kill: () => cluster.kill(victim),
    revive: async () => nodes.find(node => node.name === victim)?.restart(),
    isUp: async () => (await status()).nodes.some(node => node.name === victim && node.health !== 'down'),
    homeOf: async user => (await explain(user)).home,
    placeOf: async user => (await explain(user)).place.node ?? null,
    queued: async () => (await status()).queue.messages,
    logLines: () => homing.logLines(),
    stays: async () =>
      nodes.flatMap(node =>
        staysIn(
          { node: node.name, text: node.logText(), killedAtMs: kills.get(node.name) ?? [] },
          Date.now(),
        ),
      ),
  };
}
