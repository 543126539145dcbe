/**
 * The demo's cluster: three real Dovecot nodes on 127.0.0.11-13 over one maildir tree in a temporary folder, and Homing
 * before them, started by its launcher. `end` ends everything and removes the folder; so does the end of this process.
 */
import { execFile } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type DovecotNode, mailOwner, startDovecotNode } from '../lab/dovecot-node.ts';
import type { DovecotPorts } from '../lab/dovecot-settings.ts';
import { type Homing, projectDir, type SettingsTree, startHoming } from '../lab/homing.ts';
import { freePorts, isFree } from '../lab/ports.ts';
import { openTempFolder } from '../lab/temp-folder.ts';

const run = promisify(execFile);

export const demoUsers: readonly string[] = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank'].map(
  name => `${name}@example.org`,
);

/** Fixed, so that a line copied from the screen works the next time too. */
const nodePorts: DovecotPorts = { imap: 10143, lmtp: 10024, pop3: 10110, sieve: 14190 };
const homingPorts = { imap: 1143, imaps: 1993, lmtp: 1024, smtp: 1025, admin: 8025 };
const nodeAddresses = { mail1: '127.0.0.11', mail2: '127.0.0.12', mail3: '127.0.0.13' };

export type HomingPorts = Readonly<Record<keyof typeof homingPorts, number>>;

export interface DemoOptions {
  readonly users: readonly string[];
  /** A folder with another system whose Dovecot is used (test/lab/trixie.sh). */
  readonly rootFs: string | null;
  /** Free ports in place of the fixed ones: for tests that run beside each other. */
  readonly freePorts: boolean;
  tell(line: string): void;
}

export interface DemoCluster {
  readonly folder: string;
  readonly nodes: readonly DovecotNode[];
  readonly homing: Homing;
  readonly ports: HomingPorts;
  readonly logFile: string;
  /** Unix ms of each kill, by node. */
  readonly kills: ReadonlyMap<string, number[]>;
  kill(node: string): Promise<void>;
  end(): Promise<void>;
}

export async function startCluster(options: DemoOptions): Promise<DemoCluster> {
  const { users, rootFs, tell } = options;
  const folder = await openTempFolder('demo');
  const spoolDir = join(folder.path, 'spool');
  const nodes: DovecotNode[] = [];
  let homing: Homing | null = null;
  const end = async (): Promise<void> => {
    await homing?.stop(8000).catch(() => undefined);
    await Promise.all(nodes.map(node => node.stop()));
    await folder.remove();
  };
  try {
    for (const [name, address] of Object.entries(nodeAddresses)) {
      const ports = options.freePorts ? undefined : await portsOrOthers(nodePorts, address, tell);
      const runDir = join(folder.path, name);
      const more = { ...(ports === undefined ? {} : { ports }), ...(rootFs === null ? {} : { rootFs }) };
      nodes.push(await startDovecotNode({ name, address, spoolDir, runDir, users, ...more }));
    }
    const ports = options.freePorts
      ? await anyPorts(homingPorts)
      : await portsOrOthers(homingPorts, '127.0.0.1', tell);
    const certificate = await makeCertificate(folder.path);
    const settings = await demoSettings({ folder: folder.path, spoolDir, nodes, ports, certificate });
    const logFile = join(folder.path, 'homing.log');
    const logStream = createWriteStream(logFile, { flags: 'a' });
    homing = await startHoming({
      settings,
      runDir: folder.path,
      onLine: text => logStream.write(`${text}\n`),
    });
    const kills = new Map<string, number[]>(nodes.map(node => [node.name, []]));
    const kill = async (name: string): Promise<void> => {
      kills.get(name)?.push(Date.now());
      await nodes.find(node => node.name === name)?.kill();
    };
    return { ...{ folder: folder.path, nodes, homing, ports, logFile, kills, kill, end } };
  } catch (error) {
    await end();
    throw error;
  }
}

/** The wanted ports, each replaced by a free one, aloud, where somebody listens already. */
async function portsOrOthers<K extends string>(
  wanted: Readonly<Record<K, number>>,
  address: string,
  tell: (line: string) => void,
): Promise<Record<K, number>> {
  const chosen: Record<K, number> = { ...wanted };
  for (const key of Object.keys(wanted) as K[]) {
    if (await isFree(wanted[key], address)) continue;
    const [other = 0] = await freePorts(1, address);
    chosen[key] = other;
    tell(`${address}:${wanted[key]} (${key}) is taken; using ${address}:${other} instead`);
  }
  return chosen;
}

async function anyPorts<K extends string>(wanted: Readonly<Record<K, number>>): Promise<Record<K, number>> {
  const keys = Object.keys(wanted) as K[];
  const free = await freePorts(keys.length);
  return Object.fromEntries(keys.map((key, n) => [key, free[n] ?? 0])) as Record<K, number>;
}

interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** Self-signed, for a month; its key is readable by whoever starts the demo alone. */
async function makeCertificate(folder: string): Promise<Certificate> {
  const cert = join(folder, 'cert.pem');
  const key = join(folder, 'key.pem');
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30'];
  await run('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', key, '-out', cert]);
  return { cert, key };
}

interface SettingsParts {
  readonly folder: string;
  readonly spoolDir: string;
  readonly nodes: readonly DovecotNode[];
  readonly ports: HomingPorts;
  readonly certificate: Certificate;
}

async function demoSettings({
  folder,
  spoolDir,
  nodes,
  ports,
  certificate,
}: SettingsParts): Promise<SettingsTree> {
  const mark = join(spoolDir, '.homing');
  await writeFile(mark, 'The shared spool is mounted while this file is here.\n');
  return {
    cluster: 'demo',
    nodes: nodes.map(({ name, address, ports: { imap, pop3, sieve, lmtp } }) => ({
      ...{ name, address, ports: { imap, pop3, sieve, lmtp } },
    })),
    listen: Object.fromEntries(Object.entries(ports).map(([key, port]) => [key, [`127.0.0.1:${port}`]])),
    tls: certificate,
    users: { defaultDomain: 'example.org', domains: ['example.org'] },
    health: { interval: '200ms', timeout: '800ms', rise: 2, fall: 2 },
    failover: { spread: '500ms' },
    delivery: { whenHomeDown: { smtp: ['direct', 'queue'], lmtp: ['direct'] } },
    spool: { path: join(spoolDir, '{domain}/{local}/Maildir'), mark, user: mailOwner().user },
    queue: { path: join(folder, 'queue'), backoff: { first: '1s', most: '5s' } },
    state: { path: join(folder, 'state') },
    shutdown: { limit: '2s' },
    log: { level: 'info', file: '-' },
  };
}

export interface MapRow {
  readonly user: string;
  readonly node: string;
  readonly why: string;
}

/** What `homing map --json` says: it needs no running proxy. */
export async function mapUsers(configFile: string, users: readonly string[]): Promise<MapRow[]> {
  const launcher = join(projectDir, 'src/homing.sh');
  const { stdout } = await run('sh', [launcher, 'map', '--config', configFile, '--json', ...users]);
  return stdout
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line) as MapRow);
}
