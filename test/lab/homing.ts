/**
 * Homing itself under test, started by its launcher as a user starts it: `sh src/homing.sh serve --config F`.
 * All its processes share one session id; kill9 can take all of them, or the parent, serving or writer process alone.
 */
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse, stringify } from 'yaml';
import { type DovecotNode, mailOwner } from './dovecot-node.ts';
import { freePorts } from './ports.ts';
import { killAtExit, killSession, sessionGone, sessionProcesses, signal } from './processes.ts';
import { waitFor } from './wait.ts';

export const projectDir = fileURLToPath(new URL('../../', import.meta.url));

/** Settings as an object in the shape of the YAML file (docs/settings.md). */
export type SettingsTree = { [key: string]: unknown };

export type ListenKey = 'imap' | 'imaps' | 'lmtp' | 'smtp' | 'admin';

export interface HomingOptions {
  readonly settings: SettingsTree | string;
  /** Where the settings file is written and Homing's working folder; a child of a temp folder. */
  readonly runDir: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly limitMs?: number;
  /** Gets every line of the log as it comes. */
  readonly onLine?: (text: string) => void;
}

export type Role = 'parent' | 'serving' | 'writer';

/** A line of the log; all fields are the log's own. */
export type LogLine = { readonly [field: string]: unknown };

export interface Homing {
  /** The parent's process id. */
  readonly pid: number;
  readonly configFile: string;
  /** First port of each listener. */
  readonly ports: Readonly<Partial<Record<ListenKey, number>>>;
  /** SIGTERM; resolves with the exit code when all processes are gone. */
  stop(limitMs?: number): Promise<number | null>;
  /** kill -9 of everything, or of one role's process. */
  kill9(role?: Role): Promise<void>;
  signal(name: NodeJS.Signals): void;
  /** Process ids of a role that live now, newest last, as the log named them. */
  pids(role: Role): number[];
  /** Lines so far; those that are no JSON have the field `text`. */
  logLines(): readonly LogLine[];
  logText(): string;
  waitForLog(matches: (line: LogLine) => boolean, what: string, limitMs?: number): Promise<LogLine>;
  /** GET or POST on the admin listener. */
  admin(
    path: string,
    post?: { readonly body?: unknown },
  ): Promise<{ status: number; body: string; json: unknown }>;
  /** Resolves with the exit code when the parent has ended. */
  readonly ended: Promise<number | null>;
  /** Starts it anew with the same settings after stop() or kill9(). */
  restart(): Promise<void>;
}

/** Rewrites the settings file; send SIGHUP to have it read. */
export async function writeSettings(configFile: string, settings: SettingsTree | string): Promise<void> {
  await writeFile(configFile, typeof settings === 'string' ? settings : stringify(settings));
}

export async function startHoming(options: HomingOptions): Promise<Homing> {
  const { runDir, settings } = options;
  await mkdir(runDir, { recursive: true });
  const configFile = join(runDir, 'homing.yaml');
  await writeSettings(configFile, settings);
  let running = launch(options, configFile);
  const listening = listenersOf(settings);
  const up = () => allAccept(listening, running, options.limitMs ?? 20_000);
  await up();

  /** The parent says of each child it starts that it is ready; a child may have nothing to say itself. */
  const pids = (role: Role): number[] => {
    if (role === 'parent')
      return sessionProcesses(running.pid).some(row => row.pid === running.pid) ? [running.pid] : [];
    const alive = new Set(sessionProcesses(running.pid).map(row => row.pid));
    const told = running.lines.filter(line => line.child === role && line.msg === 'ready');
    return told.map(line => Number(line.childPid)).filter(pid => alive.has(pid));
  };
  return {
    get pid() {
      return running.pid;
    },
    get ended() {
      return running.ended;
    },
    ...{ configFile, pids },
    ports: Object.fromEntries(listening.map(({ key, port }) => [key, port])),
    signal: name => void signal(running.pid, name),
    logLines: () => running.lines,
    logText: () => running.text(),
    stop: async (limitMs = 15_000) => {
      signal(running.pid, 'SIGTERM');
      await sessionGone(running.pid, limitMs).catch(error => {
        killSession(running.pid);
        throw error;
      });
      running.forget();
      return running.ended;
    },
    kill9: async role => {
      if (role === undefined) {
        killSession(running.pid);
        await sessionGone(running.pid);
        running.forget();
        return;
      }
      const found = pids(role);
      if (found.length === 0) throw new Error(`no ${role} process is known\n${running.text()}`);
      for (const pid of found) signal(pid, 'SIGKILL');
    },
    restart: async () => {
      const before = running;
      await sessionGone(before.pid);
      running = launch(options, configFile, before.lines);
      await up();
    },
    waitForLog: (matches, what, limitMs = 10_000) =>
      waitFor(() => running.lines.find(matches), { what, limitMs, tell: () => running.text() }),
    admin: (path, post) => askAdmin(listening, path, post),
  };
}

interface Running {
  readonly pid: number;
  readonly lines: LogLine[];
  readonly ended: Promise<number | null>;
  hasEnded(): boolean;
  text(): string;
  forget(): void;
}

/** What is kept of the log: enough for the longest drill, bounded all the same. */
const mostLines = 500_000;

