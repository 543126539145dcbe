/**
 * A spool, a writer process over it, and letters to carry: for the tests of direct delivery.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pino } from 'pino';
import type { Outcome, Recipient } from '../../src/core/types.ts';
import type { Body, Errand, Letter } from '../../src/delivery/courier.ts';
import { createDirect, type Direct, type DirectOptions } from '../../src/delivery/direct.ts';
import { writerThreads } from '../../src/delivery/writer.ts';
import { realClock } from '../../src/net/clock.ts';
import type { Ending } from '../lab/temp-folder.ts';
import { tempFolder } from '../lab/temp-folder.ts';
import { waitFor } from '../lab/wait.ts';
import { mailGid, mailUid, openSpoolWorld, type SpoolWorld } from '../unit/storage/spool-world.ts';

export interface DirectWorld {
  readonly spool: SpoolWorld;
  readonly socketPath: string;
  readonly direct: Direct;
  /** How often the parent was told that the writer hangs. */
  hungs(): number;
  startWriter(): Promise<WriterProcess>;
}

export interface WriterProcess {
  readonly pid: number;
  signal(name: NodeJS.Signals): void;
  /** SIGKILL, and gone. */
  kill(): Promise<void>;
}

export async function openDirectWorld(
  ending: Ending,
  options: Partial<DirectOptions> = {},
): Promise<DirectWorld> {
  const spool = await openSpoolWorld(ending);
  const socketPath = join(await tempFolder(ending, 'run'), 'writer.sock');
  const children = new Set<ChildProcess>();
  let hungs = 0;
  const direct = createDirect({
    socketPath,
    clock: realClock,
    log: pino({ level: 'silent' }),
    ...options,
    onHung: () => {
      hungs += 1;
      options.onHung?.();
    },
  });
  ending.after(async () => {
    direct.close();
    for (const child of children) {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    }
  });
  return {
    spool,
    socketPath,
    direct,
    hungs: () => hungs,
    async startWriter() {
      const child = spawn(
        process.execPath,
        [
          join(import.meta.dirname, 'writer-process.ts'),
          JSON.stringify({ socketPath, root: spool.root, uid: mailUid, gid: mailGid }),
        ],
        {
          stdio: ['pipe', 'pipe', 'inherit'],
          env: { ...process.env, UV_THREADPOOL_SIZE: String(writerThreads) },
        },
      );
      children.add(child);
      child.once('exit', () => children.delete(child));
      child.stdin.on('error', () => undefined);
      const [said] = (await once(child.stdout, 'data')) as [Buffer];
      assert.equal(said.toString().trim(), 'ready');
      const { pid = 0 } = child;
      return {
        pid,
        signal: name => child.kill(name),
        async kill() {
          const gone = once(child, 'exit');
          child.kill('SIGKILL');
          await gone;
        },
      };
    },
  };
}

/** A body in memory, or one that is only to be had as a stream of pieces. */
export function bodyOf(text: string | Buffer, streamedBy?: number): Body {
  const bytes = Buffer.from(text);
  const pieces = function* () {
    for (let at = 0; at < bytes.length; at += streamedBy ?? bytes.length)
      yield bytes.subarray(at, at + (streamedBy ?? bytes.length));
  };
  return {
    bytes: bytes.length,
    memory: streamedBy === undefined ? bytes : null,
    open: () => Readable.from(pieces()),
    dispose: () => Promise.resolve(),
  };
}

export interface ErrandOptions {
  readonly body?: Body;
  readonly withinMs?: number;
  readonly acceptedAtMs?: number;
}

export function errand(
  names: readonly string[],
  user = 'joe@example.org',
  { body = bodyOf('Subject: x\r\n\r\nHello\r\n'), withinMs = 10_000, acceptedAtMs }: ErrandOptions = {},
): Errand {
  const letter: Letter = {
    id: 'Q1',
    from: 'sender@example.net',
    body,
    eightBit: false,
    smtpUtf8: false,
    acceptedAtMs: acceptedAtMs ?? realClock.wall(),
  };
  const recipients = names.map(
    (maildirName, index): Recipient => ({ index, address: user, user, detail: '', maildirName }),
  );
  return { letter, recipients, node: null, deadlineAtMs: realClock.now() + withinMs };
}

/** `delivered`, or `deferred disk-full`. */
export function told(outcome: Outcome | undefined): string {
  if (outcome === undefined) return 'nothing';
  assert.equal(outcome.courier, 'direct');
  assert.equal(outcome.node, null);
  assert.equal(outcome.reply.code, outcome.kind === 'delivered' ? 250 : 451);
  return outcome.failure === undefined ? outcome.kind : `${outcome.kind} ${outcome.failure.kind}`;
}

/** How often each base name stands in new/ and cur/; asserts that no file is shorter or longer than its name says. */
export function found(spool: SpoolWorld, user = 'joe@example.org'): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const folder of ['new', 'cur']) {
    const path = join(spool.maildirOf(user), folder);
    for (const file of readdirSync(path)) {
      const [base = '', size] = file.split(/,S=|,W=/);
      assert.equal(readFileSync(join(path, file)).length, Number(size), file);
      counts.set(base, (counts.get(base) ?? 0) + 1);
    }
  }
  return counts;
}

export function untilGone(pid: number): Promise<boolean> {
  return waitFor(
    () => {
      try {
        process.kill(pid, 0);
        return false;
      } catch {
        return true;
      }
    },
    { what: `process ${pid} to be gone` },
  );
}
