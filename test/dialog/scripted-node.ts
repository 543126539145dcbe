/**
 * A node that plays a part: each connection follows the next scene, line by line, and what differs is a fault of the test.
 * `n>` it says, `n<` it must hear, `n!` it closes or resets. Loopback only.
 */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';

export type NodeLine =
  | { readonly kind: 'says'; readonly bytes: Buffer }
  | { readonly kind: 'hears'; readonly bytes: Buffer }
  | { readonly kind: 'closes' }
  | { readonly kind: 'resets' }
  | { readonly kind: 'hears-end' };

export interface ScriptedNode {
  readonly port: number;
  /** What went otherwise than written. */
  readonly faults: readonly string[];
  /** True when every scene was played to its end. */
  isDone(): boolean;
  close(): Promise<void>;
}

export async function startScriptedNode(scenes: readonly (readonly NodeLine[])[]): Promise<ScriptedNode> {
  const faults: string[] = [];
  const sockets = new Set<Socket>();
  let begun = 0;
  let done = 0;
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    const scene = scenes[begun];
    begun += 1;
    if (scene === undefined) {
      faults.push(`connection ${begun} is not in the script`);
      socket.destroy();
      return;
    }
    void play(socket, scene)
      .then(fault => (fault === null ? undefined : faults.push(`connection ${begun}: ${fault}`)))
      .finally(() => {
        done += 1;
      });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    port,
    faults,
    isDone: () => done === scenes.length,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

async function play(socket: Socket, scene: readonly NodeLine[]): Promise<string | null> {
  const ear = listenTo(socket);
  for (const line of scene) {
    switch (line.kind) {
      case 'says':
        socket.write(line.bytes);
        break;
      case 'hears': {
        const heard = await ear.take(line.bytes.length);
        if (!heard.equals(line.bytes))
          return `heard ${JSON.stringify(String(heard))} for ${JSON.stringify(String(line.bytes))}`;
        break;
      }
      case 'hears-end': {
        const more = await ear.rest();
        if (more.length > 0) return `heard ${JSON.stringify(String(more))} before the end`;
        socket.end();
        break;
      }
      case 'closes':
        socket.end();
        return null;
      case 'resets':
        socket.resetAndDestroy();
        return null;
    }
  }
  return null;
}

interface Ear {
  /** The next `bytes` bytes, or fewer where the connection ends before. */
  take(bytes: number): Promise<Buffer>;
  rest(): Promise<Buffer>;
}

function listenTo(socket: Socket): Ear {
  let held = Buffer.alloc(0);
  let ended = false;
  let wake: () => void = () => {};
  socket.on('data', chunk => {
    held = Buffer.concat([held, chunk]);
    wake();
  });
  for (const event of ['end', 'close']) {
    socket.on(event, () => {
      ended = true;
      wake();
    });
  }
  const until = async (isEnough: () => boolean) => {
    while (!isEnough() && !ended) {
      await new Promise<void>(resolve => {
        wake = resolve;
      });
    }
  };
  const cut = (bytes: number) => {
    const block = held.subarray(0, bytes);
    held = held.subarray(block.length);
    return block;
  };
  return {
    take: async bytes => {
      await until(() => held.length >= bytes);
      return cut(bytes);
    },
    rest: async () => {
      await until(() => false);
      return cut(held.length);
    },
  };
}
