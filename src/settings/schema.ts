/**
 * Every setting once: its key, what it means, its default, an example. `load` reads files by it, docs/settings.md is generated from it.
 * Durations are milliseconds and sizes bytes in the type `Settings`. A key of the design whose feature is not built is refused, never ignored.
 * The keys below the larger groups are in keys-cluster.ts, keys-front.ts and keys-mail.ts.
 */
import { z } from 'zod';
import { checkAccount, checkName } from './checks.ts';
import { failoverKeys, healthKeys, nodeKeys, stateKeys } from './keys-cluster.ts';
import { limitsKeys, listenKeys, loginKeys, processes } from './keys-front.ts';
import { deliveryKeys, queueKeys, spoolKeys, usersKeys } from './keys-mail.ts';
import {
  choice,
  duration,
  emptyYet,
  optionalSection,
  optionalText,
  path,
  paths,
  section,
  sections,
  text,
} from './leaf.ts';

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
    {
      prose:
        "The machines of the cluster: each with a name, an address and, where the defaults won't do, weight, pool and ports.",
      example: [{ name: 'mail1', address: '10.0.0.1' }],
    },
    nodeKeys,
  ),
  self: optionalText({
    prose: 'The node that this machine is, where it is one: reached over loopback from here.',
    kind: 'name of a node',
    example: 'mail1',
    check: checkName,
    restart: true,
  }),
  listen: section(
    { prose: 'Where Homing listens: each a list of "address:port". An IPv6 address stands in brackets.' },
    listenKeys,
  ),
  login: section({ prose: 'How clients log in.' }, loginKeys),
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
