/**
 * The world of the mail tests: Homing, started as a user starts it, before three real Dovecot nodes over one maildir tree, and a client
 * that keeps books. What arrived is counted from the mailboxes by X-Number, and by whom it was handed over from the nodes' own logs.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ExplainAnswer, StatusAnswer } from '../../src/core/status.ts';
import { type DovecotNode, mailOwner, startDovecotNode } from '../lab/dovecot-node.ts';
import { type Homing, type LogLine, labSettings, type SettingsTree, startHoming } from '../lab/homing.ts';
import { maildirFiles, maildirOf, numbersInMaildir } from '../lab/imap-count.ts';
import { handOver, numberedMessage, type Receipt } from '../lab/mail.ts';
import { openTempFolder } from '../lab/temp-folder.ts';
import { waitFor } from '../lab/wait.ts';

export const isLong = process.env.HOMING_LONG === '1';

const addresses = { mail1: '127.0.0.11', mail2: '127.0.0.12', mail3: '127.0.0.13' } as const;
export type LabNode = keyof typeof addresses;
export const nodeNames: readonly LabNode[] = ['mail1', 'mail2', 'mail3'];

export interface MailWorldOptions {
  readonly name: string;
  /** Users at each node; each node knows all of them. */
  readonly usersEach?: number;
  readonly over?: SettingsTree;
  /** A file system of its own, of this size (`16m`), for the spool or a part of the queue. */
  readonly mounts?: Readonly<Partial<Record<'spool' | 'messages' | 'bodies', string>>>;
}

export interface SendWish {
  readonly from?: string;
  readonly bodyBytes?: number;
  readonly replyLimitMs?: number;
}

export interface Sent {
  readonly number: string;
  readonly receipts: readonly Receipt[];
}

export interface MailWorld {
  readonly folder: string;
  readonly spoolDir: string;
  readonly homing: Homing;
  readonly users: readonly string[];
  node(name: LabNode): DovecotNode;
  /**
   * kill -9, and what an administrator does before such a node comes back: dot locks that its processes left in their users' mailboxes
   * go. A mailbox was seen to take mail and not to answer for minutes after such a death. Returns what was removed.
   */
  killUnderLoad(name: LabNode): Promise<readonly string[]>;
  usersOf(name: LabNode): readonly string[];
  homeOf(user: string): LabNode;
  /** A numbered message on a connection of its own. */
  send(kind: 'lmtp' | 'smtp', to: string | readonly string[], wish?: SendWish): Promise<Sent>;
  /** The same again, as a client does after a 4xx. */
  sendAgain(kind: 'lmtp' | 'smtp', to: string | readonly string[], number: string): Promise<Sent>;
  /** How often the number is in the user's mailbox, from its files. */
  count(user: string, number: string): Promise<number>;
  /** The stored message; asserts that it is there once. */
  stored(user: string, number: string): Promise<string>;
  /**
   * Which nodes say in their own logs that they saved it for somebody; a node twice where it did so twice. A log follows its reply by a
   * moment: waits until there are so many.
   */
  savedBy(number: string, atLeast: number): Promise<LabNode[]>;
  health(name: LabNode): Promise<string>;
  waitForHealth(name: LabNode, health: 'up' | 'down', limitMs?: number): Promise<void>;
  placeOf(user: string): Promise<ExplainAnswer['place']>;
  /** Messages in our queue. */
  queued(): Promise<number>;
  waitForEmptyQueue(limitMs?: number): Promise<void>;
  /** The log's delivery lines of what this sender sent, once so many are there. */
  deliveries(from: string, atLeast: number): Promise<readonly LogLine[]>;
  mountOf(part: 'spool' | 'messages' | 'bodies'): Mount;
  end(): Promise<void>;
}

/** A small file system that can be made read-only and filled. */
export interface Mount {
  readonly path: string;
  readOnly(is: boolean): void;
  /** Leaves no free block; `free` gives all back. */
  fill(): void;
  free(): void;
  unmount(): void;
}

