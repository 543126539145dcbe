/**
 * Mail for tests: numbered messages and one-line ways to hand them over by LMTP or SMTP.
 * The client beneath is the drills' own; for bad manners (half a DATA, a split dot) use `openMailTalk` and write bytes.
 */
import { type Receipt, sendOne } from '../../src/drill/mail-talk.ts';

export {
  greet,
  type MailTalk,
  openMailTalk,
  type Receipt,
  send,
  sendOne,
  type TalkReply,
} from '../../src/drill/mail-talk.ts';

export interface NumberedMessage {
  readonly number: number | string;
  readonly to: string;
  readonly from?: string;
  readonly subject?: string;
  /** Pads the body to about this size. */
  readonly bodyBytes?: number;
}

/** CRLF text with `X-Number` and a Message-ID made of the number, so that it can be found again. */
export function numberedMessage({
  number,
  to,
  from = 'sender@example.net',
  subject,
  bodyBytes = 200,
}: NumberedMessage): string {
  const line = `Line of message ${number}. The quick brown fox jumps over the lazy dog.\r\n`;
  return [
    `From: <${from}>`,
    `To: <${to}>`,
    `Subject: ${subject ?? `number ${number}`}`,
    `Message-ID: <number.${number}@lab.invalid>`,
    `X-Number: ${number}`,
    'Date: Sat, 21 Nov 2026 12:00:00 +0000',
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    '',
    line.repeat(Math.max(1, Math.ceil(bodyBytes / line.length))),
  ].join('\r\n');
}

export interface Handover {
  readonly kind: 'lmtp' | 'smtp';
  readonly port: number;
  readonly address?: string;
  readonly from?: string;
  readonly to: string | readonly string[];
  readonly number: number | string;
  readonly bodyBytes?: number;
  readonly replyLimitMs?: number;
}

/** One numbered message on a connection of its own; one receipt a recipient. */
export async function handOver(handover: Handover): Promise<Receipt[]> {
  const {
    kind,
    port,
    address = '127.0.0.1',
    from = 'sender@example.net',
    number,
    replyLimitMs = 30_000,
  } = handover;
  const to = typeof handover.to === 'string' ? [handover.to] : handover.to;
  const message = numberedMessage({ number, from, to: to[0] ?? '', bodyBytes: handover.bodyBytes ?? 200 });
  return sendOne({ address, port, replyLimitMs }, { kind, from, to, message });
}
