/**
 * What must be right before anything is served: settings, certificate, maps, accounts, folders, and that no other Homing holds the
 * state. Everything that is wrong is said at once, by name; nothing is started on a guess.
 */
import { accessSync, chownSync, closeSync, constants, mkdirSync, openSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { exit } from '../cli/exit.ts';
import type { MapLine, UserMap } from '../core/user-map.ts';
import { checkTargets, loadMaps } from '../directory/map-file.ts';
import { type Account, isRoot } from '../net/privileges.ts';
import { readTls, type TlsTexts } from '../net/tls.ts';
import { nodeSpecs, userRules } from '../settings/derived.ts';
import { formatError, loadSettings } from '../settings/load.ts';
import type { Settings } from '../settings/schema.ts';
import { findAccount } from '../storage/account.ts';

export interface Prepared {
  readonly settings: Settings;
  readonly tls: TlsTexts | null;
  readonly map: { readonly map: UserMap; readonly lines: readonly MapLine[] };
  /** Whom the serving process becomes; null where it stays who started it. */
  readonly servingAccount: Account | null;
  /** Whom the writer becomes; null without a spool, or where it stays who started it. */
  readonly spoolAccount: Account | null;
  readonly folders: Folders;
}

export interface Folders {
  readonly state: string;
  readonly queue: string;
  /** Of the writer's socket: only root and the serving process get in, so it lies in the serving process's own folder. */
  readonly run: string;
  /** Bodies on their way. */
  readonly bodies: string;
}

export type Preparation =
  | { readonly ok: true; readonly prepared: Prepared }
  | { readonly ok: false; readonly exit: number; readonly lines: readonly string[] };

export async function prepare(settingsPath: string): Promise<Preparation> {
  const loaded = await loadSettings(settingsPath);
  if (!loaded.ok) return { ok: false, exit: exit.settings, lines: loaded.errors.map(formatError) };
  const { settings } = loaded;
  const lines: string[] = [];

  const tls = settings.tls === null ? null : await readTls(settings.tls);
  if (tls !== null && !tls.ok) lines.push(`${settingsPath}: tls: ${tls.why}`);

  const maps = await loadMaps(settings.maps, userRules(settings));
  const mapErrors = maps.ok ? checkTargets(maps.lines, nodeSpecs(settings)) : maps.errors;
  for (const { file, line, message } of mapErrors)
    lines.push(line > 0 ? `${file}:${line}: ${message}` : `${file}: ${message}`);

  const servingAccount = await servingAccountOf(settings);
  if (servingAccount === 'missing')
    lines.push(
      settings.runAs === null
        ? `${settingsPath}: runAs: there is no account for the serving process: useradd --system homing`
        : `${settingsPath}: runAs: there is no account ${settings.runAs} on this machine that is not root`,
    );
  const spoolAccount = await spoolAccountOf(settings);
  if (spoolAccount === 'missing')
    lines.push(
      `${settingsPath}: spool.user: there is no account ${settings.spool?.user ?? ''} on this machine`,
    );

  if (lines.length > 0 || !maps.ok || servingAccount === 'missing' || spoolAccount === 'missing')
    return { ok: false, exit: exit.settings, lines };
  const folders = makeFolders(settings, servingAccount);
  if (!folders.ok) return { ok: false, exit: exit.no, lines: folders.lines };
  return {
    ok: true,
    prepared: {
      settings,
      tls: tls?.ok ? tls.texts : null,
      map: maps,
      servingAccount,
      spoolAccount,
      folders: folders.folders,
    },
  };
}

/** Only root can become somebody else; started as anyone else, Homing stays that. */
async function servingAccountOf({ runAs }: Settings): Promise<Account | null | 'missing'> {
  if (!isRoot()) return null;
  for (const name of runAs === null ? ['homing', 'nobody'] : [runAs]) {
    const account = await findAccount(name);
    if (account !== null && account.uid !== 0) return account;
  }
  return 'missing';
}

async function spoolAccountOf({ spool }: Settings): Promise<Account | null | 'missing'> {
  if (spool === null) return null;
  const account = await findAccount(spool.user);
  if (account === null) return 'missing';
  return isRoot() && account.uid !== 0 ? account : null;
}

function makeFolders(
  { state, queue, log }: Settings,
  owner: Account | null,
):
  | { readonly ok: true; readonly folders: Folders }
  | { readonly ok: false; readonly lines: readonly string[] } {
  const folders: Folders = {
    state: state.path,
    queue: join(queue.path, 'messages'),
    run: join(queue.path, 'run'),
    bodies: join(queue.path, 'bodies'),
  };
  // Those above are made passable: the serving process must get to its own.
  const made = (key: string, path: string, inside: readonly string[], account: Account | null) =>
    tried(`${key} ${path}`, () => {
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      for (const folder of [path, ...inside]) {
        mkdirSync(folder, { recursive: true, mode: 0o700 });
        if (account !== null) chownSync(folder, account.uid, account.gid);
      }
      accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    });
  const inQueue = [folders.queue, folders.bodies, folders.run];
  const lines = [
    ...made('state.path', state.path, [], null),
    ...made('queue.path', queue.path, inQueue, owner),
    ...(log.file === '-' ? [] : tried(`log.file ${log.file}`, () => makeFile(log.file))),
  ];
  return lines.length > 0 ? { ok: false, lines } : { ok: true, folders };
}

/** The log is opened for good a moment later; here it is only tried, so that what is wrong is named. */
function makeFile(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  closeSync(openSync(path, 'a'));
}

/** Why `act` failed, after `what`; nothing where it did not. */
function tried(what: string, act: () => void): readonly string[] {
  try {
    act();
    return [];
  } catch (error) {
    return [`${what}: ${error instanceof Error ? error.message : String(error)}`];
  }
}

/**
 * Holds the state folder for this process alone: an abstract socket named after the folder, which the kernel frees with its holder,
 * however that ends. Null: another Homing on this machine has it.
 */
export function holdState(folder: string): Promise<(() => void) | null> {
  const { dev, ino } = statSync(folder);
  const holder = createServer();
  return new Promise(resolve => {
    holder.once('error', () => resolve(null));
    holder.listen(`\0homing-state-${dev}-${ino}`, () => resolve(() => holder.close()));
  });
}
