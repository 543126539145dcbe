/**
 * What no single key can tell: checks over several settings at once, after each value has been read.
 * Each finding names the key that an operator would change.
 */
import { checkTimers } from '../core/timers.ts';
import { protocols } from '../core/types.ts';
import { timersOf } from './derived.ts';
import { formatDuration } from './duration.ts';
import { didYouMean } from './nearest.ts';
import type { KeyPath } from './position.ts';
import { type Address, readAddress } from './read.ts';
import type { Settings } from './schema.ts';

export interface Finding {
  readonly path: KeyPath;
  readonly why: string;
  readonly right: string;
}

export function crossCheck(settings: Settings): Finding[] {
  return [
    ...checkNodes(settings),
    ...checkListen(settings),
    ...checkMail(settings),
    ...checkQueue(settings),
    ...checkBarrier(settings),
  ];
}

function* checkNodes({ nodes, self, listen, maps }: Settings): Generator<Finding> {
  const names = new Map<string, number>();
  for (const [i, node] of nodes.entries()) {
    // Names differ in more than case: they stand in file names and are typed by people at night.
    const before = names.get(node.name.toLowerCase());
    if (before !== undefined)
      yield {
        path: ['nodes', i, 'name'],
        why: `${node.name} is the name of nodes[${before}] already`,
        right: 'a name of its own',
      };
    else names.set(node.name.toLowerCase(), i);
  }
  yield* checkPorts({ nodes, listen });
  if (self !== null && !nodes.some(n => n.name === self)) {
    const all = nodes.map(n => n.name);
    yield {
      path: ['self'],
      why: `${self} is not one of the nodes`,
      right: `${didYouMean(self, all)}the nodes are ${all.join(', ')}`,
    };
  }
  const homes = nodes.some(n => n.weight > 0 && n.pool === 'default');
  if (!homes && maps.length === 0) {
    const why = 'have none with weight in pool default, so that nobody has a home';
    yield { path: ['nodes'], why, right: 'a weight of at least 1 and no pool for one of them' };
  }
}

function* checkPorts({ nodes, listen }: Pick<Settings, 'nodes' | 'listen'>): Generator<Finding> {
  const owners = new Map<string, string>();
  const sessions = listen.imap.length + listen.imaps.length > 0;
  const mail = listen.lmtp.length + listen.smtp.length > 0;
  for (const [i, { name, address, ports }] of nodes.entries()) {
    if (sessions && ports.imap === null)
      yield {
        path: ['nodes', i, 'ports', 'imap'],
        why: `is missing, but listen.imap needs it: ${name}'s users could not log in`,
        right: 'such as imap: 143',
      };
    if (mail && ports.lmtp === null)
      yield {
        path: ['nodes', i, 'ports', 'lmtp'],
        why: `is missing, but listen.lmtp and listen.smtp need it: ${name}'s users would get no mail`,
        right: 'such as lmtp: 24',
      };
    for (const protocol of protocols) {
      const port = ports[protocol];
      if (port === null) continue;
      const at = `${address.toLowerCase()} port ${port}`;
      const owner = owners.get(at);
      if (owner === undefined) owners.set(at, `${name}'s ${protocol}`);
      else
        yield {
          path: ['nodes', i, 'ports', protocol],
          why: `${at} is ${owner} already`,
          right: 'another address or port',
        };
    }
  }
}

const mailListeners = ['imap', 'imaps', 'lmtp', 'smtp', 'admin'] as const;

/** Two listeners that the kernel would not let bind together, such as 0.0.0.0:143 and 127.0.0.1:143. */
function clash(a: Address, b: Address): boolean {
  if (a.port !== b.port || a.port === 0) return false;
  const six = (x: Address): boolean => x.address.includes(':');
  // `::` takes IPv4 as well: Node binds it dual-stack.
  const all = (x: Address, other: Address): boolean =>
    /^[0:]+$/.test(x.address) || (x.address === '0.0.0.0' && !six(other));
  return a.address === b.address || all(a, b) || all(b, a);
}

