/**
 * A receiver on a loopback port with a cluster of paper behind it: nodes answer by rule, letters are kept as bytes.
 * Shared by the receiver's tests; each opens its own.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import type { ClusterNode, Outcome, Place, Recipient, Reply } from '../../../src/core/types.ts';
import { type BodySpool, createBodySpool } from '../../../src/delivery/body.ts';
import type { Letter } from '../../../src/delivery/courier.ts';
import type { SendOptions } from '../../../src/delivery/dispatch.ts';
import { createReceiver, type Receiver, type ReceiverOptions } from '../../../src/delivery/receiver.ts';
import { realClock } from '../../../src/net/clock.ts';

export interface Arrived {
  readonly letter: Omit<Letter, 'body'>;
  readonly body: string;
  readonly to: readonly string[];
  readonly recipients: readonly Recipient[];
  readonly options: SendOptions;
}

export interface World {
  readonly port: number;
  readonly receiver: Receiver;
  readonly arrived: Arrived[];
  readonly asked: { node: string; from: string; rcpt: string }[];
  readonly logged: Record<string, unknown>[];
  readonly spool: BodySpool;
  readonly server: net.Server;
  close(): Promise<void>;
}

export interface Rules extends Partial<Omit<ReceiverOptions, 'dispatch'>> {
  readonly outcome?: (recipient: Recipient, letter: Letter) => Outcome | Promise<Outcome>;
  readonly place?: (user: string) => Place;
  /** What dispatch makes of the outcomes: a broken one loses some. */
  readonly mangle?: (outcomes: readonly Outcome[]) => readonly Outcome[];
}

export const yes: Reply = { code: 250, enhanced: '2.1.5', lines: ['OK'] };
export const delivered: Outcome = {
  kind: 'delivered',
  courier: 'node',
  node: 'mail1',
  reply: { code: 250, enhanced: '2.0.0', lines: ['Saved'] },
};

export function paperNode(name: string): ClusterNode {
  return {
    name,
    address: '127.0.0.1',
    weight: 100,
    pool: 'default',
    ports: { lmtp: 24 },
    admin: 'ready',
    health: 'up',
    incident: 0,
    fenced: false,
  };
}

export const atHome = (node: string): Place => ({ kind: 'home', node, why: 'test' });

export async function openWorld(rules: Rules = {}): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), 'homing-receive-'));
  const spool = createBodySpool({ folder, memoryBytes: 64 * 1024 });
  const arrived: Arrived[] = [];
  const asked: World['asked'] = [];
  const logged: World['logged'] = [];
  const log = pino({ level: 'debug' }, { write: line => void logged.push(JSON.parse(line)) });
  const { outcome = () => delivered, place = () => atHome('mail1'), mangle = all => all, ...options } = rules;
  const receiver = createReceiver({
    kind: 'lmtp',
    name: 'homing.test',
    admitting: { peek: place, node: name => paperNode(name) },
    userRules: () => ({
      defaultDomain: 'example.org',
      domains: new Set(['example.org', 'example.net', 'bücher.example']),
      detail: '+',
      masterSeparator: '',
      affinity: 'user',
      aliases: new Map(),
    }),
    verifyAtNode: async (node, from, rcpt) => {
      asked.push({ node: node.name, from, rcpt });
      return yes;
    },
    verifyInSpool: async () => 'unknown',
    keep: null,
    spool,
    whenHomeDown: ['direct'],
    multiHome: 'split',
    clock: realClock,
    log,
    ...options,
    dispatch: {
      async send(letter, recipients, sending) {
        const pieces: Buffer[] = [];
        for await (const piece of letter.body.open()) pieces.push(Buffer.from(piece));
        const { body, ...rest } = letter;
        assert.equal(body.bytes, Buffer.concat(pieces).length);
        const to = recipients.map(recipient => recipient.address);
        arrived.push({
          letter: rest,
          body: Buffer.concat(pieces).toString('latin1'),
          to,
          recipients,
          options: sending,
        });
        return mangle(await Promise.all(recipients.map(recipient => outcome(recipient, letter))));
      },
    },
  });
  // As net/listener.ts opens its own: a client's end is not ours by itself.
  const server = net.createServer({ allowHalfOpen: true }, socket => receiver.accept(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return {
    port: address.port,
    receiver,
    arrived,
    asked,
    logged,
    spool,
    server,
    async close() {
      await receiver.drain(0);
      server.close();
      await once(server, 'close');
      rmSync(folder, { recursive: true });
    },
  };
}

/** A client by hand: writes bytes, reads whole replies. */
export class Client {
  readonly socket: net.Socket;
  readonly ended: Promise<void>;
  #text = '';
  #wake: (() => void) | null = null;
  #gone = false;

  constructor(port: number) {
    this.socket = net.connect(port, '127.0.0.1');
    this.socket.setNoDelay(true);
    this.socket.setEncoding('utf8');
    this.socket.on('data', text => {
      this.#text += text;
      this.#wake?.();
    });
    this.socket.on('error', () => undefined);
    this.ended = new Promise(resolve => {
      this.socket.once('close', () => {
        this.#gone = true;
        this.#wake?.();
        resolve();
      });
    });
  }

  write(text: string | Buffer): void {
    this.socket.write(typeof text === 'string' ? Buffer.from(text, 'utf8') : text);
  }

  /** The next reply, its lines joined by `\n`; '' once the connection has ended. */
  async reply(): Promise<string> {
    for (;;) {
      const found = /^(?:\d{3}-[^\n]*\r\n)*\d{3}(?: [^\n]*)?\r\n/.exec(this.#text);
      if (found !== null) {
        this.#text = this.#text.slice(found[0].length);
        return found[0].trimEnd().replaceAll('\r\n', '\n');
      }
      if (this.#gone) {
        assert.equal(this.#text, '');
        return '';
      }
      await new Promise<void>(resolve => {
        this.#wake = resolve;
      });
    }
  }

  async replies(count: number): Promise<string[]> {
    const all: string[] = [];
    for (let n = 0; n < count; n++) all.push(await this.reply());
    return all;
  }

  /** Sends a line and awaits its reply. */
  async say(line: string): Promise<string> {
    this.write(`${line}\r\n`);
    return this.reply();
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A client that has said LHLO (or EHLO). */
export async function greeted(port: number, verb = 'LHLO'): Promise<Client> {
  const client = new Client(port);
  assert.match(await client.reply(), /^220 /);
  assert.match(await client.say(`${verb} client.test`), /^250-/);
  return client;
}

/** What a dispatch saw, without the field that we put on top. */
export function withoutTrace(body: string): string {
  return body.replace(/^Received: [^\r]*\r\n(?:\t[^\r]*\r\n)*/, '');
}
