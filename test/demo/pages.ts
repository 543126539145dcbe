/**
 * What the demo prints: who lives where and why, and lines to copy for a mail client. Text only.
 */
import { password } from '../lab/dovecot-node.ts';
import type { DemoCluster, MapRow } from './cluster.ts';

export const usageText = `npm run demo -- [options]
  --drill               kill a node, bring it back, report; exit 1 if a promise was broken
  --rate N              messages a second in the drill (25)
  --free-ports          any free ports in place of the fixed ones
  --dovecot-root DIR    run the nodes from another system's folder (sh test/lab/trixie.sh makes one with Dovecot 2.4)`;

export function mapLines(rows: readonly MapRow[], nodeTitle = 'HOME NODE'): string[] {
  const widest = Math.max(...rows.map(row => row.user.length), 4);
  const nodeWidth = Math.max(...rows.map(row => row.node.length), 9);
  const line = (user: string, node: string, why: string) =>
    `  ${user.padEnd(widest)}  ${node.padEnd(nodeWidth)}  ${why}`;
  return ['', line('USER', nodeTitle, 'WHY'), ...rows.map(row => line(row.user, row.node, row.why)), ''];
}

export function connectLines({ ports, nodes, homing, folder, logFile }: DemoCluster): string[] {
  const user = 'alice@example.org';
  return [
    'A mail client (Thunderbird: account settings by hand):',
    `  incoming   IMAP, 127.0.0.1, port ${ports.imaps} SSL/TLS (self-signed: confirm it) or ${ports.imap} STARTTLS, normal password`,
    `  user name  ${user} (or bob, carol, dave, erin, frank), password: ${password}`,
    '',
    'Without one:',
    `  curl -k --user '${user}:${password}' 'imaps://127.0.0.1:${ports.imaps}/INBOX' -X 'FETCH 1:* (UID RFC822.SIZE)'`,
    `  openssl s_client -quiet -crlf -connect 127.0.0.1:${ports.imaps}     then: a login ${user} ${password}`,
    `  openssl s_client -quiet -crlf -starttls imap -connect 127.0.0.1:${ports.imap}`,
    `  curl --mail-from me@example.net --mail-rcpt ${user} -T README.md smtp://127.0.0.1:${ports.smtp}`,
    `  curl -s http://127.0.0.1:${ports.admin}/v1/status`,
    '',
    'Ask Homing:',
    `  sh src/homing.sh status --config ${homing.configFile}`,
    `  sh src/homing.sh explain --config ${homing.configFile} ${user}`,
    '',
    `Nodes: ${nodes.map(node => `${node.name} ${node.address}:${node.ports.imap} (Dovecot ${node.version})`).join(', ')}`,
    `Mail, settings and logs: ${folder} (${logFile})`,
    '',
  ];
}
