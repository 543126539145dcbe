/**
 * The world of the tests of the whole: real Dovecot nodes over one tree, and Homing before them, started as a user starts it.
 * Every user has the lab's password; who lives where is asked of `homing map`, never assumed.
 */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type DovecotNode, startDovecotNode } from '../lab/dovecot-node.ts';
import { type Homing, type ListenKey, labSettings, type SettingsTree, startHoming } from '../lab/homing.ts';
import { sessionProcesses } from '../lab/processes.ts';
import { openTempFolder, type TempFolder } from '../lab/temp-folder.ts';
import { waitFor } from '../lab/wait.ts';
import { makeCertificate } from '../unit/net/certificate.ts';
import { homingCommand, type RawAt } from './operating.ts';

export interface OperatedOptions {
  readonly name: string;
  /** The nodes' addresses are 127.0.0.FROM and on. */
  readonly from: number;
  readonly nodes?: number;
  readonly users?: number;
  readonly listen?: readonly ListenKey[];
  readonly over?: SettingsTree;
  /** Lines for every node's dovecot.conf. */
  readonly extra?: string;
}

export class Operated {
  readonly folder: TempFolder;
  readonly nodes: DovecotNode[] = [];
  readonly users: readonly string[];
  readonly certificate: { readonly cert: string; readonly key: string };
  homing!: Homing;
  settings: SettingsTree = {};

  private constructor(
    folder: TempFolder,
    users: readonly string[],
    certificate: { cert: string; key: string },
  ) {
    this.folder = folder;
    this.users = users;
    this.certificate = certificate;
  }

  static async start(options: OperatedOptions): Promise<Operated> {
    const { name, from, nodes = 3, users: count = 30 } = options;
    const folder = await openTempFolder(name);
    const users = Array.from({ length: count }, (_, index) => `user${index}@example.org`);
    const world = new Operated(
      folder,
      users,
      await makeCertificate(folder.path, 'proxy', 'mail.example.org'),
    );
    try {
      for (let index = 1; index <= nodes; index += 1)
        await world.addNode(`mail${index}`, `127.0.0.${from + index}`, options.extra);
      world.settings = await world.settingsWith(options.over ?? {}, options.listen);
      world.homing = await startHoming({ runDir: join(folder.path, 'homing'), settings: world.settings });
      return world;
    } catch (error) {
      await world.end();
      throw error;
    }
  }

  async addNode(name: string, address: string, extra = ''): Promise<DovecotNode> {
    const { path } = this.folder;
    const node = await startDovecotNode({
      ...{ name, address, spoolDir: this.spoolDir, runDir: join(path, name), users: this.users, extra },
    });
    this.nodes.push(node);
    return node;
  }

  get spoolDir(): string {
    return join(this.folder.path, 'spool');
  }

  async settingsWith(over: SettingsTree, listen?: readonly ListenKey[]): Promise<SettingsTree> {
    return labSettings({
      nodes: this.nodes,
      spoolDir: this.spoolDir,
      runDir: join(this.folder.path, 'homing'),
      listen: listen ?? ['imap', 'imaps', 'lmtp', 'smtp', 'admin'],
      over: { tls: this.certificate, ...over },
    });
  }

  /** A new start beside what may be left of the last one. */
  async startAgain(more: { readonly onLine?: (text: string) => void } = {}): Promise<Homing> {
    const runDir = join(this.folder.path, 'homing');
    this.homing = await startHoming({ runDir, settings: this.settings, ...more });
    return this.homing;
  }

  /** Rewrites the settings file and sends SIGHUP. */
  async reload(settings: SettingsTree | string): Promise<void> {
    const { stringify } = await import('yaml');
    await writeFile(this.homing.configFile, typeof settings === 'string' ? settings : stringify(settings));
    this.homing.signal('SIGHUP');
  }

  async end(): Promise<void> {
    await this.homing?.kill9().catch(() => undefined);
    for (const node of this.nodes) node.thaw();
    await Promise.all(this.nodes.map(node => node.kill()));
    await this.folder.remove();
  }

  at(key: ListenKey = 'imap'): RawAt {
    return { port: this.homing.ports[key] ?? 0, tls: key === 'imaps' };
  }

  /** The living process of a role, by its command line; 0 where there is none. The parent's `children` die with it or after it. */
  pidOf(role: 'serving' | 'writer'): number {
    const found = sessionProcesses(this.homing.pid).filter(({ pid }) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(`--process=${role}`);
      } catch {
        return false;
      }
    });
    return found.at(-1)?.pid ?? 0;
  }

  node(name: string): DovecotNode {
    const found = this.nodes.find(node => node.name === name);
    if (found === undefined) throw new Error(`there is no node ${name}`);
    return found;
  }

  /** `homing VERB …` with these settings; throws unless it answers 0. */
  async order(...args: readonly string[]): Promise<string> {
    const { code, out, err } = await homingCommand([...args, '--config', this.homing.configFile]);
    if (code !== 0)
      throw new Error(`homing ${args.join(' ')}: ${code}\n${out}${err}\n${this.homing.logText()}`);
    return out;
  }

  async ask<T>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await this.order(...args, '--json')) as T;
  }

  /** Home of each user, by `homing map`. */
  async homes(): Promise<Map<string, string>> {
    const out = await this.order('map', '--json', ...this.users);
    const rows = out
      .split('\n')
      .filter(Boolean)
      .map(line => JSON.parse(line) as { user: string; node: string });
    return new Map(rows.map(({ user, node }) => [user, node]));
  }

  /** Users at home on that node, by `homing map`. */
  async usersOf(name: string): Promise<string[]> {
    return [...(await this.homes())].filter(([, node]) => node === name).map(([user]) => user);
  }

  /** Where the running Homing places the user. */
  async placeOf(user: string): Promise<{ kind: string; node?: string; why: string }> {
    const answer = await this.homing.admin(`/v1/explain?user=${encodeURIComponent(user)}`);
    return (answer.json as { place: { kind: string; node?: string; why: string } }).place;
  }

  async isPlacedOn(user: string, name: string, limitMs = 10_000): Promise<void> {
    let last = '';
    await waitFor(
      async () => {
        const place = await this.placeOf(user);
        last = JSON.stringify(place);
        return place.node === name;
      },
      { what: `${user} to be placed on ${name}`, limitMs, tell: () => `${last}\n${this.homing.logText()}` },
    );
  }

  async nodeRow(name: string): Promise<NodeRow> {
    const { json } = await this.homing.admin('/v1/status');
    const row = (json as { nodes: NodeRow[] }).nodes.find(one => one.name === name);
    if (row === undefined) throw new Error(`status has no ${name}`);
    return row;
  }

  async isNode(
    name: string,
    matches: (row: NodeRow) => boolean,
    what: string,
    limitMs = 10_000,
  ): Promise<void> {
    await waitFor(async () => matches(await this.nodeRow(name)), {
      what: `${name} ${what}`,
      limitMs,
      tell: () => this.homing.logText(),
    });
  }

  /** How often the node's own log says that the user logged in there. */
  loginsAt(name: string, user: string): number {
    return this.node(name).logText().split(`imap-login: Info: Login: user=<${user}>`).length - 1;
  }
}

export interface NodeRow {
  readonly name: string;
  readonly weight: number;
  readonly admin: string;
  readonly health: string;
  readonly sessions: number;
  readonly users: number;
}
