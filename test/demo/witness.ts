/**
 * The nodes as witnesses: sessions and deliveries read from their own Dovecot logs (2.3 and 2.4), which Homing cannot touch.
 * Log times are UTC with microseconds (the lab's settings). A session cut by kill -9 has no last line: it ended with the kill.
 */
import type { Stay } from '../../src/drill/stays.ts';

const stamp = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+) (.*)$/;
const login = /^(?:imap|pop3)-login: Info: (?:Login|Logged in): user=<([^>]+)>.*session=<([^>]+)>/;
const ended = /^(?:imap|pop3)\(([^)]+)\)<\d+><([^>]+)>: Info: (?:Disconnected|Logged out|Connection closed)/;
const saved = /^lmtp\(([^)]+)\)<\d+><[^>]+>: Info: .*(?:saved mail to|stored mail into mailbox)/;

export interface NodeLog {
  readonly node: string;
  readonly text: string;
  /** When the node was killed, Unix ms. */
  readonly killedAtMs: readonly number[];
}

/** @param untilMs the end of sessions that are still open, Unix ms */
export function staysIn({ node, text, killedAtMs }: NodeLog, untilMs: number): Stay[] {
  const stays: Stay[] = [];
  const open = new Map<string, { user: string; fromMs: number }>();
  for (const line of text.split('\n')) {
    const [, day, time, rest = ''] = stamp.exec(line) ?? [];
    if (day === undefined || time === undefined) continue;
    const atMs = timeMs(day, time);
    const [, loginUser, loginSession = ''] = login.exec(rest) ?? [];
    if (loginUser !== undefined) open.set(loginSession, { user: loginUser, fromMs: atMs });
    const [, , endedSession = ''] = ended.exec(rest) ?? [];
    const begun = open.get(endedSession);
    if (begun !== undefined) {
      open.delete(endedSession);
      stays.push({ user: begun.user, node, what: 'session', fromMs: begun.fromMs, untilMs: atMs });
    }
    const [, savedUser] = saved.exec(rest) ?? [];
    if (savedUser !== undefined)
      stays.push({ user: savedUser, node, what: 'delivery', fromMs: atMs, untilMs: atMs });
  }
  for (const { user, fromMs } of open.values()) {
    const killMs = killedAtMs.find(one => one >= fromMs);
    stays.push({ user, node, what: 'session', fromMs, untilMs: killMs ?? Math.max(untilMs, fromMs) });
  }
  return stays;
}

/** Date takes milliseconds only; the microseconds are kept as fractions. */
function timeMs(day: string, time: string): number {
  const [whole = '', fraction = '0'] = time.split('.');
  return Date.parse(`${day}T${whole}Z`) + Number(`0.${fraction}`) * 1000;
}
