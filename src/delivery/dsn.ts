/**
 * The report to a sender whose message some recipients got and others refused for good (RFC 3464, RFC 3461 §6): only where one SMTP
 * reply for all could not say so. Must never be made for the null sender (RFC 5321 §4.5.5), and goes out as from the null sender.
 * The original comes back as its header alone, cut off at a limit.
 */
import type { Readable } from 'node:stream';
import MimeNode from 'nodemailer/lib/mime-node';
import type { Outcome, Recipient, Reply } from '../core/types.ts';
import type { Letter } from './courier.ts';
import { mailDate } from './received.ts';

export interface Refused {
  readonly recipient: Recipient;
  readonly outcome: Outcome;
}

export interface DsnWish {
  readonly letter: Letter;
  readonly refused: readonly Refused[];
  /** Our own name. */
  readonly name: string;
  /** Unix ms. */
  readonly nowMs: number;
}

const headerLimitBytes = 64 * 1024;

/** The whole message, CRLF line ends. Rejects where the original's header cannot be read back. */
export async function composeDsn({ letter, refused, name, nowMs }: DsnWish): Promise<Buffer> {
  const root = new MimeNode('multipart/report; report-type=delivery-status', {
    hostname: name,
    newline: 'win',
  });
  root.setHeader({
    From: { name: 'Mail Delivery System', address: `MAILER-DAEMON@${name}` },
    To: letter.from,
    Subject: 'Undelivered mail returned to sender',
    'Auto-Submitted': 'auto-replied',
    Date: new Date(nowMs),
  });
  root.createChild('text/plain; charset=utf-8').setContent(explanation(refused, name));
  const status = root.createChild('message/delivery-status');
  status.setContent(statusFields(letter, refused, name));
  const header = await headerOf(letter.body.open());
  root.createChild('text/rfc822-headers').setContent(header);
  return root.build();
}

function explanation(refused: readonly Refused[], name: string): string {
  const lines = refused.map(({ recipient, outcome }) => `<${recipient.address}>: ${wordsOf(outcome.reply)}`);
  return [
    `This is the mail system at ${name}.`,
    '',
    'Your message was delivered to some of its recipients, but these refused it for good:',
    '',
    ...lines,
    '',
  ].join('\r\n');
}

/** RFC 3464 §2.2 and §2.3: one group for the message, one for each recipient. */
function statusFields(letter: Letter, refused: readonly Refused[], name: string): string {
  const about = [
    `Reporting-MTA: dns; ${name}`,
    `X-Queue-Id: ${letter.id}`,
    `Arrival-Date: ${mailDate(letter.acceptedAtMs)}`,
  ];
  const groups = refused.map(({ recipient, outcome }) =>
    [
      `Final-Recipient: ${addressType(recipient.address)}; ${recipient.address}`,
      'Action: failed',
      `Status: ${outcome.reply.enhanced ?? '5.0.0'}`,
      ...(outcome.node === null ? [] : [`Remote-MTA: dns; ${outcome.node}`]),
      `Diagnostic-Code: smtp; ${wordsOf(outcome.reply)}`,
    ].join('\r\n'),
  );
  return `${[about.join('\r\n'), ...groups].join('\r\n\r\n')}\r\n`;
}

/** RFC 6533 §3. */
function addressType(address: string): string {
  return /[^ -~]/.test(address) ? 'utf-8' : 'rfc822';
}

function wordsOf({ code, enhanced, lines }: Reply): string {
  const text = lines
    .join(' ')
    .replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, ' ')
    .slice(0, 500);
  return `${code} ${enhanced === null ? '' : `${enhanced} `}${text}`;
}

/** The original's header without its body; also ended where the limit cuts a line. */
async function headerOf(reader: Readable): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of reader) {
    pieces.push(Buffer.from(piece));
    bytes += piece.length;
    if (bytes >= headerLimitBytes) break;
  }
  const start = Buffer.concat(pieces).subarray(0, headerLimitBytes);
  const end = start.indexOf('\r\n\r\n');
  if (end !== -1) return start.subarray(0, end + 2);
  const whole = start.lastIndexOf('\r\n');
  return whole === -1 ? Buffer.alloc(0) : start.subarray(0, whole + 2);
}
