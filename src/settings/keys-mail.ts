/**
 * The settings of users and their mail: names, the way of a message, the spool, the queue.
 */
import {
  checkAccount,
  checkAffinity,
  checkDefaultDomain,
  checkDelimiters,
  checkDomain,
  checkSeparator,
  checkSpoolPath,
} from './checks.ts';
import { choice, duration, leaf, path, section, text, texts } from './leaf.ts';
import { accept, type Read, readChoices, refuse, within, wrong } from './read.ts';

const ways = ['direct', 'queue', 'next'] as const;
const laterWays = ['exec'] as const;
const defaultWays = { smtp: ['direct', 'queue'], lmtp: ['direct'] } as const;
export type Way = (typeof ways)[number];
export interface WhenHomeDown {
  readonly smtp: readonly Way[];
  readonly lmtp: readonly Way[];
  /** False where the key was left out, so that a missing spool may shorten it. */
  readonly given: boolean;
}

const whenHomeDown = leaf<WhenHomeDown>(
  'list of: direct, queue, next; or a group of two lists: smtp, lmtp',
  {
    prose:
      "What happens to a message whose node can't take it, tried in this order: `direct` writes it into the user's spool here, `queue` keeps it durably and tries again. " +
      'After the last one the sender is told to come again (451). One list counts for SMTP and LMTP alike. By default SMTP has both, LMTP only `direct`, because its peer has a queue of its own. ' +
      'Without `spool` there is no `direct`.',
    fallback: null,
    example: { smtp: ['direct', 'queue'], lmtp: ['direct'] },
  },
  readWhenHomeDown,
);

function readWhenHomeDown(v: unknown): Read<WhenHomeDown> {
  if (v === null) return accept({ ...defaultWays, given: false });
  if (Array.isArray(v) || typeof v !== 'object') {
    const both = readChoices(v, ways, laterWays);
    return both.ok ? accept({ smtp: both.value, lmtp: both.value, given: true }) : both;
  }
  const { smtp = defaultWays.smtp, lmtp = defaultWays.lmtp, ...others } = v as Record<string, unknown>;
  const [other] = Object.keys(others);
  if (other !== undefined) return wrong(`${other} is not known here`, 'smtp and lmtp');
  const bySmtp = readChoices(smtp, ways, laterWays);
  const byLmtp = readChoices(lmtp, ways, laterWays);
  if (bySmtp.ok && byLmtp.ok) return accept({ smtp: bySmtp.value, lmtp: byLmtp.value, given: true });
  const faults = [bySmtp.ok ? null : within('smtp', bySmtp), byLmtp.ok ? null : within('lmtp', byLmtp)];
  return refuse(faults.flatMap(one => one?.faults ?? []));
}

export const usersKeys = {
  defaultDomain: text({
    prose: 'Added to login names and addresses without a domain; "" where users have none.',
    kind: 'domain',
    example: 'example.org',
    check: checkDefaultDomain,
  }),
  domains: texts({
    prose:
      'What mail is accepted for; all else is refused with 550 (no open relay). Left out: the default domain.',
    kind: 'domains',
    fallback: [],
    example: ['example.org', 'example.net'],
    check: checkDomain,
  }),
  detail: text({
    prose: 'Begins the detail in `user+detail@domain`: any of these characters; "" for none.',
    fallback: '+',
    example: '-',
    check: checkDelimiters,
  }),
  masterSeparator: text({
    prose: 'Separates the user from a master user in login names, `user*master`; "" for none.',
    fallback: '*',
    example: '',
    check: checkSeparator,
  }),
  affinity: text({
    prose:
      'What is hashed: `user`, `domain` (a domain stays together on one node), or a template of {user}, {local} and {domain}. Changing it moves nearly everybody.',
    fallback: 'user',
    example: 'domain',
    check: checkAffinity,
  }),
};

export const deliveryKeys = {
  whenHomeDown,
  bareNewlines: choice({
    prose:
      'Messages with a CR or LF that stands alone, which readers disagree about (smuggling): `normalise` makes it CRLF, `refuse` answers 5xx.',
    fallback: 'normalise',
    example: 'refuse',
    words: ['normalise', 'refuse'],
  }),
  multiHome: choice({
    prose: 'Messages whose recipients live on several nodes: `split` delivers to all of them.',
    fallback: 'split',
    example: 'split',
    words: ['split'],
    later: ['pin-first'],
  }),
  sieve: choice({
    prose:
      'Users with an active Sieve script while their node is down: `queue` waits for the node so that the script runs, `bypass` delivers to the inbox without it.',
    fallback: 'queue',
    example: 'bypass',
    words: ['queue', 'bypass'],
    later: ['exec'],
  }),
};

export const spoolKeys = {
  format: choice({
    prose: 'How mail is stored.',
    fallback: 'maildir',
    example: 'maildir',
    words: ['maildir'],
    later: ['mbox'],
  }),
  path: text({
    prose: "A user's Maildir. {user}, {local} and {domain} may stand in it.",
    kind: 'path with {user} or {local}',
    example: '/srv/mail/{domain}/{local}/Maildir',
    check: checkSpoolPath,
  }),
  mark: path({
    prose:
      'A file on the shared file system. Without it nothing is written: an unmounted mount point looks just like an empty spool.',
    example: '/srv/mail/.homing',
  }),
  user: text({
    prose: 'The account that owns the mail; the writer process runs as it when Homing is started as root.',
    example: 'vmail',
    check: checkAccount,
  }),
};

export const queueKeys = {
  path: path({
    prose: "The queue's folder: on this machine's own disk, never on the shared file system.",
    fallback: 'var/queue',
    example: '/var/lib/homing/queue',
    restart: true,
  }),
  lifetime: duration({
    prose: 'How long a message is tried before it is returned to its sender.',
    fallback: '5d',
    example: '2d',
    leastMs: 1000,
  }),
  backoff: section(
    { prose: 'When to try again: first after `first`, then each wait twice the last, at most `most`.' },
    {
      first: duration({ prose: 'The first wait.', fallback: '5s', example: '10s', leastMs: 10 }),
      most: duration({ prose: 'The longest wait.', fallback: '15m', example: '1h', leastMs: 10 }),
    },
  ),
  mode: choice({
    prose: '`plain`: only what can be delivered neither to the node nor directly is queued.',
    fallback: 'plain',
    example: 'plain',
    words: ['plain'],
    later: ['write-cache'],
  }),
};
