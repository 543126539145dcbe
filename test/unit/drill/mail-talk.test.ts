/** The drill's mail client: what it calls acknowledged, refused and in doubt decides what counts as lost or twice. */
import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { type Receipt, sendOne } from '../../../src/drill/mail-talk.ts';

interface Script {
  readonly greeting?: string;
  /** Replies by the command's first word; `.` is the reply to the final dot. null closes the link. */
  readonly replies?: Readonly<Record<string, string | null>>;
}

/** A peer on a free port that follows a script, and what it was sent. */
async function withPeer(
  script: Script,
  run: (port: number, received: () => string) => Promise<void>,
): Promise<void> {
  const usual = {
    LHLO: '250 hi',
    EHLO: '250-hi\r\n250 SIZE',
    MAIL: '250 ok',
    RCPT: '250 ok',
    DATA: '354 go',
    '.': '250 2.0.0 saved',
    RSET: '250 ok',
    QUIT: '221 bye',
  };
  const replies: Record<string, string | null> = { ...usual, ...script.replies };
  let received = '';
  const links = new Set<Socket>();
  const peer = createServer(socket => {
    links.add(socket);
    let isBody = false;
    let rest = '';
    const answer = (word: string): void => {
      const reply = replies[word];
      if (reply === null || reply === undefined) socket.destroy();
      else socket.write(`${reply}\r\n`);
      if (word === 'DATA' && reply?.startsWith('354')) isBody = true;
    };
    socket.on('error', () => undefined);
    socket.on('data', bytes => {
      received += bytes.toString('latin1');
      const lines = (rest + bytes.toString('latin1')).split('\r\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (isBody && line !== '.') continue;
        isBody = false;
        answer(line.split(' ')[0] ?? '');
      }
    });
    socket.write(`${script.greeting ?? '220 peer'}\r\n`);
  });
  await new Promise<void>(resolve => peer.listen(0, '127.0.0.1', () => resolve()));
  const at = peer.address();
  try {
    await run(typeof at === 'object' && at !== null ? at.port : 0, () => received);
  } finally {
    for (const link of links) link.destroy();
    await new Promise<void>(resolve => peer.close(() => resolve()));
  }
}

async function receiptsOf(
  script: Script,
  to: readonly string[] = ['alice@example.org'],
): Promise<readonly Receipt[]> {
  let receipts: readonly Receipt[] = [];
  await withPeer(script, async port => {
    const sending = { kind: 'lmtp', from: 'a@b.example', to, message: 'Subject: x\r\n\r\nhi' } as const;
    receipts = await sendOne({ address: '127.0.0.1', port, replyLimitMs: 300 }, sending);
  });
  return receipts;
}

const kinds = (receipts: readonly Receipt[]): string[] => receipts.map(one => one.kind);

describe('what became of a message', () => {
  test('acknowledged is a 250 after the final dot, and nothing else', async () => {
    assert.deepEqual(kinds(await receiptsOf({})), ['acknowledged']);
    assert.deepEqual(kinds(await receiptsOf({ replies: { '.': '451 4.3.0 later' } })), ['refused']);
  });

  test('each recipient has its own reply in LMTP, refused ones are not waited for', async () => {
    const receipts = await receiptsOf({ replies: { '.': '250 one\r\n452 two' } }, ['a@x.org', 'b@x.org']);
    assert.deepEqual(kinds(receipts), ['acknowledged', 'refused']);
  });

  test('in doubt is a link that breaks or goes silent after the final dot', async () => {
    assert.deepEqual(kinds(await receiptsOf({ replies: { '.': null } })), ['in-doubt']);
    assert.deepEqual(kinds(await receiptsOf({ replies: { '.': '' } })), ['in-doubt']);
  });

  test('before the final dot nothing is in doubt', async () => {
    for (const word of ['LHLO', 'MAIL', 'RCPT', 'DATA']) {
      assert.deepEqual(kinds(await receiptsOf({ replies: { [word]: null } })), ['unsent'], word);
    }
  });

  test('a refusal at any step is told with its code', async () => {
    assert.deepEqual(await receiptsOf({ greeting: '421 no' }), [{ kind: 'refused', code: 421, text: 'no' }]);
    for (const word of ['MAIL', 'RCPT', 'DATA']) {
      const [receipt] = await receiptsOf({ replies: { [word]: '550 5.1.1 no' } });
      assert.deepEqual(receipt, { kind: 'refused', code: 550, text: '5.1.1 no' }, word);
    }
  });

  test('nobody listening is unsent', async () => {
    const sending = { kind: 'smtp', from: '', to: ['a@x.org'], message: '' } as const;
    assert.deepEqual(kinds(await sendOne({ address: '127.0.0.1', port: 1 }, sending)), ['unsent']);
  });

  test('lines that begin with a dot are stuffed and the message ends with CRLF', async () => {
    await withPeer({}, async (port, received) => {
      const message = '.first\r\n\r\n..two\r\nlast';
      await sendOne({ address: '127.0.0.1', port }, { kind: 'smtp', from: 'a@b', to: ['c@d'], message });
      assert.match(received(), /DATA\r\n\.\.first\r\n\r\n\.\.\.two\r\nlast\r\n\.\r\n/);
    });
  });
});
