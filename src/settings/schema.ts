/**
 * Every setting once: its key, what it means, its default, an example. `load` reads files by it, docs/settings.md is generated from it.
 * Durations are milliseconds and sizes bytes in the type `Settings`. A key of the design whose feature is not built is refused, never ignored.
 */
import { z } from 'zod';
import {
  checkAffinity,
  checkDefaultDomain,
  checkDelimiters,
  checkDomain,
  checkName,
  checkNodeAddress,
  checkSeparator,
  checkSpoolPath,
} from './checks.ts';
import {
  absentYet,
  addresses,
  choice,
  count,
  duration,
  emptyYet,
  leaf,
  optionalSection,
  optionalText,
  path,
  paths,
  section,
  sections,
  share,
  size,
  text,
  texts,
} from './leaf.ts';
import { accept, notYet, type Read, readChoices, refuse, shown, within, wrong } from './read.ts';

const port = (prose: string) =>
  leaf<number | null>('port', { prose, fallback: null, example: 143 }, v =>
    v === null || (typeof v === 'number' && Number.isInteger(v) && v > 0 && v < 65536)
      ? { ok: true, value: v }
      : { ok: false, why: `${JSON.stringify(v)} is not a port`, right: 'a whole number from 1 to 65535' },
  );

const nodeKeys = {
  name: text({
    prose:
      'The stable name that users are hashed to. Renaming a node moves its users; changing its address does not.',
    kind: 'name',
    example: 'mail1',
    check: checkName,
  }),
  address: text({
    prose: 'IP address or DNS name that the backends listen on.',
    example: '10.0.0.1',
    check: checkNodeAddress,
  }),
  weight: count({
    prose:
      'Share of the users, relative to the other nodes. 0: none by ranking, only those that overrides send there.',
    fallback: 100,
    example: 200,
    least: 0,
    most: 1000,
  }),
  pool: text({
    prose: 'Group of nodes that users are ranked in. Maps send users to another pool with `pool:NAME`.',
    kind: 'name',
    fallback: 'default',
    example: 'archive',
    check: checkName,
  }),
  ports: section(
    {
      prose: 'TCP port of each backend that the node has. Left out altogether: imap 143 and lmtp 24.',
      example: { imap: 143, lmtp: 24 },
    },
    {
      imap: port('IMAP.'),
      pop3: port('POP3: only probed so far.'),
      sieve: port('ManageSieve: only probed so far.'),
      lmtp: port('LMTP.'),
      submission: port('Submission: only probed so far.'),
    },
  ),
  tls: choice({
    prose: 'TLS from here to the node.',
    fallback: 'off',
    example: 'off',
    words: ['off'],
    later: ['starttls', 'on'],
  }),
  ip: absentYet({
    prose: 'The address that Dovecot directors knew the node by, for `placement: dovecot-director`.',
  }),
};

