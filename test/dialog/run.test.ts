/**
 * Plays every *.dlg against the real IMAP service and a scripted node, over loopback: the client's bytes whole, byte by byte, and
 * split at every point. Afterwards no session, entry or connection may be left, and no log line, at any level, may hold a password.
 * Passwords in dialogs are always `hunter2` (also as base64), so that they can be looked for.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import type { UserRules } from '../../src/core/canonical.ts';
import { realClock } from '../../src/net/clock.ts';
import { createImapService, defaultImapLimits, type ImapService } from '../../src/session/imap-service.ts';
import { clusterNode, type OneNode, oneNode } from './one-node.ts';
import { type ClientTurn, type Dialog, readDialog } from './script.ts';
import { type ScriptedNode, startScriptedNode } from './scripted-node.ts';

const rules: UserRules = {
  defaultDomain: 'example.org',
  domains: new Set(['example.org']),
  detail: '+',
  masterSeparator: '*',
  affinity: 'user',
  aliases: new Map(),
};

const atOnce = 16;
const turnLimitMs = 5000;
/** In plain, at the three alignments that base64 can have, and as a PLAIN message in a dump of bytes. */
const secrets = ['hunter2', 'aHVudGVyM', 'h1bnRlcj', 'odW50ZXIy', '104,117,110,116'];

interface Stage {
  readonly dialog: Dialog;
  readonly node: ScriptedNode;
  readonly cluster: OneNode;
  readonly service: ImapService;
  readonly logLines: string[];
  readonly port: number;
  close(): Promise<void>;
}

async function setStage(dialog: Dialog): Promise<Stage> {
  const { settings } = dialog;
  const node = await startScriptedNode(dialog.scenes);
  const cluster = oneNode(settings.get('cluster') === 'down' ? null : clusterNode('mail1', node.port));
  const logLines: string[] = [];
  const log = pino({ level: 'trace' }, { write: (text: string) => void logLines.push(text) });
  const number = (key: string, otherwise: number) => Number(settings.get(key) ?? otherwise);
  const service = createImapService({
    admitting: cluster,
    userRules: () => rules,
    clock: realClock,
    log,
    tls: () => null,
    self: null,
    holdMs: number('holdMs', 50),
    quietMs: 200,
    limits: {
      plaintextAuth: settings.get('plaintext') === 'tls' ? 'tls' : 'loopback',
      preAuthMs: number('preAuthMs', 10_000),
      badCommands: number('badCommands', defaultImapLimits.badCommands),
      commands: number('commands', defaultImapLimits.commands),
      refusals: number('refusals', defaultImapLimits.refusals),
    },
    times: { connectMs: 1000, greetingMs: number('greetingMs', 2000), replyMs: number('replyMs', 2000) },
  });
  const server = createServer({ allowHalfOpen: true, noDelay: true }, socket =>
    service.accept(socket, 'plain'),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const close = async () => {
    server.close();
    await node.close();
  };
  return { dialog, node, cluster, service, logLines, port: address.port, close };
}

/** What the client hears, line by line. */
class Ears {
  #held = '';
  #ended = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    socket.setEncoding('latin1');
    socket.on('data', text => {
      this.#held += String(text);
      this.#wake();
    });
    for (const event of ['end', 'close', 'error']) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  async line(): Promise<string | null> {
    for (;;) {
      const end = this.#held.indexOf('\r\n');
      if (end >= 0) {
        const line = this.#held.slice(0, end);
        this.#held = this.#held.slice(end + 2);
        return line;
      }
      if (this.#ended) return this.#held === '' ? null : `${this.#held} (without line end)`;
      await this.#change();
    }
  }

  async #change(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve, reject) => {
      this.#wake = resolve;
      timer = setTimeout(() => reject(new Error(`nothing more heard; held: ${this.#held}`)), turnLimitMs);
    });
    clearTimeout(timer);
  }
}

/** Cuts the bytes; each piece is sent when the one before has had a chance to be read alone. */
type Cut = (bytes: Buffer) => readonly Buffer[];

async function play(stage: Stage, cut: Cut): Promise<void> {
  const socket = connect({ port: stage.port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
  socket.on('error', () => {});
  const ears = new Ears(socket);
  for (const turn of stage.dialog.turns) await playTurn(turn, socket, ears, cut);
  socket.destroy();
  for (
    let waited = 0;
    stage.service.count() > 0 || stage.cluster.live.size > 0 || !stage.node.isDone();
    waited += 1
  ) {
    assert.ok(
      waited < 1500,
      `left over: ${stage.service.count()} sessions, ${stage.cluster.live.size} entries`,
    );
    await new Promise(resolve => setTimeout(resolve, 2));
  }
  assert.deepEqual(stage.node.faults, []);
  for (const text of stage.logLines) {
    for (const secret of secrets) assert.ok(!text.includes(secret), `a password is in the log: ${text}`);
  }
  assert.equal(stage.logLines.filter(text => text.includes('"msg":"session"')).length, 1);
}

async function playTurn(turn: ClientTurn, socket: Socket, ears: Ears, cut: Cut): Promise<void> {
  switch (turn.kind) {
    case 'send':
      for (const [index, piece] of cut(turn.bytes).entries()) {
        if (index > 0) await new Promise(resolve => setImmediate(() => setImmediate(resolve)));
        socket.write(piece);
      }
      return;
    case 'expect':
      assert.equal(await ears.line(), turn.text, `line ${turn.at}`);
      return;
    case 'match':
      assert.match((await ears.line()) ?? '(end)', turn.pattern, `line ${turn.at}`);
      return;
    case 'expect-end':
      assert.equal(await ears.line(), null, `line ${turn.at}`);
      return;
    case 'end':
      socket.end();
      return;
    case 'reset':
      socket.resetAndDestroy();
  }
}

async function perform(dialog: Dialog, cut: Cut): Promise<void> {
  const stage = await setStage(dialog);
  try {
    await play(stage, cut);
  } finally {
    await stage.close();
  }
}

const folder = import.meta.dirname;
const names = readdirSync(folder).filter(name => name.endsWith('.dlg'));
assert.ok(names.length > 10, 'the dialogs are there');

for (const name of names) {
  const dialog = readDialog(readFileSync(`${folder}/${name}`, 'utf8'));
  const longest = Math.max(0, ...dialog.turns.map(turn => (turn.kind === 'send' ? turn.bytes.length : 0)));
  describe(`dialog ${name.replace('.dlg', '')}`, () => {
    test('fed whole', () => perform(dialog, bytes => [bytes]));
    test('fed byte by byte', () => perform(dialog, bytes => [...bytes].map(byte => Buffer.from([byte]))));
    test('split at every point', async () => {
      // Beyond this a single split says nothing new: the parser's own tests go through the rest.
      const points = Array.from({ length: Math.min(longest, 400) - 1 }, (_, index) => index + 1);
      const halves =
        (at: number): Cut =>
        bytes =>
          at < bytes.length ? [bytes.subarray(0, at), bytes.subarray(at)] : [bytes];
      for (let from = 0; from < points.length; from += atOnce) {
        const some = points.slice(from, from + atOnce);
        await Promise.all(
          some.map(at =>
            perform(dialog, halves(at)).catch((error: Error) => {
              throw new Error(`split at ${at}: ${error.message}`);
            }),
          ),
        );
      }
    });
  });
}