function* checkListen({ listen, nodes, tls }: Settings): Generator<Finding> {
  const seen: (Address & { readonly key: string; readonly text: string })[] = [];
  for (const key of mailListeners) {
    for (const [i, text] of listen[key].entries()) {
      const parsed = readAddress(text);
      if (!parsed.ok) continue;
      const path = ['listen', key, i];
      const other = seen.find(s => clash(s, parsed.value));
      if (other)
        yield {
          path,
          why: `${text} is taken by listen.${other.key} ${other.text}`,
          right: 'another address or port',
        };
      const node = nodes.find(
        n => n.address === parsed.value.address && Object.values(n.ports).includes(parsed.value.port),
      );
      if (node)
        yield {
          path,
          why: `${text} is a backend of ${node.name}: Homing would talk to itself`,
          right: 'another address or port',
        };
      seen.push({ ...parsed.value, key, text });
    }
  }
  for (const [i, text] of listen.admin.entries()) {
    if (/^(127\.|\[::1\])/.test(text)) continue;
    const path = ['listen', 'admin', i];
    yield {
      path,
      why: `${text} is open to others, and the admin API has no passwords`,
      right: 'loopback: 127.0.0.1 or [::1]',
    };
  }
  if (listen.imaps.length > 0 && tls === null)
    yield {
      path: ['listen', 'imaps'],
      why: 'needs a certificate',
      right: 'set tls: { cert: cert.pem, key: key.pem }',
    };
}

function* checkMail({ delivery, spool, users, listen }: Settings): Generator<Finding> {
  const way = delivery.whenHomeDown;
  if (spool === null && way.given && [...way.smtp, ...way.lmtp].includes('direct')) {
    yield {
      path: ['delivery', 'whenHomeDown'],
      why: 'names direct, but there is no spool to write to',
      right: 'set spool, or leave direct out',
    };
  }
  if (listen.lmtp.length + listen.smtp.length > 0 && users.domains.length === 0) {
    yield {
      path: ['users', 'domains'],
      why: 'is empty: no mail would be accepted',
      right: 'the domains to accept mail for, such as [example.org]',
    };
  }
  const detail = users.detail.includes(users.masterSeparator) && users.masterSeparator !== '';
  if (detail)
    yield {
      path: ['users', 'masterSeparator'],
      why: `${users.masterSeparator} is users.detail too`,
      right: 'another separator, or ""',
    };
}

function* checkQueue({ queue }: Settings): Generator<Finding> {
  const { backoff, lifetime } = queue;
  if (backoff.first > backoff.most) {
    yield {
      path: ['queue', 'backoff', 'first'],
      why: `${formatDuration(backoff.first)} is longer than the longest wait`,
      right: `at most ${formatDuration(backoff.most)} (queue.backoff.most)`,
    };
  }
  if (backoff.first >= lifetime) {
    yield {
      path: ['queue', 'lifetime'],
      why: `${formatDuration(lifetime)} is over before the first retry`,
      right: `more than ${formatDuration(backoff.first)} (queue.backoff.first)`,
    };
  }
}

/** barrier.md §4: the timers' inequalities. The hold is what an operator can lengthen; it depends on lease and settle. */
function* checkBarrier({ state, failover, health }: Settings): Generator<Finding> {
  const timers = timersOf({ state, failover });
  const wrong = checkTimers(timers);
  const least = Math.max(
    timers.lapseMs + 2 * timers.renewMs + timers.commandTimeoutMs,
    timers.settleMs + timers.renewMs + 1,
  );
  const enough = Math.ceil(least / 100) * 100;
  if (wrong.length > 0 && timers.holdMs < least) {
    const right = `at least ${formatDuration(enough)}, or a shorter state.lease (${formatDuration(state.lease)}) and failover.settle (${formatDuration(failover.settle)})`;
    yield {
      path: ['failover', 'hold'],
      why: `${formatDuration(failover.hold)} is too short: ${wrong.join('; ')}`,
      right,
    };
  } else if (wrong.length > 0) {
    yield {
      path: ['state', 'lease'],
      why: `${formatDuration(state.lease)} can't be safe: ${wrong.join('; ')}`,
      right: 'such as 6s',
    };
  }
  if (health.timeout > health.greetingTimeout) {
    yield {
      path: ['health', 'greetingTimeout'],
      why: `${formatDuration(health.greetingTimeout)} is shorter than health.timeout`,
      right: `at least ${formatDuration(health.timeout)}`,
    };
  }
}