function launch(
  { env, onLine }: HomingOptions,
  configFile: string,
  earlier: readonly LogLine[] = [],
): Running {
  const launcher = join(projectDir, 'src/homing.sh');
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'sh', launcher, 'serve', '--config', configFile], {
    cwd: projectDir,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  if (child.pid === undefined) throw new Error('the launcher did not start');
  const lines: LogLine[] = [...earlier];
  const keep = (text: string): void => {
    onLine?.(text);
    if (lines.length < mostLines) lines.push(readLine(text));
  };
  eachLine(child.stdout, keep);
  eachLine(child.stderr, keep);
  let over = false;
  const ended = new Promise<number | null>(resolve => {
    child.once('error', () => resolve(null));
    child.once('close', code => {
      over = true;
      resolve(code);
    });
  });
  const text = (): string => lines.slice(-40).map(showLine).join('\n');
  return { pid: child.pid, lines, ended, hasEnded: () => over, text, forget: killAtExit(child.pid) };
}

function eachLine(stream: NodeJS.ReadableStream, take: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) if (part !== '') take(part);
  });
  stream.on('end', () => {
    if (rest !== '') take(rest);
  });
}

function readLine(text: string): LogLine {
  if (!text.startsWith('{')) return { text };
  try {
    return JSON.parse(text) as LogLine;
  } catch {
    return { text };
  }
}

function showLine(line: LogLine): string {
  const whole =
    typeof line.text === 'string' && Object.keys(line).length === 1 ? line.text : JSON.stringify(line);
  return whole.slice(0, 500);
}

interface Listening {
  readonly key: ListenKey;
  readonly address: string;
  readonly port: number;
}

function listenersOf(settings: SettingsTree | string): Listening[] {
  const tree = (typeof settings === 'string' ? parse(settings) : settings) as {
    listen?: Record<string, string[]>;
  };
  return Object.entries(tree.listen ?? {}).flatMap(([key, list]) => {
    const [address = '', port = ''] = (list[0] ?? '').split(/:(?=\d+$)/);
    return port === '' ? [] : [{ key: key as ListenKey, address, port: Number(port) }];
  });
}

/** Up is when admin says it is ready (it answers /readyz with 200), or, without admin, when every listener accepts. */
async function allAccept(listening: readonly Listening[], running: Running, limitMs: number): Promise<void> {
  const ready = await waitFor(
    async () => {
      if (running.hasEnded()) return 'ended' as const;
      return (await askAdmin(listening, '/readyz')).status === 200 ? ('ready' as const) : null;
    },
    { what: 'Homing to be ready', limitMs, tell: running.text },
  ).catch(error => {
    killSession(running.pid);
    throw error;
  });
  if (ready === 'ended') throw new Error(`Homing ended with code ${await running.ended}\n${running.text()}`);
}

async function askAdmin(
  listening: readonly Listening[],
  path: string,
  post?: { readonly body?: unknown },
): Promise<{ status: number; body: string; json: unknown }> {
  const at = listening.find(({ key }) => key === 'admin');
  if (at === undefined) throw new Error('the settings have no listen.admin');
  const body = post?.body === undefined ? '' : JSON.stringify(post.body);
  return new Promise((resolve, reject) => {
    const asking = request(
      {
        ...{
          host: at.address,
          port: at.port,
          path,
          method: post === undefined ? 'GET' : 'POST',
          agent: false,
          timeout: 5000,
        },
        headers:
          body === ''
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
      },
      answer => {
        let text = '';
        answer.setEncoding('utf8');
        answer.on('data', chunk => {
          text += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: text, json: readJson(text) }));
        answer.on('error', reject);
      },
    );
    asking.on('timeout', () => asking.destroy(new Error(`admin ${path}: no answer within 5 s`)));
    asking.on('error', reject);
    asking.end(body);
  });
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export interface LabSettings {
  readonly nodes: readonly Pick<DovecotNode, 'name' | 'address' | 'ports'>[];
  readonly spoolDir: string;
  /** Queue and state go here. */
  readonly runDir: string;
  /** Listeners to open on free ports of 127.0.0.1; all but imaps if left out. */
  readonly listen?: readonly ListenKey[];
  /** Merged over the top keys, one level deep: `{ delivery: { whenHomeDown: ['queue'] } }`. */
  readonly over?: SettingsTree;
}

/** Settings for lab nodes, quick to notice and to fail over. Also puts the spool's mark in place. */
export async function labSettings({
  nodes,
  spoolDir,
  runDir,
  listen,
  over = {},
}: LabSettings): Promise<SettingsTree> {
  const keys: readonly ListenKey[] = listen ?? ['imap', 'lmtp', 'smtp', 'admin'];
  const ports = await freePorts(keys.length);
  const mark = join(spoolDir, '.homing');
  await writeFile(mark, '');
  const tree: SettingsTree = {
    cluster: 'lab',
    nodes: nodes.map(({ name, address, ports: { imap, lmtp } }) => ({
      name,
      address,
      ports: { imap, lmtp },
    })),
    listen: Object.fromEntries(keys.map((key, n) => [key, [`127.0.0.1:${ports[n]}`]])),
    users: { defaultDomain: 'example.org', domains: ['example.org'] },
    health: { interval: '100ms', timeout: '500ms', rise: 2, fall: 2 },
    failover: { spread: '200ms' },
    spool: { path: join(spoolDir, '{domain}/{local}/Maildir'), mark, user: mailOwner().user },
    queue: { path: join(runDir, 'queue'), backoff: { first: '200ms', most: '2s' } },
    state: { path: join(runDir, 'state') },
    log: { level: 'debug', file: '-' },
  };
  for (const [key, value] of Object.entries(over)) {
    const old = tree[key];
    tree[key] = isTree(old) && isTree(value) ? { ...old, ...value } : value;
  }
  return tree;
}

function isTree(value: unknown): value is SettingsTree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