const listenKeys = {
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

const processes = leaf<'auto' | 1>(
  'auto, or 1',
  { prose: 'Serving processes. Both values mean one for now.', fallback: 'auto', example: 1, restart: true },
  v => {
    if (v === 'auto' || v === 1) return accept(v);
    const more = typeof v === 'number' && Number.isInteger(v) && v > 1;
    return wrong(`${shown(v)} ${more ? `is ${notYet}` : 'is not a number of processes'}`, 'auto, or 1');
  },
);

const ways = ['direct', 'queue'] as const;
const laterWays = ['next', 'exec'] as const;
export type Way = (typeof ways)[number];
export interface WhenHomeDown {
  readonly smtp: readonly Way[];
  readonly lmtp: readonly Way[];
  /** False where the key was left out, so that a missing spool may shorten it. */
  readonly given: boolean;
}

const whenHomeDown = leaf<WhenHomeDown>(
  'list of: direct, queue; or a group of two lists: smtp, lmtp',
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
  if (v === null) return accept({ smtp: ways, lmtp: ['direct'], given: false });
  if (Array.isArray(v) || typeof v !== 'object') {
    const both = readChoices(v, ways, laterWays);
    return both.ok ? accept({ smtp: both.value, lmtp: both.value, given: true }) : both;
  }
  const { smtp = ways, lmtp = ['direct'], ...others } = v as Record<string, unknown>;
  const [other] = Object.keys(others);
  if (other !== undefined) return wrong(`${other} is not known here`, 'smtp and lmtp');
  const bySmtp = readChoices(smtp, ways, laterWays);
  const byLmtp = readChoices(lmtp, ways, laterWays);
  if (bySmtp.ok && byLmtp.ok) return accept({ smtp: bySmtp.value, lmtp: byLmtp.value, given: true });
  const faults = [bySmtp.ok ? null : within('smtp', bySmtp), byLmtp.ok ? null : within('lmtp', byLmtp)];
  return refuse(faults.flatMap(one => one?.faults ?? []));
}

const usersKeys = {
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

const healthKeys = {
  interval: duration({
    prose: 'How often each backend of each node is probed.',
    fallback: '1s',
    example: '2s',
    leastMs: 50,
  }),
  timeout: duration({
    prose:
      'How long a probe waits for the TCP connection. A refused or failed connection is evidence at once.',
    fallback: '800ms',
    example: '2s',
    leastMs: 10,
  }),
  greetingTimeout: duration({
    prose:
      "How long a probe waits for the greeting. Longer than the shared file system's own failover, during which every node is slow: silence is not death.",
    fallback: '30s',
    example: '60s',
    leastMs: 50,
  }),
  rise: count({
    prose: 'Good probes in a row before a node is up again.',
    fallback: 2,
    example: 3,
    least: 1,
    most: 100,
  }),
  fall: count({
    prose: 'Failures in a row before a node is down.',
    fallback: 3,
    example: 5,
    least: 1,
    most: 100,
  }),
  jitter: share({
    prose: 'Random part of the interval, so that probes never march in step.',
    fallback: '10%',
    example: '25%',
    most: 0.5,
  }),
  panic: share({
    prose:
      'When more than this share of all nodes look dead at once, the fault is taken to be here: no further node is declared down.',
    fallback: '50%',
    example: '67%',
  }),
};

const failoverKeys = {
  failback: choice({
    prose: 'When users go home to a node that is back: `idle` is when they have no session or delivery.',
    fallback: 'idle',
    example: 'idle',
    words: ['idle'],
    later: ['now', 'manual'],
  }),
  hold: duration({
    prose: 'How long a login or delivery waits at most while the view changes; then UNAVAILABLE or 451.',
    fallback: '10s',
    example: '22s',
    leastMs: 100,
  }),
  settle: duration({
    prose: 'How long deliveries that are under way may take to finish when the view changes.',
    fallback: '5s',
    example: '5s',
    leastMs: 10,
  }),
  spread: duration({
    prose:
      "Sessions of a node that died or drains are closed spread over this time, so that its users don't all log in again in one instant.",
    fallback: '2s',
    example: '10s',
  }),
  pinDeadline: duration({
    prose: 'How long an active user may stay away from home before the session is closed to send them there.',
    fallback: '24h',
    example: '8h',
    leastMs: 1000,
  }),
  fence: choice({
    prose: 'Confirmation that a dead node can no longer write. `none` fails over at once.',
    fallback: 'none',
    example: 'none',
    words: ['none'],
    later: ['command', 'http'],
  }),
};

const deliveryKeys = {
  whenHomeDown,
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

const spoolKeys = {
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

const queueKeys = {
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
      first: duration({ prose: 'The first wait.', fallback: '30s', example: '10s', leastMs: 10 }),
      most: duration({ prose: 'The longest wait.', fallback: '30m', example: '1h', leastMs: 10 }),
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

const stateKeys = {
  store: choice({
    prose: 'Who holds the view, overrides and pins: `embedded` is this machine, journalled to disk.',
    fallback: 'embedded',
    example: 'embedded',
    words: ['embedded'],
    later: ['redis'],
    restart: true,
  }),
  path: path({
    prose: 'Folder of the journal.',
    fallback: 'var/state',
    example: '/var/lib/homing/state',
    restart: true,
  }),
  url: absentYet({ prose: 'Where Redis is.' }),
  lease: duration({
    prose:
      "How long a serving process may go on without a sign of the store. The barrier's other timers follow from it.",
    fallback: '6s',
    example: '15s',
    leastMs: 500,
    restart: true,
  }),
  onLoss: choice({
    prose: 'What a serving process does that alone has lost the store.',
    fallback: 'serve',
    example: 'serve',
    words: ['serve'],
    later: ['refuse'],
    restart: true,
  }),
};

const limitsKeys = {
  preAuth: duration({
    prose: 'From the connection to the end of a login: one absolute deadline.',
    fallback: '60s',
    example: '30s',
    leastMs: 100,
  }),
  preAuthBytes: size({
    prose: 'All that a client may send before it has logged in.',
    fallback: '64KiB',
    example: '32KiB',
    leastBytes: 1024,
  }),
  commands: count({ prose: 'Commands before login.', fallback: 50, example: 20, least: 3, most: 10_000 }),
  line: size({
    prose: 'One command line before login.',
    fallback: '8KiB',
    example: '16KiB',
    leastBytes: 512,
  }),
  literal: size({
    prose: 'One IMAP literal before login.',
    fallback: '16KiB',
    example: '32KiB',
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
};

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;

export const topKeys = {
  cluster: text({
    prose: 'Name of the cluster, for people.',
    kind: 'name',
    fallback: 'homing',
    example: 'example',
    check: checkName,
    restart: true,
  }),
  include: emptyYet({ prose: 'Parts of the settings kept elsewhere.' }),
  nodes: sections(
    { prose: 'The machines of the cluster.', example: [{ name: 'mail1', address: '10.0.0.1' }] },
    nodeKeys,
  ),
  self: optionalText({
    prose: 'The node that this machine is, where it is one.',
    kind: 'name of a node',
    example: 'mail1',
    check: checkName,
    restart: true,
  }),
  listen: section(
    { prose: 'Where Homing listens: each a list of "address:port". An IPv6 address stands in brackets.' },
    listenKeys,
  ),
  processes,
  runAs: optionalText({
    prose:
      'Account of the serving process when Homing is started as root; it never runs as root. Left out: `homing` if there is such an account, else `nobody`.',
    kind: 'account',
    example: 'homing',
    check: checkAccount,
    restart: true,
  }),
  tls: optionalSection(
    {
      prose:
        'Certificate for STARTTLS and TLS listeners. Read again when the files change. Left out: no TLS.',
      listLater: 'a list of certificates',
      example: { cert: 'cert.pem', key: 'key.pem' },
    },
    {
      cert: path({ prose: 'PEM file: the certificate, then its chain.', example: 'cert.pem' }),
      key: path({ prose: 'PEM file: the private key, without a passphrase.', example: 'key.pem' }),
    },
  ),
  users: section({ prose: 'How login names and addresses become users.' }, usersKeys),
  placement: choice({
    prose: 'How users are ranked: weighted rendezvous hashing.',
    fallback: 'rendezvous',
    example: 'rendezvous',
    words: ['rendezvous'],
    later: ['dovecot-director'],
  }),
  maps: paths({
    prose: 'Map files: user, @domain or /regex/, then a node or pool:NAME. Read again when they change.',
    fallback: [],
    example: ['users.map'],
  }),
  health: section({ prose: 'How nodes are probed.' }, healthKeys),
  failover: section({ prose: 'What happens when a node goes down, drains or comes back.' }, failoverKeys),
  move: section(
    { prose: 'How a user changes node.' },
    {
      quiet: duration({
        prose: "How long to wait for the old node's end of connection before its session counts as gone.",
        fallback: '2s',
        example: '5s',
      }),
    },
  ),
  delivery: section({ prose: 'The way of a message.' }, deliveryKeys),
  spool: optionalSection(
    {
      prose: 'The shared mail store, for direct delivery. Left out: no direct delivery.',
      example: { path: '/srv/mail/{domain}/{local}/Maildir', mark: '/srv/mail/.homing', user: 'vmail' },
    },
    spoolKeys,
  ),
  queue: section({ prose: 'Messages that wait.' }, queueKeys),
  state: section({ prose: 'Where the view of the cluster is kept.' }, stateKeys),
  trust: section(
    { prose: 'Networks whose word about the client is believed.' },
    {
      proxyProtocol: emptyYet({ prose: 'PROXY protocol.' }),
      xclient: emptyYet({ prose: 'XCLIENT and XFORWARD.' }),
    },
  ),
  limits: section(
    { prose: 'What one client may ask for before it is trusted, and how much at all.' },
    limitsKeys,
  ),
  shutdown: section(
    { prose: 'SIGTERM.' },
    {
      limit: duration({
        prose: 'How long running deliveries and sessions may take to end before they are cut.',
        fallback: '30s',
        example: '5m',
      }),
    },
  ),
  log: section(
    { prose: 'Lines of JSON.' },
    {
      level: choice({
        prose: 'The least important lines that are written.',
        fallback: 'info',
        example: 'debug',
        words: levels,
      }),
      file: path({
        prose: '`-` is standard output. Opened anew on SIGHUP.',
        fallback: '-',
        example: '/var/log/homing.log',
        restart: true,
      }),
    },
  ),
};

export const schema = z.strictObject(topKeys);

type Frozen<T> = T extends (infer E)[]
  ? readonly Frozen<E>[]
  : T extends object
    ? { readonly [K in keyof T]: Frozen<T[K]> }
    : T;

/** What was read, as it stands in the file: paths relative, `domains` maybe empty. */
export type RawSettings = Frozen<z.output<typeof schema>>;

/** Settings as everything else sees them: paths absolute, defaults that depend on other keys filled in. Milliseconds and bytes. */
export type Settings = RawSettings;

/** An account's name or number. */
function checkAccount(value: string): { why: string; right: string } | null {
  if (/^(?:[a-z_][a-z0-9_.-]{0,31}\$?|\d{1,10})$/i.test(value)) return null;
  return { why: `${JSON.stringify(value)} is not an account`, right: 'a user name or uid of this machine' };
}