let numbers = 0;
export function nextNumber(): string {
  numbers += 1;
  return `${process.pid}-${numbers}`;
}

export async function startMailWorld(options: MailWorldOptions): Promise<MailWorld> {
  const folder = await openTempFolder(options.name);
  const spoolDir = join(folder.path, 'spool');
  const queueDir = join(folder.path, 'homing/queue');
  const mounts = new Map<string, Mount>();
  const nodes = new Map<LabNode, DovecotNode>();
  let homing: Homing | undefined;
  const end = async (): Promise<void> => {
    for (const node of nodes.values()) node.thaw();
    for (const mount of mounts.values()) mount.readOnly(false);
    // With nothing under way it must end by itself; said once all else is cleared away.
    const stuck = await homing?.stop(8000).then(
      () => undefined,
      (error: unknown) => error,
    );
    await Promise.all([...nodes.values()].map(node => node.stop()));
    for (const mount of mounts.values()) mount.unmount();
    await folder.remove();
    if (stuck !== undefined) throw stuck;
  };
  try {
    for (const [part, size] of Object.entries(options.mounts ?? {})) {
      mounts.set(part, mountAt(part === 'spool' ? spoolDir : join(queueDir, part), size));
    }
    const pool = candidates(options.usersEach ?? 4);
    const starting = nodeNames.map(async name => {
      const runDir = join(folder.path, name);
      const node = await startDovecotNode({ name, address: addresses[name], spoolDir, runDir, users: pool });
      nodes.set(name, node);
    });
    await Promise.all(starting);
    const runDir = join(folder.path, 'homing');
    const inOrder = nodeNames.flatMap(name => nodes.get(name) ?? []);
    const settings = await labSettings({ nodes: inOrder, spoolDir, runDir, over: options.over ?? {} });
    homing = await startHoming({ settings, runDir });
    return { ...(await world(homing, nodes, pool, spoolDir, options)), folder: folder.path, end, mountOf };
  } catch (error) {
    await end();
    throw error;
  }

  function mountOf(part: string): Mount {
    const mount = mounts.get(part);
    assert.ok(mount, `${part} has no file system of its own`);
    return mount;
  }
}

/** More than needed: the ranking deals them out by chance. */
function candidates(each: number): string[] {
  return Array.from({ length: each * 6 + 6 }, (_, n) => `user${n}@example.org`);
}

