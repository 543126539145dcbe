/**
 * Exit codes of every command: a contract with scripts and cron jobs (docs/homing.1). After sysexits.h where it has one.
 */
export const exit = {
  ok: 0,
  /** The answer is no: a check failed, a user has no node, an order was refused. */
  no: 1,
  /** The command line is wrong. */
  usage: 64,
  /** No running Homing, or it does not answer. */
  unavailable: 69,
  /** The settings are wrong. */
  settings: 78,
} as const;
