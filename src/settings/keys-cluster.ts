/**
 * The settings of the cluster itself: its nodes, how they are probed, what happens when one goes down or comes back, where that is kept.
 */
import { checkName, checkNodeAddress } from './checks.ts';
import { absentYet, choice, count, duration, leaf, path, section, share, text } from './leaf.ts';
import { accept, shown, wrong } from './read.ts';

const port = (example: number, prose: string) =>
  leaf<number | null>('port', { prose, fallback: null, example }, v =>
    v === null || (typeof v === 'number' && Number.isInteger(v) && v > 0 && v < 65536)
      ? accept(v)
      : wrong(`${shown(v)} is not a port`, 'a whole number from 1 to 65535'),
  );

export const nodeKeys = {
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
      imap: port(143, 'IMAP.'),
      pop3: port(110, 'POP3: only probed so far.'),
      sieve: port(4190, 'ManageSieve: only probed so far.'),
      lmtp: port(24, 'LMTP.'),
      submission: port(587, 'Submission: only probed so far.'),
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

export const healthKeys = {
  interval: duration({
    prose: 'How often each backend of each node is probed.',
    fallback: '1s',
    example: '2s',
    leastMs: 50,
  }),
  timeout: duration({
    prose: 'How long a probe waits for the connection. A refused or failed connection is evidence at once.',
    fallback: '800ms',
    example: '2s',
    leastMs: 10,
  }),
  greetingTimeout: duration({
    prose:
      "A node that takes connections but greets nobody for so long is down. Longer than the shared file system's own failover, during which every node is slow: silence is not death.",
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

export const failoverKeys = {
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
  pinDeadline: absentYet({
    prose: 'How long an active user may stay away from home before the session is closed to send them there.',
  }),
  fence: choice({
    prose: 'Confirmation that a dead node can no longer write. `none` fails over at once.',
    fallback: 'none',
    example: 'none',
    words: ['none'],
    later: ['command', 'http'],
  }),
};

export const stateKeys = {
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
