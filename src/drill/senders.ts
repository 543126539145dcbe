/**
 * The drill's two senders: SMTP with nodemailer, LMTP on kept raw links. Each says of every recipient what it knows,
 * and "in doubt" only when the whole message had left and no reply came: anything looser would excuse a second copy.
 */
import { Readable } from 'node:stream';
import { createTransport } from 'nodemailer';
import type { User } from '../core/types.ts';
import type { Clock } from '../net/clock.ts';
import { canarySender } from './deliveries.ts';
import { greet, type MailTalk, openMailTalk, type Receipt, send, type TalkOptions } from './mail-talk.ts';

export interface Letter {
  readonly number: number;
  readonly to: readonly User[];
}

export interface Sender {
  /** One receipt a recipient, in order. Never rejects. */
  carry(letter: Letter): Promise<readonly Receipt[]>;
  close(): void;
}

/** The header by which a canary is found again; the run tells this drill's from an earlier one's. */
export const canaryHeader = 'X-Homing-Drill';

export function canaryText(clock: Clock, run: string, { number, to }: Letter): string {
  return [
    `From: Homing drill <${canarySender(number)}>`,
    `To: ${to.map(user => `<${user}>`).join(', ')}`,
    `Subject: Canary ${number}`,
    `Message-ID: <${number}.${run}@drill.invalid>`,
    `Date: ${new Date(clock.wall()).toUTCString().replace('GMT', '+0000')}`,
    `${canaryHeader}: ${run}/${number}`,
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=us-ascii',
    '',
    `This is canary ${number} of drill ${run}.`,
    '.',
    'It sings, and a dot stands alone above.',
    '',
  ].join('\r\n');
}

export function smtpSender(clock: Clock, at: TalkOptions, run: string): Sender {
  const limitMs = at.replyLimitMs ?? 30_000;
  const transport = createTransport({
    ...{ host: at.address, port: at.port, ignoreTLS: true, name: 'drill.invalid' },
    ...{ connectionTimeout: limitMs, greetingTimeout: limitMs, socketTimeout: limitMs },
  });
  return {
    carry: async letter => {
      let left = false;
      const text = Readable.from([Buffer.from(canaryText(clock, run, letter))]);
      text.once('end', () => {
        left = true;
      });
      const envelope = { from: canarySender(letter.number), to: [...letter.to] };
      try {
        const sent = await transport.sendMail({ envelope, raw: text });
        const accepted = new Set(sent.accepted.map(String));
        const refused: Receipt = {
          kind: 'refused',
          code: 450,
          text: 'refused beside others that were taken',
        };
        return letter.to.map(user =>
          accepted.has(user) ? { kind: 'acknowledged', text: sent.response } : refused,
        );
      } catch (error) {
        const receipt = receiptOfError(error, left);
        return letter.to.map(() => receipt);
      }
    },
    close: () => transport.close(),
  };
}

function receiptOfError(error: unknown, left: boolean): Receipt {
  const text = error instanceof Error ? error.message : String(error);
  const code =
    typeof error === 'object' && error !== null && 'responseCode' in error ? error.responseCode : undefined;
  if (typeof code === 'number' && code > 0) return { kind: 'refused', code, text };
  return { kind: left ? 'in-doubt' : 'unsent', text };
}

/** Links are kept and used again, as an MTA does: a link that was opened before the outage must serve after it. */
export function lmtpSender(clock: Clock, at: TalkOptions, run: string): Sender {
  const idle: MailTalk[] = [];
  const open = async (): Promise<MailTalk> => {
    for (let kept = idle.pop(); kept !== undefined; kept = idle.pop())
      if (!kept.socket.destroyed) return kept;
    const talk = await openMailTalk(at);
    const hello = await greet(talk, 'lmtp');
    if (hello.code === 250) return talk;
    talk.close();
    throw new Error(`${hello.code} ${hello.text}`);
  };
  return {
    carry: async letter => {
      let talk: MailTalk;
      try {
        talk = await open();
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        return letter.to.map(() => ({ kind: 'unsent', text }));
      }
      const message = canaryText(clock, run, letter);
      const receipts = await send(talk, {
        kind: 'lmtp',
        from: canarySender(letter.number),
        to: letter.to,
        message,
      });
      if (!talk.socket.destroyed) idle.push(talk);
      return receipts;
    },
    close: () => {
      for (const talk of idle) talk.close();
    },
  };
}
