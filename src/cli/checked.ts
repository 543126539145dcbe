/**
 * One row of `homing check`: what was looked at, and what was found.
 */

export interface Checked {
  /** What was looked at: `node mail1 imap`. */
  readonly check: string;
  readonly result: 'ok' | 'warning' | 'failed';
  readonly why: string;
}
