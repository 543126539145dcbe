/**
 * Free TCP ports on a loopback address, and whether one is taken.
 * A port is free when picked and may be taken a moment later: callers that lose the race start anew.
 */
import { connect, createServer, type Server } from 'node:net';

async function hold(address: string, port: number): Promise<Server | null> {
  return new Promise(resolve => {
    const listener = createServer();
    listener.once('error', () => resolve(null));
    listener.listen({ host: address, port, exclusive: true }, () => resolve(listener));
  });
}

async function release(listener: Server): Promise<void> {
  await new Promise<void>(resolve => listener.close(() => resolve()));
}

/**
 * Below the range that the kernel gives to outgoing connections: a port from that range can be taken by anybody's
 * connection between now and the listen. At random, since tests run beside each other.
 */
const lowest = 10_240;
const highest = 32_000;

/** `count` different ports that nobody listens on at this address; all are held at once, so they differ. */
export async function freePorts(count: number, address = '127.0.0.1'): Promise<number[]> {
  const held: Server[] = [];
  try {
    for (let tries = 0; held.length < count; tries++) {
      if (tries > 200 + count) throw new Error(`no free port on ${address}`);
      const listener = await hold(address, lowest + Math.floor(Math.random() * (highest - lowest)));
      if (listener !== null) held.push(listener);
    }
    return held.map(portOf);
  } finally {
    await Promise.all(held.map(release));
  }
}

function portOf(listener: Server): number {
  const at = listener.address();
  if (at === null || typeof at === 'string') throw new Error('the listener has no TCP address');
  return at.port;
}

export async function isFree(port: number, address = '127.0.0.1'): Promise<boolean> {
  const listener = await hold(address, port);
  if (listener === null) return false;
  await release(listener);
  return true;
}

/** Connects and resolves with the first bytes the peer sends, or null when it refuses or stays silent. */
export async function greetingOf(
  port: number,
  address = '127.0.0.1',
  limitMs = 2000,
): Promise<string | null> {
  return new Promise(resolve => {
    const socket = connect({ port, host: address });
    const end = (text: string | null) => {
      socket.destroy();
      resolve(text);
    };
    socket.setTimeout(limitMs, () => end(null));
    socket.once('data', bytes => end(bytes.toString('latin1')));
    socket.once('error', () => end(null));
    socket.once('close', () => end(null));
  });
}