async function world(
  homing: Homing,
  nodes: ReadonlyMap<LabNode, DovecotNode>,
  pool: readonly string[],
  spoolDir: string,
  { usersEach = 4 }: MailWorldOptions,
): Promise<Omit<MailWorld, 'folder' | 'end' | 'mountOf'>> {
  const explain = async (user: string): Promise<ExplainAnswer> =>
    (await homing.admin(`/v1/explain?user=${encodeURIComponent(user)}`)).json as ExplainAnswer;
  const byHome = new Map<LabNode, string[]>(nodeNames.map(name => [name, []]));
  for (const user of pool) {
    const list = byHome.get((await explain(user)).home as LabNode);
    if (list !== undefined && list.length < usersEach) list.push(user);
  }
  const homes = new Map([...byHome].flatMap(([name, users]) => users.map(user => [user, name] as const)));
  const users = [...homes.keys()];
  assert.equal(users.length, usersEach * 3, 'each node has its users');
  const node = (name: LabNode): DovecotNode => {
    const found = nodes.get(name);
    assert.ok(found);
    return found;
  };
  const post = async (
    kind: 'lmtp' | 'smtp',
    to: string | readonly string[],
    number: string,
    wish: SendWish = {},
  ): Promise<Sent> => {
    const port = homing.ports[kind] ?? 0;
    return { number, receipts: await handOver({ kind, port, to, number, ...wish }) };
  };
  const health = async (name: LabNode): Promise<string> => {
    const rows = ((await homing.admin('/v1/status')).json as StatusAnswer).nodes;
    return rows.find(row => row.name === name)?.health ?? '';
  };
  const queued = async (): Promise<number> =>
    ((await homing.admin('/v1/queue')).json as { messages: number }).messages;
  return {
    ...{ spoolDir, homing, users, node, health, queued },
    usersOf: name => byHome.get(name) ?? [],
    killUnderLoad: async name => {
      await node(name).kill();
      const mailboxes = (byHome.get(name) ?? []).map(user => maildirOf(spoolDir, user));
      const locks = mailboxes.flatMap(path =>
        readdirSync(path)
          .filter(file => file.endsWith('.lock'))
          .map(file => join(path, file)),
      );
      for (const lock of locks) rmSync(lock, { force: true });
      return locks;
    },
    homeOf: user => {
      const home = homes.get(user);
      assert.ok(home, `${user} is no user here`);
      return home;
    },
    send: (kind, to, wish) => post(kind, to, nextNumber(), wish),
    sendAgain: (kind, to, number) => post(kind, to, number),
    count: async (user, number) => (await numbersInMaildir(spoolDir, user)).get(number) ?? 0,
    stored: async (user, number) => {
      const texts = await Promise.all(
        (await maildirFiles(spoolDir, user)).map(file => readFile(file, 'latin1')),
      );
      const found = texts.filter(text => new RegExp(`^X-Number: ${number}\\r?$`, 'm').test(text));
      assert.equal(found.length, 1, `message ${number} of ${user}`);
      return found[0] ?? '';
    },
    savedBy: (number, atLeast) =>
      waitFor(
        () => {
          const found = nodeNames.flatMap(name =>
            node(name)
              .logText()
              .split('\n')
              .filter(
                line => line.includes(`<number.${number}@lab.invalid>`) && /: (saved|stored) mail/.test(line),
              )
              .map(() => name),
          );
          return found.length >= atLeast ? found : null;
        },
        { what: `${atLeast} lines about ${number} in the nodes' logs` },
      ),
    waitForHealth: async (name, wanted, limitMs = 15_000) => {
      await waitFor(async () => (await health(name)) === wanted, {
        ...{ what: `${name} to be ${wanted}`, limitMs },
        tell: () => homing.logText(),
      });
    },
    placeOf: async user => (await explain(user)).place,
    waitForEmptyQueue: async (limitMs = 20_000) => {
      await waitFor(async () => (await queued()) === 0, {
        ...{ what: 'the queue to be empty', limitMs },
        tell: async () => `${(await homing.admin('/v1/queue')).body}\n${homing.logText()}`,
      });
    },
    deliveries: (from, atLeast) =>
      waitFor(
        () => {
          const name = from === '' ? '<>' : from;
          const lines = homing.logLines().filter(line => line.msg === 'delivery' && line.from === name);
          return lines.length >= atLeast ? lines : null;
        },
        { what: `${atLeast} lines about ${from}`, tell: () => homing.logText() },
      ),
  };
}

function mountAt(path: string, size: string): Mount {
  const { uid, gid } = mailOwner();
  mkdirSync(path, { recursive: true });
  const sh = (command: string, args: readonly string[]) => execFileSync(command, args, { stdio: 'pipe' });
  sh('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=755,uid=${uid},gid=${gid}`, 'tmpfs', path]);
  const filler = join(path, '.filler');
  const unmount = () => {
    sh('umount', ['-l', path]);
  };
  return {
    ...{ path, unmount },
    readOnly: is => {
      sh('mount', ['-o', `remount,${is ? 'ro' : 'rw'}`, path]);
    },
    fill: () => {
      // dd ends with ENOSPC: that is the aim.
      sh('sh', ['-c', 'dd if=/dev/zero of="$1" bs=4k 2>/dev/null || true', 'sh', filler]);
    },
    free: () => {
      sh('rm', ['-f', filler]);
    },
  };
}

export function kinds(receipts: readonly Receipt[]): string[] {
  return receipts.map(each => (each.kind === 'refused' ? `${each.code}` : each.kind));
}

export { numberedMessage };
