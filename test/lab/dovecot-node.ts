/**
 * A real Dovecot as a node of a cluster, on a loopback address of its own, over a maildir tree it shares with the others.
 * Own base, state and log; Dovecot 2.3 or 2.4 (on this machine, or in the folder of another system), as root or not.
 * Everything it starts shares one session id, so kill, freeze and stop reach all of it and nothing else.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, chown, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type DovecotPorts, type NodeSettings, settings23, settings24 } from './dovecot-settings.ts';
import { freePorts, greetingOf } from './ports.ts';
import {
  freezeSession,
  killAtExit,
  killSession,
  sessionGone,
  sessionProcesses,
  signal,
  thawSession,
} from './processes.ts';
import { waitFor } from './wait.ts';

const run = promisify(execFile);

export interface DovecotOptions {
  readonly name: string;
  /** A loopback address: 127.0.0.11. */
  readonly address: string;
  /** Root of the shared tree: `<spoolDir>/{domain}/{local}/Maildir`. Made if missing, owned by the mail account. */
  readonly spoolDir: string;
  /** This node's own folder (base, state, log, settings). */
  readonly runDir: string;
  /** Who exists, `alice@example.org`; each with the password `pass`. All others are unknown: 550 by LMTP. */
  readonly users?: readonly string[];
  readonly ports?: Partial<DovecotPorts>;
  /** Taken from `dovecot --version` if left out. */
  readonly version?: '2.3' | '2.4';
  /** Folder of another system (test/lab/trixie.sh) whose Dovecot is run, chrooted. Needs root. */
  readonly rootFs?: string;
  /** STARTTLS on the nodes' ports. Files that the node's account may read. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** Lines for the end of dovecot.conf. */
  readonly extra?: string;
}

export interface DovecotNode {
  readonly name: string;
  readonly address: string;
  readonly ports: DovecotPorts;
  readonly version: '2.3' | '2.4';
  /** The master's process id, which is also the session id of all its children. */
  readonly pid: number;
  /** The account that owns the mail. */
  readonly owner: MailOwner;
  readonly spoolDir: string;
  logText(): string;
  /** Who exists from now on. */
  setUsers(users: readonly string[]): Promise<void>;
  /** SIGTERM, as an operator stops it. */
  stop(): Promise<void>;
  /** kill -9 of the master and of all its children; resolves when none is left. */
  kill(): Promise<void>;
  /** SIGSTOP of all: the kernel still accepts connections, nobody answers. */
  freeze(): void;
  thaw(): void;
  /** Starts it again, on the same ports, after stop() or kill(); stops it first if it runs. */
  restart(): Promise<void>;
  /** Standard output of `doveadm …` on this node. */
  doveadm(args: readonly string[]): Promise<string>;
}

export interface MailOwner {
  readonly user: string;
  readonly uid: number;
  readonly gid: number;
}

export const password = 'pass';

/** Who owns lab mail: Debian's own account `mail` where we are root, else ourselves. */
export function mailOwner(): MailOwner {
  const { username, uid, gid } = userInfo();
  if (uid !== 0) return { user: username, uid, gid };
  const line =
    readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .find(row => row.startsWith('mail:')) ?? 'mail:x:8:8:';
  const [, , mailUid, mailGid] = line.split(':');
  return { user: 'mail', uid: Number(mailUid), gid: Number(mailGid) };
}

/** What stands before a command line so that it runs in the node's system. */
function inRoot(rootFs: string | undefined, command: readonly string[], binds: readonly string[]): string[] {
  if (rootFs === undefined) return [...command];
  // A mount namespace of its own: the binds vanish with the last process, whatever happens to us.
  const script = `set -e
root=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --bind "$1" "$root$1"; shift; done; shift
exec chroot "$root" "$@"`;
  return [
    'unshare',
    '--mount',
    'sh',
    '-c',
    script,
    'sh',
    rootFs,
    '/proc',
    '/dev',
    ...binds,
    '--',
    ...command,
  ];
}

async function versionOf(rootFs: string | undefined): Promise<'2.3' | '2.4'> {
  const [file = '', ...args] =
    rootFs === undefined ? ['dovecot', '--version'] : ['chroot', rootFs, 'dovecot', '--version'];
  const { stdout } = await run(file, args, { env: environment() });
  if (stdout.startsWith('2.4')) return '2.4';
  if (stdout.startsWith('2.3')) return '2.3';
  throw new Error(`Dovecot 2.3 or 2.4 is needed, this is ${stdout.trim()}`);
}

