/**
 * A scripted LMTP peer for tests: says what it is told to say, remembers what it was sent, breaks off where it is told to.
 * Each step of the script is one reaction to one whole line (or message) from the client.
 */
import { createServer, type Server, type Socket } from 'node:net';

/** What the peer does: words (CRLF added to each line), or a deed with the socket. */
export type Deed = string | ((socket: Socket) => void);

export interface Script {
  readonly greeting?: Deed;
  readonly lhlo?: Deed;
  readonly mail?: (line: string) => Deed;
  readonly rcpt?: (line: string) => Deed;
  readonly data?: (accepted: number) => Deed;
  /** One reply per accepted recipient, by its RCPT line. */
  readonly final?: (rcpt: string, index: number, message: string) => Deed;
  /** Sees raw bytes of the message as they come; true: take no more. */
  readonly onBytes?: (socket: Socket, message: string) => void;
}

export interface Peer {
  readonly port: number;
  readonly lines: string[];
  readonly messages: string[];
  connections: number;
  readonly sockets: Set<Socket>;
  close(): Promise<void>;
}

export const reset: Deed = socket => socket.resetAndDestroy();
export const hangUp: Deed = socket => socket.end();
export const silence: Deed = () => {};

export const dovecotLhlo =
  '250-peer\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-SIZE\r\n250 PIPELINING';

export async function startPeer(script: Script = {}): Promise<Peer> {
  const lines: string[] = [];
  const messages: string[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer(socket => {
    peer.connections += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    serve(socket, script, lines, messages);
  });
  const port = await new Promise<number>(resolve => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
  const peer: Peer = {
    port,
    lines,
    messages,
    connections: 0,
    sockets,
    close: () =>
      new Promise(resolve => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
  return peer;
}

function serve(socket: Socket, script: Script, lines: string[], messages: string[]): void {
  let input = '';
  let inData = false;
  let accepted: string[] = [];
  const act = (deed: Deed) => {
    if (typeof deed === 'function') deed(socket);
    else socket.write(`${deed}\r\n`);
    return deed;
  };
  const isYes = (deed: Deed) => typeof deed === 'string' && deed.startsWith('2');
  act(script.greeting ?? '220 peer ready');
  const command = (line: string) => {
    lines.push(line);
    const verb = line.slice(0, 4).toUpperCase();
    if (verb === 'LHLO') act(script.lhlo ?? dovecotLhlo);
    else if (verb === 'MAIL') {
      accepted = [];
      act(script.mail?.(line) ?? '250 2.1.0 OK');
    } else if (verb === 'RCPT') {
      if (isYes(act(script.rcpt?.(line) ?? '250 2.1.5 OK'))) accepted.push(line);
    } else if (verb === 'DATA') {
      const deed = act(
        script.data?.(accepted.length) ?? (accepted.length > 0 ? '354 OK' : '503 5.5.1 No valid recipients'),
      );
      inData = typeof deed === 'string' && deed.startsWith('354');
    } else if (verb === 'RSET') act('250 2.0.0 OK');
    else if (verb === 'QUIT') {
      act('221 2.0.0 Bye');
      socket.end();
    } else act('500 5.5.2 what?');
  };
  socket.on('data', chunk => {
    input += chunk.toString('latin1');
    for (;;) {
      if (inData) {
        script.onBytes?.(socket, input);
        const end = input === '.\r\n' ? 0 : input.startsWith('.\r\n') ? 0 : input.indexOf('\r\n.\r\n');
        if (end === -1) return;
        const length = input.startsWith('.\r\n') ? 3 : end + 5;
        const message = input.slice(0, length);
        input = input.slice(length);
        inData = false;
        messages.push(message);
        accepted.forEach((rcpt, i) => {
          act(script.final?.(rcpt, i, message) ?? `250 2.0.0 <${i}> Saved`);
        });
        continue;
      }
      const at = input.indexOf('\r\n');
      if (at === -1) return;
      const line = input.slice(0, at);
      input = input.slice(at + 2);
      command(line);
    }
  });
}
