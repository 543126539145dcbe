/**
 * Accepts connections on an address or on a descriptor the parent bound, and gives each socket to its service.
 * First wall before trust (promise 8): caps in total and per address (an IPv6 /64 counts as one), the surplus is closed unread.
 * Must never crash nor spin when descriptors run out: it refuses for a moment, says so once, and goes on.
 */
import { createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { Log } from '../observe/log.ts';
import { type Clock, realClock } from './clock.ts';

export interface ListenerOptions {
  /** A listening socket's descriptor; else `address` and `port` are bound here. */
  readonly fd?: number;
  readonly address?: string;
  readonly port?: number;
  readonly maxConnections: number;
  readonly maxPerAddress: number;
  /** The socket is open for half-close and has no listeners yet. Must attach an `error` listener at once. */
  readonly onSocket: (socket: Socket) => void;
  readonly log: Log;
  readonly clock?: Clock;
}

export interface Listener {
  /** Stops accepting and gives the port back; open connections go on. */
  close(): Promise<void>;
  address(): { readonly address: string; readonly port: number };
  /** Connections that are open now. */
  count(): number;
}

export type ListenerResult =
  | { readonly ok: true; readonly listener: Listener }
  | { readonly ok: false; readonly why: string };

/** How long accepting stays closed after descriptors ran out, and how often the same complaint is logged. */
const restMs = 1000;
const complainEveryMs = 10_000;

export function openListener(options: ListenerOptions): Promise<ListenerResult> {
  const wall = new Wall(options);
  const server = createServer({ allowHalfOpen: true, noDelay: true }, socket => wall.receive(socket));
  return new Promise(resolve => {
    const fail = (error: Error) => resolve({ ok: false, why: error.message });
    server.once('error', fail);
    server.listen(listenOn(options), () => {
      server.off('error', fail);
      // Errors of accept() come here: EMFILE, ENFILE, ENOBUFS. None of them is a reason to end.
      server.on('error', error => wall.rest(error));
      resolve({ ok: true, listener: asListener(server, wall) });
    });
  });
}

function listenOn({ fd, address, port }: ListenerOptions) {
  const backlog = 4096;
  return fd === undefined ? { host: address ?? '127.0.0.1', port: port ?? 0, backlog } : { fd, backlog };
}

function asListener(server: Server, wall: Wall): Listener {
  return {
    // Not its callback: that one waits for the last connection, and these are their sessions' to end.
    close: () =>
      new Promise(resolve => {
        server.close();
        setImmediate(resolve);
      }),
    address: () => {
      const at = server.address();
      return typeof at === 'object' && at !== null
        ? { address: at.address, port: at.port }
        : { address: '', port: 0 };
    },
    count: () => wall.count,
  };
}

class Wall {
  readonly #options: ListenerOptions;
  readonly #clock: Clock;
  readonly #perAddress = new Map<string, number>();
  #restingUntilMs = 0;
  #complainedAtMs = Number.NEGATIVE_INFINITY;
  #turnedAway = 0;
  count = 0;

  constructor(options: ListenerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? realClock;
  }

  receive(socket: Socket): void {
    const { maxConnections, maxPerAddress, onSocket } = this.#options;
    const group = addressGroup(socket.remoteAddress ?? '');
    const ofGroup = this.#perAddress.get(group) ?? 0;
    const surplus = this.#surplus(ofGroup, maxConnections, maxPerAddress);
    if (surplus !== null) {
      socket.on('error', () => {});
      socket.destroy();
      this.#complain(`connections turned away: ${surplus}`, { address: group });
      return;
    }
    this.count += 1;
    this.#perAddress.set(group, ofGroup + 1);
    socket.once('close', () => this.#leave(group));
    onSocket(socket);
  }

  rest(error: Error): void {
    this.#restingUntilMs = this.#clock.now() + restMs;
    this.#complain('cannot accept connections for a moment', { why: error.message });
  }

  #surplus(ofGroup: number, maxConnections: number, maxPerAddress: number): string | null {
    if (this.count >= maxConnections) return `${maxConnections} are open in all`;
    if (ofGroup >= maxPerAddress) return `${maxPerAddress} are open from one address`;
    return this.#clock.now() < this.#restingUntilMs ? 'no descriptors left' : null;
  }

  #leave(group: string): void {
    this.count -= 1;
    const left = (this.#perAddress.get(group) ?? 1) - 1;
    if (left === 0) this.#perAddress.delete(group);
    else this.#perAddress.set(group, left);
  }

  #complain(message: string, facts: object): void {
    this.#turnedAway += 1;
    const now = this.#clock.now();
    if (now - this.#complainedAtMs < complainEveryMs) return;
    this.#complainedAtMs = now;
    this.#options.log.warn({ ...facts, times: this.#turnedAway, open: this.count }, message);
    this.#turnedAway = 0;
  }
}

/** One customer: an IPv4 address (mapped ones too), or an IPv6 /64, which is what one subscriber gets at least. */
export function addressGroup(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1] !== undefined) return mapped[1];
  const bare = address.split('%')[0] ?? '';
  if (!isIPv6(bare)) return address;
  const [head = '', tail] = bare.toLowerCase().split('::');
  const words = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const after = tail === '' ? 0 : tail.split(':').length + (tail.includes('.') ? 1 : 0);
    while (words.length + after < 8) words.push('0');
  }
  const network = [0, 1, 2, 3].map(index => Number.parseInt(words[index] ?? '0', 16).toString(16));
  return `${network.join(':')}::/64`;
}

/** True for an address of this machine's loopback. */
export function isLoopback(address: string): boolean {
  return address === '::1' || /^(?:::ffff:)?127\.\d+\.\d+\.\d+$/i.test(address);
}