/** Debian's dovecot is in /usr/sbin, which is not in every account's path. Logs in UTC, wherever the node's system thinks it is. */
function environment(): NodeJS.ProcessEnv {
  return {
    ...process.env,
    TZ: 'UTC',
    PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`,
  };
}

function usersText(users: readonly string[]): string {
  return users.map(user => `${user}:${password}::::::\n`).join('');
}

async function layOut(
  options: DovecotOptions,
  owner: MailOwner,
  ports: DovecotPorts,
  version: '2.3' | '2.4',
) {
  const { runDir, spoolDir, name, address } = options;
  await mkdir(spoolDir, { recursive: true });
  if (userInfo().uid === 0) await chown(spoolDir, owner.uid, owner.gid);
  await mkdir(join(runDir, 'state'), { recursive: true });
  await chmod(runDir, 0o755);
  const usersFile = join(runDir, 'users');
  await writeFile(usersFile, usersText(options.users ?? []));
  const rootless =
    userInfo().uid === 0 ? null : { user: owner.user, group: (await run('id', ['-gn'])).stdout.trim() };
  const settings: NodeSettings = {
    ...{ name, address, ports, spoolDir, runDir, usersFile, rootless },
    ...{ uid: owner.uid, gid: owner.gid, tls: options.tls ?? null, extra: options.extra ?? '' },
  };
  const file = join(runDir, 'dovecot.conf');
  await writeFile(file, version === '2.3' ? settings23(settings) : settings24(settings));
  return { file, usersFile };
}

export async function startDovecotNode(options: DovecotOptions): Promise<DovecotNode> {
  const { name, address, spoolDir, runDir, rootFs } = options;
  const version = options.version ?? (await versionOf(rootFs));
  const owner = mailOwner();
  const [imap = 0, lmtp = 0, pop3 = 0, sieve = 0] = await freePorts(4, address);
  const ports = { imap, lmtp, pop3, sieve, ...options.ports };
  const { file, usersFile } = await layOut(options, owner, ports, version);
  const binds = [spoolDir, runDir];
  const logText = () => readQuietly(join(runDir, 'dovecot.log'));
  let master = await startMaster(
    inRoot(rootFs, ['setpriv', '--pdeathsig', 'TERM', 'dovecot', '-F', '-c', file], binds),
  );

  async function ready(): Promise<void> {
    try {
      await allGreet(address, ports, master, () => `${master.output()}\n${logText()}`);
    } catch (error) {
      killSession(master.pid);
      throw error;
    }
  }

  async function end(how: 'stop' | 'kill'): Promise<void> {
    const { pid } = master;
    if (how === 'stop' && signal(pid, 'SIGTERM')) {
      signal(pid, 'SIGCONT');
      // Preforked processes that never had a client ignore it for a minute (2.3 and 2.4); clients are served out by then.
      await sessionGone(pid, 1500).catch(() => undefined);
    }
    // A polite stop that was not heeded ends here too: a node must never outlive its test.
    if (sessionProcesses(pid).length > 0) killSession(pid);
    await sessionGone(pid);
    master.forget();
  }

  async function doveadm(args: readonly string[]): Promise<string> {
    const [command = '', ...rest] = inRoot(rootFs, ['doveadm', '-c', file, ...args], binds);
    return (await run(command, rest, { env: environment(), maxBuffer: 1 << 26 })).stdout;
  }

  let known = options.users ?? [];
  async function setUsers(users: readonly string[]): Promise<void> {
    const changed = [
      users.find(user => !known.includes(user)),
      known.find(user => !users.includes(user)),
    ].filter(user => user !== undefined);
    // Renamed into place: the node must never read half a file. It looks at most once a second whether the file changed.
    await writeFile(`${usersFile}.new`, usersText(users));
    await rename(`${usersFile}.new`, usersFile);
    for (const user of changed) {
      const exists = () => doveadm(['user', user]).then(Boolean, () => false);
      await waitFor(async () => (await exists()) === users.includes(user), {
        what: `${name} to know of ${user}`,
      });
    }
    known = users;
  }

  await ready();
  return {
    ...{ name, address, ports, version, owner, spoolDir, logText },
    get pid() {
      return master.pid;
    },
    setUsers,
    stop: () => end('stop'),
    kill: () => end('kill'),
    freeze: () => freezeSession(master.pid),
    thaw: () => thawSession(master.pid),
    restart: async () => {
      await end('stop');
      // Left behind by a kill, it names a pid that somebody else may have by now; then Dovecot would not start.
      await rm(join(runDir, 'base/master.pid'), { force: true });
      master = await startMaster(
        inRoot(rootFs, ['setpriv', '--pdeathsig', 'TERM', 'dovecot', '-F', '-c', file], binds),
      );
      await ready();
    },
    doveadm,
  };
}

interface Master {
  readonly pid: number;
  readonly child: ChildProcess;
  output(): string;
  forget(): void;
}

async function startMaster(commandLine: readonly string[]): Promise<Master> {
  const [command = '', ...args] = commandLine;
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: environment(),
  });
  let output = '';
  const keep = (bytes: Buffer) => {
    output = (output + bytes.toString('utf8')).slice(-10_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} did not start`);
  child.unref();
  return { pid, child, output: () => output, forget: killAtExit(pid) };
}

/** Up is when each of the four protocols greets; a master that ended says why at once. */
async function allGreet(
  address: string,
  ports: DovecotPorts,
  master: Master,
  tell: () => string,
): Promise<void> {
  for (const [protocol, port] of Object.entries(ports)) {
    await waitFor(
      () => {
        if (master.child.exitCode !== null) return 'ended' as const;
        return greetingOf(port, address);
      },
      { what: `${protocol} on ${address}:${port} to greet`, limitMs: 15_000, tell },
    ).then(answer => {
      if (answer === 'ended') throw new Error(`dovecot ended with code ${master.child.exitCode}\n${tell()}`);
    });
  }
}

function readQuietly(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
