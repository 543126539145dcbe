/**
 * The settings of what clients meet: listeners and limits.
 */
import { addresses, choice, count, duration, emptyYet, leaf, size } from './leaf.ts';
import { accept, notYet, shown, wrong } from './read.ts';

export const listenKeys = {
  imap: addresses({
    prose: 'IMAP, with STARTTLS where `tls` is set.',
    fallback: [],
    example: ['0.0.0.0:143'],
    restart: true,
  }),
  imaps: addresses({
    prose: 'IMAP on TLS from the first byte. Needs `tls`.',
    fallback: [],
    example: ['0.0.0.0:993'],
    restart: true,
  }),
  pop3: emptyYet({ prose: 'POP3.' }),
  pop3s: emptyYet({ prose: 'POP3 on TLS.' }),
  sieve: emptyYet({ prose: 'ManageSieve.' }),
  submission: emptyYet({ prose: 'Submission with STARTTLS.' }),
  submissions: emptyYet({ prose: 'Submission on TLS.' }),
  lmtp: addresses({
    prose: 'LMTP: one reply for each recipient. For your MTA; keep it on loopback or a private network.',
    fallback: [],
    example: ['127.0.0.1:24'],
    restart: true,
  }),
  smtp: addresses({
    prose: 'SMTP for mail that comes in for `users.domains`.',
    fallback: [],
    example: ['0.0.0.0:25'],
    restart: true,
  }),
  admin: addresses({
    prose: 'The HTTP API behind `homing status` and its sisters. It has no passwords: loopback only.',
    fallback: ['127.0.0.1:8025'],
    example: ['127.0.0.1:8025'],
    restart: true,
  }),
};

export const processes = leaf<'auto' | 1>(
  'auto, or 1',
  { prose: 'Serving processes. Both values mean one for now.', fallback: 'auto', example: 1, restart: true },
  v => {
    if (v === 'auto' || v === 1) return accept(v);
    const more = typeof v === 'number' && Number.isInteger(v) && v > 1;
    return wrong(`${shown(v)} ${more ? `is ${notYet}` : 'is not a number of processes'}`, 'auto, or 1');
  },
);

export const limitsKeys = {
  preAuth: duration({
    prose: 'From the connection to the end of a login: one absolute deadline.',
    fallback: '60s',
    example: '30s',
    leastMs: 100,
  }),
  commands: count({
    prose: 'Commands before login.',
    fallback: 100,
    example: 20,
    least: 3,
    most: 10_000,
  }),
  command: size({
    prose: 'One command before login, with all its lines and literals.',
    fallback: '32KiB',
    example: '64KiB',
    leastBytes: 1024,
  }),
  line: size({
    prose: 'One command line before login.',
    fallback: '8KiB',
    example: '16KiB',
    leastBytes: 512,
  }),
  literal: size({
    prose: 'One IMAP literal before login.',
    fallback: '4KiB',
    example: '16KiB',
    leastBytes: 64,
  }),
  connections: count({
    prose: 'Client connections of one listener. A session takes two file descriptors.',
    fallback: 10_000,
    example: 4000,
    least: 1,
    most: 1_000_000,
  }),
  connectionsPerAddress: count({
    prose: 'Client connections of one address to one listener. Mind webmail, which comes from a single one.',
    fallback: 1000,
    example: 100,
    least: 1,
    most: 1_000_000,
  }),
  message: size({
    prose: 'One message; announced as SIZE.',
    fallback: '50MiB',
    example: '100MiB',
    leastBytes: 64 * 1024,
  }),
  recipients: count({
    prose: 'Recipients of one message; RFC 5321 asks for at least 100.',
    fallback: 1000,
    example: 100,
    least: 1,
    most: 100_000,
  }),
  hops: count({
    prose: 'Received lines of one message; more are taken for a mail loop.',
    fallback: 50,
    example: 30,
    least: 5,
    most: 1000,
  }),
};

export const loginKeys = {
  plaintext: choice({
    prose:
      'Where passwords may come without TLS: `loopback` is from this machine only, `tls` nowhere, `always` from everywhere (a private network, or TLS ends in front of Homing).',
    fallback: 'loopback',
    example: 'always',
    words: ['loopback', 'tls', 'always'],
  }),
};
