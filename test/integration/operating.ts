/**
 * What an operator does in the tests of the whole: starts Homing and sees how it ends, gives orders by `homing …`, watches processes, and
 * a raw IMAP client that can be slow, silent or rude. Everything it starts is ended with the test that asked for it.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { password } from '../lab/dovecot-node.ts';
import { projectDir, type SettingsTree, writeSettings } from '../lab/homing.ts';
import { killAtExit, killSession, sessionProcesses } from '../lab/processes.ts';
import { waitFor, within } from '../lab/wait.ts';

export const isRoot = userInfo().uid === 0;
export const isLong = process.env.HOMING_LONG === '1';
const launcher = join(projectDir, 'src/homing.sh');

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** A command with its input closed, to its end: both outputs and the code, and nothing of it left running. */
export async function runToEnd(command: readonly string[], limitMs = 20_000): Promise<Ended> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, {
    cwd: projectDir,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${program} did not start`);
  const forget = killAtExit(pid);
  let [out, err] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', text => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', text => {
    err += text;
  });
  const ended = new Promise<number | null>(resolve => child.once('exit', resolve));
  try {
    const code = await within(ended, limitMs, `${command.join(' ')}\n${out}\n${err}`);
    await waitFor(() => sessionProcesses(pid).length === 0, { what: 'no process to be left', limitMs: 3000 });
    return { code, out, err };
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\nout: ${out}\nerr: ${err}`);
  } finally {
    killSession(pid);
    forget();
  }
}

/** `homing …` as a user types it. */
export function homingCommand(args: readonly string[], limitMs?: number): Promise<Ended> {
  return runToEnd(['sh', launcher, ...args], limitMs);
}

/** A start that ought to be refused: it must end by itself, and leave no process behind. */
export async function refusedStart(
  runDir: string,
  settings: SettingsTree | string,
  as: readonly string[] = [],
  program = launcher,
): Promise<Ended> {
  await mkdir(runDir, { recursive: true });
  const file = join(runDir, 'homing.yaml');
  await writeSettings(file, settings);
  return runToEnd([...as, 'sh', program, 'serve', '--config', file]);
}

/** `Uid`, `CapEff` … of /proc/PID/status. */
export function statusField(pid: number, name: string): string {
  const text = readFileSync(`/proc/${pid}/status`, 'latin1');
  return new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)?.[1] ?? '';
}

export function residentBytes(pid: number): number {
  return Number.parseInt(statusField(pid, 'VmRSS'), 10) * 1024;
}

export interface RawAt {
  readonly port: number;
  readonly address?: string;
  readonly tls?: boolean;
}

/** Bytes in, bytes out: an IMAP client that does only what the test says. */
export class Raw {
  readonly socket: Socket;
  readonly openedAtMs = performance.now();
  text = '';
  bytes = 0;
  ended = false;
  closed = false;
  /** Off for floods: then only `bytes` counts. */
  isKeeping = true;

  constructor({ port, address = '127.0.0.1', tls = false }: RawAt) {
    this.socket = tls
      ? connectTls({ port, host: address, rejectUnauthorized: false })
      : connect({ port, host: address });
    this.socket.on('error', () => {});
    this.socket.on('data', chunk => {
      this.bytes += chunk.length;
      if (this.isKeeping) this.text += chunk.toString('latin1');
    });
    this.socket.on('end', () => {
      this.ended = true;
    });
    this.socket.on('close', () => {
      this.ended = true;
      this.closed = true;
    });
  }

  write(text: string): void {
    this.socket.write(text, 'latin1');
  }

  async hears(what: RegExp, limitMs = 10_000): Promise<string> {
    const found = await waitFor(() => what.exec(this.text), {
      what: `the client to hear ${what}`,
      limitMs,
      tell: () => `it heard: ${this.text.slice(-600)}${this.ended ? ' (ended)' : ''}`,
    });
    return found[0];
  }

  /** The tagged answer to a LOGIN. */
  async logIn(user: string, pass = password, limitMs = 15_000): Promise<string> {
    this.write(`in LOGIN "${user}" "${pass}"\r\n`);
    return this.hears(/^in (OK|NO|BAD).*$/m, limitMs);
  }

  async isClosed(limitMs = 10_000): Promise<void> {
    await waitFor(() => this.ended, {
      what: 'the session to be closed',
      limitMs,
      tell: () => this.text.slice(-300),
    });
    this.socket.destroy();
  }

  /** True while the session answers. */
  async answers(limitMs = 5000): Promise<boolean> {
    if (this.ended) return false;
    const before = this.text.length;
    this.write('alive NOOP\r\n');
    return waitFor(() => this.ended || /^alive OK/m.test(this.text.slice(before)), {
      what: 'an answer to NOOP',
      limitMs,
    }).then(
      () => !this.ended,
      () => false,
    );
  }

  leave(): void {
    this.socket.destroy();
  }
}

/** Logged in, or an error that says what was answered. */
export async function openRaw(at: RawAt, user: string): Promise<Raw> {
  const raw = new Raw(at);
  const answer = await raw.logIn(user);
  if (!answer.startsWith('in OK')) {
    raw.leave();
    throw new Error(`${user} is not let in: ${answer}`);
  }
  return raw;
}
