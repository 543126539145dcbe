/**
 * A TCP socket bound, but not yet listening, by the process that may bind low ports, to be handed to the one that serves.
 * It stays open here, so a child that dies leaves its clients in the kernel's queue for the next one.
 * Uses Node's own TCP handle (`tcp_wrap`, the same on Node 20, 24 and 26): the public API can't bind without accepting.
 */
import { isIPv6 } from 'node:net';

interface TcpHandle {
  bind(address: string, port: number, flags?: number): number;
  bind6(address: string, port: number, flags: number): number;
  getsockname(out: { address?: string; port?: number }): number;
  close(): void;
}

interface TcpWrap {
  readonly TCP: new (kind: number) => TcpHandle;
  readonly constants: { readonly SERVER: number; readonly UV_TCP_IPV6ONLY: number };
}

export interface BoundSocket {
  readonly address: string;
  readonly port: number;
  /** To be passed in a child's `stdio` list; the child listens on that descriptor. */
  readonly handle: object;
  close(): void;
}

export type BindResult =
  | { readonly ok: true; readonly socket: BoundSocket }
  | { readonly ok: false; readonly why: string };

function tcpWrap(): TcpWrap {
  return (process as unknown as { binding(name: string): TcpWrap }).binding('tcp_wrap');
}

const reasons: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is in use by another process',
  EACCES: 'no permission to bind this port (start as root, or grant CAP_NET_BIND_SERVICE)',
  EADDRNOTAVAIL: 'this machine has no such address',
};

/** Words for a negative errno from libuv, e.g. -98 → "EADDRINUSE: the port is in use …". */
function describeErrno(errno: number): string {
  const name = [...systemErrors()].find(([code]) => code === errno)?.[1] ?? `errno ${errno}`;
  return reasons[name] ? `${name}: ${reasons[name]}` : name;
}

function systemErrors(): Iterable<readonly [number, string]> {
  const uv = (process as unknown as { binding(name: string): Record<string, unknown> }).binding('uv');
  return Object.entries(uv)
    .filter((entry): entry is [string, number] => typeof entry[1] === 'number')
    .map(([name, code]) => [code, name.replace(/^UV_/, '')] as const);
}

/** Binds `address` (an IP; `::` serves IPv6 only where it is listed alone) and `port` (0: any free one). */
export function bindSocket(address: string, port: number): BindResult {
  const { TCP, constants } = tcpWrap();
  const handle = new TCP(constants.SERVER);
  const bound = isIPv6(address)
    ? handle.bind6(address, port, constants.UV_TCP_IPV6ONLY)
    : handle.bind(address, port);
  const name: { address?: string; port?: number } = {};
  // libuv keeps EADDRINUSE for the next call: getsockname tells it.
  const errno = bound !== 0 ? bound : handle.getsockname(name);
  if (errno !== 0) {
    handle.close();
    return { ok: false, why: describeErrno(errno) };
  }
  return {
    ok: true,
    socket: {
      address: name.address ?? address,
      port: name.port ?? port,
      handle,
      close: () => handle.close(),
    },
  };
}
