/**
 * Where this machine reaches a node: its address, or loopback where the node is this machine itself (`self`). A proxy on a node then
 * needs no way out and back in, and a firewall that closes the backends to the world does not close them to it.
 */
import type { NodeName } from './types.ts';

/** An address or DNS name to connect to. A node that has a loopback address already keeps it. */
export function reach(
  node: { readonly name: NodeName; readonly address: string },
  self: NodeName | null,
): string {
  if (node.name !== self || /^127\.|^::1$/.test(node.address)) return node.address;
  return node.address.includes(':') ? '::1' : '127.0.0.1';
}
