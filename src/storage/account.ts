/**
 * A system account by name, as the machine's own name service knows it (files, LDAP, SSSD): asked once at start through
 * `getent passwd`, because Node has no getpwnam. Where getent is missing, /etc/passwd is read. Null: not found, or no answer in time.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';

export interface Account {
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

export interface AccountOptions {
  readonly timeoutMs?: number;
  /** For tests: another program in getent's place. */
  readonly program?: string;
}

/** `name` may be a number: getent then looks it up as a uid. */
export async function findAccount(
  name: string,
  { timeoutMs = 5000, program = 'getent' }: AccountOptions = {},
): Promise<Account | null> {
  if (!/^[^\s:/\p{Cc}-][^\s:/\p{Cc}]*$/u.test(name) || name.length > 256) return null;
  const text = await new Promise<string | null>(resolve => {
    execFile(
      program,
      ['passwd', name],
      { timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: 65_536 },
      (error, stdout) => {
        if (error === null) resolve(stdout);
        else resolve(error.code === 'ENOENT' ? null : '');
      },
    );
  });
  return parsePasswd(text ?? (await readFile('/etc/passwd', 'utf8').catch(() => '')), name);
}

/** passwd(5): name:password:uid:gid:gecos:home:shell. */
export function parsePasswd(text: string, name: string): Account | null {
  for (const line of text.split('\n')) {
    const fields = line.split(':');
    const [account, , uid, gid, , home] = fields;
    if (fields.length !== 7 || (account !== name && uid !== name)) continue;
    if (uid === undefined || gid === undefined || home === undefined) continue;
    if (!/^\d{1,10}$/.test(uid) || !/^\d{1,10}$/.test(gid)) continue;
    return { uid: Number(uid), gid: Number(gid), home };
  }
  return null;
}
