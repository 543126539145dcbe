import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect as connectTls, type SecureContext, type TLSSocket } from 'node:tls';
import { pino } from 'pino';
import { realClock } from '../../../src/net/clock.ts';
import {
  readTls,
  secureContextOf,
  type TlsFiles,
  type TlsTexts,
  watchTls,
  wrapServer,
} from '../../../src/net/tls.ts';
import { makeCertificate } from './certificate.ts';

let folder: string;
let first: TlsFiles;
let second: TlsFiles;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'homing-tls-'));
  first = await makeCertificate(folder, 'first', 'first.example.org');
  second = await makeCertificate(folder, 'second', 'second.example.org');
});
after(() => rm(folder, { recursive: true }));

async function load(files: TlsFiles): Promise<SecureContext> {
  const read = await readTls(files);
  assert.ok(read.ok);
  return contextOf(read.texts);
}

function contextOf(texts: TlsTexts): SecureContext {
  const result = secureContextOf(texts);
  assert.ok(result.ok);
  return result.context;
}

/** Whose certificate a client is shown. */
async function nameShown(context: SecureContext, options: object = {}): Promise<string> {
  const { client, close } = await handshake(context, options);
  const name = client.getPeerCertificate().subject.CN;
  close();
  return String(name);
}

async function handshake(context: SecureContext, options: object) {
  const server = createServer(socket => {
    const secure = wrapServer(socket, context);
    secure.on('error', () => {});
    socket.on('error', () => {});
    secure.on('data', bytes => secure.write(bytes));
    secure.on('close', () => sides.resolve(secure));
  });
  const sides = Promise.withResolvers<TLSSocket>();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const raw: Socket = connect(address.port, '127.0.0.1');
  const client = connectTls({ socket: raw, rejectUnauthorized: false, ...options });
  const close = () => {
    client.destroy();
    server.close();
  };
  try {
    await once(client, 'secureConnect');
  } catch (error) {
    close();
    throw error;
  }
  return { raw, client, close, serverClosed: sides.promise };
}

describe('TLS files', () => {
  test('that are missing, or do not fit each other, are named', async () => {
    const missing = await readTls({ cert: join(folder, 'none.crt'), key: first.key });
    assert.ok(!missing.ok && missing.why.includes('none.crt') && missing.why.includes('ENOENT'));
    const mixed = await readTls({ cert: first.cert, key: second.key });
    assert.ok(!mixed.ok && /mismatch/i.test(mixed.why), mixed.ok ? '' : mixed.why);
  });

  test('are read anew when they change, and a broken renewal leaves the last good certificate', async t => {
    const cert = join(folder, 'live.crt');
    const key = join(folder, 'live.key');
    await copyFile(first.cert, cert);
    await copyFile(first.key, key);
    const lines: string[] = [];
    const log = pino({ level: 'trace' }, { write: (text: string) => void lines.push(text) });
    const changes: TlsTexts[] = [];
    const onChange = (texts: TlsTexts) => changes.push(texts);
    const files = { cert, key };
    const before = await readTls(files);
    assert.ok(before.ok);
    const watch = watchTls({ files, texts: before.texts, clock: realClock, log, onChange, everyMs: 60_000 });
    t.after(() => watch.stop());
    await watch.check();
    assert.equal(changes.length, 0, 'the same files');

    await writeFile(cert, 'half a certif');
    await watch.check();
    assert.match(lines.join(''), /cannot be used/);
    await copyFile(second.cert, cert);
    await watch.check();
    assert.equal(changes.length, 0, 'the new certificate with the old key');
    await copyFile(second.key, key);
    await watch.check();
    const texts = changes.at(-1);
    assert.ok(texts !== undefined);
    assert.equal(await nameShown(contextOf(texts)), 'second.example.org');
    assert.ok(!lines.join('').includes('PRIVATE KEY'));
  });
});

test('files that changed between the first reading and the first look are noticed', async t => {
  const before = await readTls(first);
  assert.ok(before.ok);
  const changes: TlsTexts[] = [];
  const onChange = (texts: TlsTexts) => changes.push(texts);
  const log = pino({ level: 'silent' });
  const watch = watchTls({
    files: second,
    texts: before.texts,
    clock: realClock,
    log,
    onChange,
    everyMs: 60_000,
  });
  t.after(() => watch.stop());
  await watch.check();
  assert.equal(
    await nameShown(contextOf(changes[0] ?? assert.fail('nothing was told'))),
    'second.example.org',
  );
});

describe('a TLS connection', () => {
  test('is refused below TLS 1.2', async () => {
    const context = await load(first);
    assert.equal(await nameShown(context, { maxVersion: 'TLSv1.2' }), 'first.example.org');
    const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' };
    await assert.rejects(nameShown(context, old));
  });

  test('is closed when garbage comes in place of a record', async () => {
    const { raw, client, close, serverClosed } = await handshake(await load(first), {});
    client.on('error', () => {});
    raw.on('error', () => {});
    client.write('echo');
    assert.equal(String((await once(client, 'data'))[0]), 'echo');
    // Past the client's TLS layer, straight onto the wire.
    const wire = raw as unknown as { _handle: { writeLatin1String(req: object, text: string): number } };
    const { WriteWrap } = (
      process as unknown as { binding(name: string): { WriteWrap: new () => object } }
    ).binding('stream_wrap');
    wire._handle.writeLatin1String(new WriteWrap(), 'a LOGIN joe secret\r\n');
    const secure = await serverClosed;
    assert.ok(secure.destroyed);
    close();
  });
});
