/**
 * What we lean on inside smtp-server without being asked to: an upgrade that changes any of it fails here, by name.
 * Each test says which of our lines depends on it. The version is pinned; these are for the day it is raised.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { describe, test } from 'node:test';
import { SMTPServer } from 'smtp-server';
import { SMTPConnection } from 'smtp-server/lib/smtp-connection.js';
import { SMTPStream } from 'smtp-server/lib/smtp-stream.js';
import manifest from 'smtp-server/package.json' with { type: 'json' };

type Members = Record<string, unknown>;

const methods = (of: { prototype: object }, names: readonly string[]): void => {
  for (const name of names) assert.equal(typeof (of.prototype as Members)[name], 'function', name);
};

async function socketPair(): Promise<{ ours: net.Socket; theirs: net.Socket; close(): void }> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const theirs = net.connect(address.port, '127.0.0.1');
  const [ours] = (await once(server, 'connection')) as [net.Socket];
  return {
    ours,
    theirs,
    close: () => {
      ours.destroy();
      theirs.destroy();
      server.close();
    },
  };
}

describe('smtp-server, where we lean on it', () => {
  test('is the version that was read', () => {
    assert.equal(manifest.version, '3.21.6');
  });

  test('has the methods that our connection overrides or calls', () => {
    methods(SMTPConnection, [
      'init',
      'send',
      'close',
      'upgrade',
      '_createParser',
      '_setListeners',
      '_setClientHostname',
      '_resetSession',
      '_sendGreeting',
      '_onCommand',
      '_onClose',
      '_armTimeout',
      'handler_EHLO',
      'handler_HELO',
      'handler_MAIL',
      'handler_RCPT',
      'handler_DATA',
      'handler_RSET',
      'handler_QUIT',
      'handler_STARTTLS',
    ]);
    methods(SMTPServer, ['connect', '_onError']);
    methods(SMTPStream, ['_write', '_feedDataStream', '_flushData']);
  });

  test('a connection has the fields that ours reads and sets', async () => {
    const pair = await socketPair();
    const server = new SMTPServer({ logger: false });
    const connection = new SMTPConnection(server, pair.ours, { remoteAddress: '192.0.2.7', remotePort: 99 });
    const fields = connection as unknown as Members;
    const wanted = {
      _ready: false,
      _closing: false,
      _closed: false,
      _upgrading: false,
      _unrecognizedCommands: 0,
      hostNameAppearsAs: false,
      openingCommand: false,
      secure: false,
    };
    for (const [name, value] of Object.entries(wanted)) assert.equal(fields[name], value, name);
    assert.equal(connection.remoteAddress, '192.0.2.7');
    assert.equal(connection.remotePort, 99);
    assert.equal(connection._socket, pair.ours);
    assert.equal(connection._server, server);
    assert.ok(connection._parser instanceof SMTPStream);
    assert.ok(server.secureContext instanceof Map);
    assert.ok(server.connections instanceof Set);
    pair.close();
  });

  test('builds its parser in its constructor, by _createParser, and pipes the socket into it', async () => {
    const pair = await socketPair();
    const commands: string[] = [];
    class Probe extends SMTPConnection {
      override _createParser(): SMTPStream {
        const parser = new SMTPStream();
        parser.oncommand = (command, next) => {
          commands.push(command.toString());
          next?.();
        };
        return parser;
      }
      override _armTimeout(): void {}
    }
    const connection = new Probe(new SMTPServer({ logger: false }), pair.ours);
    connection._setListeners(() => undefined);
    pair.theirs.write('ONE\r\nTWO\r\n');
    while (commands.length < 2) await new Promise(resolve => setImmediate(resolve));
    assert.deepEqual(commands, ['ONE', 'TWO']);
    assert.equal(pair.ours.timeout ?? 0, 0, '_armTimeout is the only place that arms the socket');
    pair.close();
  });

  test('the stream gives all bytes to _feedDataStream while _dataMode is set, and reads commands again by _write', () => {
    const seen: string[] = [];
    const commands: string[] = [];
    class Probe extends SMTPStream {
      override _feedDataStream(chunk: Buffer, done: () => void): void {
        seen.push(chunk.toString());
        if (!chunk.includes('!')) {
          done();
          return;
        }
        this._dataMode = false;
        this._remainder = '';
        this._write(chunk.subarray(chunk.indexOf('!') + 1), 'buffer', done);
      }
    }
    const stream = new Probe();
    stream.oncommand = (command, next) => {
      commands.push(command.toString());
      if (command.toString() === 'RAW') stream._dataMode = true;
      next?.();
    };
    stream.write('A\r\nRAW\r\n\r\n.\r\nraw');
    stream.write('more!B\r\nC');
    stream.write('\r\n');
    assert.deepEqual(commands, ['A', 'RAW', 'B', 'C']);
    assert.deepEqual(seen, ['\r\n.\r\nraw', 'more!B\r\nC']);
  });

  test('a closed stream runs nothing more', () => {
    const commands: string[] = [];
    const stream = new SMTPStream();
    stream.oncommand = (command, next) => {
      commands.push(command.toString());
      stream.isClosed = true;
      next?.();
    };
    stream.write('A\r\nB\r\n');
    assert.deepEqual(commands, ['A']);
  });

  test('send writes one reply whole, adds no enhanced code where the context is false, and closes after 421', async () => {
    const pair = await socketPair();
    const connection = new SMTPConnection(
      new SMTPServer({ logger: false, hideENHANCEDSTATUSCODES: false }),
      pair.ours,
    );
    let text = '';
    pair.theirs.on('data', piece => {
      text += piece.toString();
    });
    connection.send(550, ['5.1.1 a\rb', '5.1.1 c'], false);
    connection.send(250, 'x');
    connection.send(421, '4.3.2 bye', false);
    await once(pair.theirs, 'end');
    assert.equal(text, '550-5.1.1 a b\r\n550 5.1.1 c\r\n250 2.0.0 x\r\n421 4.3.2 bye\r\n');
    assert.equal(connection._closing, true);
    pair.close();
  });

  test('RSET and HELO reset the session by _resetSession; LHLO is run as EHLO in LMTP alone', async () => {
    const pair = await socketPair();
    const calls: string[] = [];
    class Probe extends SMTPConnection {
      override _resetSession(): void {
        super._resetSession();
        calls.push('reset');
      }
      override handler_EHLO(_command: Buffer, callback: () => void): void {
        calls.push('ehlo');
        callback();
      }
    }
    const connection = new Probe(
      new SMTPServer({ logger: false, lmtp: true, disabledCommands: ['AUTH'] }),
      pair.ours,
    );
    connection._ready = true;
    connection._onCommand(Buffer.from('LHLO x'));
    connection._onCommand(Buffer.from('RSET'));
    assert.deepEqual(calls, ['ehlo', 'reset']);
    assert.equal(connection.openingCommand, 'LHLO');
    pair.close();
  });

  test('STARTTLS takes the context named * from the map at that moment', async () => {
    const pair = await socketPair();
    const server = new SMTPServer({ logger: false });
    const asked: string[] = [];
    const get = server.secureContext.get.bind(server.secureContext);
    server.secureContext.get = name => {
      asked.push(name);
      return get(name);
    };
    const connection = new SMTPConnection(server, pair.ours);
    connection._resetSession();
    connection.handler_STARTTLS(Buffer.from('STARTTLS'), () => undefined);
    assert.deepEqual(asked, ['*']);
    pair.close();
    await once(pair.ours, 'close');
  });

  test('a server made for its connections alone listens nowhere and keeps no process alive', () => {
    const server = new SMTPServer({ logger: false });
    assert.equal(server.server.listening, false);
  });
});
