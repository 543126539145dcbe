/**
 * What `homing --help` and `homing COMMAND --help` print. The man page (docs/homing.1) says the same at length.
 */

export const commands = {
  serve: `homing serve [--config FILE]
  Runs Homing until SIGTERM, which drains. SIGHUP reloads the settings.`,
  check: `homing check [--config FILE] [--json]
  Settings, map files, certificate, spool, and each backend of each node. Exit 1 when something is wrong.`,
  map: `homing map [--config FILE] [--json] [USER ...]
  Prints user, node and why, one a line, tab-separated, with all nodes taken as up: needs no running Homing.
  Users come from standard input, one a line, where none are given. --json: one object a line.
  A name that is no user is told on standard error, and the exit code is 1.`,
  explain: `homing explain [--config FILE | --admin URL] [--json] USER
  Where the running Homing places a user now, and why: ranking, overrides, states, sessions.`,
  status: `homing status [--config FILE | --admin URL] [--json]
  The cluster as the running Homing sees it.`,
  sessions: `homing sessions [--config FILE | --admin URL] [--json]
  Sessions and deliveries under way.`,
  queue: `homing queue [--config FILE | --admin URL] [--json]
  Messages that wait.`,
  node: `homing node ready|drain|maint NAME [--config FILE | --admin URL] [--json]
homing node weight NAME WEIGHT
  ready: takes users. drain: takes no new ones, active users stay until they are idle. maint: takes none, active ones are
  sent elsewhere. weight: 0 to 1000, its share of the users; 0 takes none by ranking.`,
  'settings-reference': `homing settings-reference [markdown|yaml]
  Prints docs/settings.md or config/homing.yaml, generated from the settings' own definitions.`,
} as const;

export type Command = keyof typeof commands;

/** Commands of the design that are not built yet: named, so that nobody hunts for a typing mistake. */
export const laterCommands: readonly string[] = ['user', 'kick', 'drill', 'member', 'log'];

export function usage(): string {
  return `Homing: a node-affinity front proxy for mail clusters on a shared file system.

${Object.values(commands).join('\n\n')}

homing --help | --version

--config FILE  the settings; else $HOMING_CONFIG, /etc/homing/homing.yaml, or config/homing.yaml of a clone
--admin URL    the running Homing's admin address, such as http://127.0.0.1:8025, where it is not in the settings
Exit codes: 0 yes, 1 no, 64 wrong command line, 69 no running Homing, 78 wrong settings.
`;
}
