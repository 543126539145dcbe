/**
 * A plain SMTP and LMTP client on a raw socket, for drills and tests: it says exactly the lines it is told, and knows
 * what became of a message: acknowledged, refused, or in doubt because the link broke after the final dot.
 * Must share no code with the delivery path: it is the witness against it.
 */
import { connect, type Socket } from 'node:net';

export interface TalkReply {
  readonly code: number;
  /** The lines after the code, joined by a space. */
  readonly text: string;
}

export interface TalkOptions {
  readonly address: string;
  readonly port: number;
  /** How long any one reply may take. */
  readonly replyLimitMs?: number;
}

export interface MailTalk {
  readonly greeting: TalkReply;
  readonly socket: Socket;
  /** Sends a line (CRLF is added) and waits for its reply. */
  ask(line: string): Promise<TalkReply>;
  write(bytes: string | Buffer): void;
  /** The next reply that has not been taken yet. Rejects when the link breaks or the limit passes. */
  reply(): Promise<TalkReply>;
  close(): void;
}

const replyLine = /^(\d{3})([ -]?)(.*)$/;

export async function openMailTalk({ address, port, replyLimitMs = 30_000 }: TalkOptions): Promise<MailTalk> {
  const socket = connect({ host: address, port, noDelay: true });
  const replies: TalkReply[] = [];
  let waiting: ((broken: Error | null) => void) | null = null;
  let broken: Error | null = null;
  let rest = '';
  let lines: string[] = [];

  const wake = (): void => {
    waiting?.(broken);
    waiting = null;
  };
  const breakOff = (error: Error): void => {
    broken ??= error;
    wake();
  };
  socket.on('error', breakOff);
  socket.on('close', () => breakOff(new Error('the peer closed the link')));
  socket.on('data', bytes => {
    const parts = (rest + bytes.toString('utf8')).split('\r\n');
    rest = parts.pop() ?? '';
    for (const part of parts) {
      const [, code = '', more = ' ', text = ''] = replyLine.exec(part) ?? [];
      if (code === '') return socket.destroy(new Error(`not a reply: ${part.slice(0, 100)}`));
      lines.push(text);
      if (more === '-') continue;
      replies.push({ code: Number(code), text: lines.join(' ') });
      lines = [];
    }
    if (replies.length > 0) wake();
    return undefined;
  });

  async function reply(): Promise<TalkReply> {
    const deadlineAtMs = performance.now() + replyLimitMs;
    for (;;) {
      const next = replies.shift();
      if (next !== undefined) return next;
      if (broken !== null) throw broken;
      const leftMs = deadlineAtMs - performance.now();
      if (leftMs <= 0) throw new Error(`no reply within ${replyLimitMs} ms`);
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, leftMs);
        waiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  const write = (bytes: string | Buffer): void => {
    socket.write(bytes);
  };
  const ask = (line: string): Promise<TalkReply> => {
    write(`${line}\r\n`);
    return reply();
  };
  try {
    const greeting = await reply();
    return { greeting, socket, ask, write, reply, close: () => socket.destroy() };
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** What became of a message for one recipient, as its sender sees it. */
export type Receipt =
  | { readonly kind: 'acknowledged'; readonly text: string }
  | { readonly kind: 'refused'; readonly code: number; readonly text: string }
  /** The link broke or went silent after the final dot: nobody can tell. */
  | { readonly kind: 'in-doubt'; readonly text: string }
  /** The link broke before the final dot: not accepted. */
  | { readonly kind: 'unsent'; readonly text: string };

export interface Sending {
  readonly kind: 'lmtp' | 'smtp';
  readonly from: string;
  readonly to: readonly string[];
  /** Header and body with CRLF line ends; dots are stuffed here. */
  readonly message: string | Buffer;
  readonly heloName?: string;
}

/** One message on an open talk, which can be used again afterwards (MAIL follows, LHLO is not repeated). */
export async function send(talk: MailTalk, { from, to, message, kind }: Sending): Promise<Receipt[]> {
  const all = (receipt: Receipt): Receipt[] => to.map(() => receipt);
  let dotSent = false;
  const receipts: (Receipt | null)[] = to.map(() => null);
  try {
    const mail = await talk.ask(`MAIL FROM:<${from}>`);
    if (mail.code !== 250) return all(refusal(mail));
    let accepted = 0;
    for (const [at, address] of to.entries()) {
      const reply = await talk.ask(`RCPT TO:<${address}>`);
      if (reply.code === 250) accepted++;
      else receipts[at] = refusal(reply);
    }
    const left = (): number[] => [...receipts.keys()].filter(at => receipts[at] === null);
    if (accepted === 0) {
      await talk.ask('RSET');
      return receipts.map(known);
    }
    const go = await talk.ask('DATA');
    if (go.code !== 354) return receipts.map(one => one ?? refusal(go));
    talk.write(stuffed(message));
    dotSent = true;
    talk.write('.\r\n');
    if (kind === 'lmtp') for (const at of left()) receipts[at] = receiptOf(await talk.reply());
    else {
      const reply = await talk.reply();
      for (const at of left()) receipts[at] = receiptOf(reply);
    }
    return receipts.map(known);
  } catch (error) {
    talk.close();
    const text = error instanceof Error ? error.message : String(error);
    return receipts.map(one => one ?? { kind: dotSent ? 'in-doubt' : 'unsent', text });
  }
}

/** Opens, greets, sends one message, says QUIT. */
export async function sendOne(options: TalkOptions, sending: Sending): Promise<Receipt[]> {
  let talk: MailTalk;
  try {
    talk = await openMailTalk(options);
    const hello = await greet(talk, sending.kind, sending.heloName);
    if (hello.code !== 250) {
      talk.close();
      return sending.to.map(() => refusal(hello));
    }
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return sending.to.map(() => ({ kind: 'unsent', text }));
  }
  const receipts = await send(talk, sending);
  await talk.ask('QUIT').catch(() => undefined);
  talk.close();
  return receipts;
}

/** LHLO or EHLO; a greeting that is no 220 is the answer already. */
export async function greet(
  talk: MailTalk,
  kind: 'lmtp' | 'smtp',
  name = 'drill.invalid',
): Promise<TalkReply> {
  if (talk.greeting.code !== 220) return talk.greeting;
  return talk.ask(`${kind === 'lmtp' ? 'LHLO' : 'EHLO'} ${name}`);
}

/** RFC 5321 §4.5.2: a line that begins with a dot gets one more; the message ends with CRLF. */
function stuffed(message: string | Buffer): Buffer {
  const text = typeof message === 'string' ? message : message.toString('latin1');
  const ended = text.endsWith('\r\n') ? text : `${text}\r\n`;
  const encoding = typeof message === 'string' ? 'utf8' : 'latin1';
  return Buffer.from(ended.replace(/^\./gm, '..'), encoding);
}

function refusal({ code, text }: TalkReply): Receipt {
  return { kind: 'refused', code, text };
}

function receiptOf(reply: TalkReply): Receipt {
  return reply.code === 250 ? { kind: 'acknowledged', text: reply.text } : refusal(reply);
}

function known(receipt: Receipt | null): Receipt {
  return receipt ?? { kind: 'unsent', text: 'no reply' };
}
