/**
 * What must be right before anything is served: settings, certificate, maps, accounts, folders, and that no other Homing holds the
 * state. Everything that is wrong is said at once, by name; nothing is started on a guess.
 */
import { chownSync, mkdirSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { exit } from './cli/exit.ts';
import type { MapLine, UserMap } from './core/user-map.ts';
import { checkTargets, loadMaps } from './directory/map-file.ts';
import { type Account, isRoot } from './net/privileges.ts';
import { readTls, type TlsTexts } from './net/tls.ts';
import { nodeSpecs, userRules } from './settings/derived.ts';
import { formatError, loadSettings } from './settings/load.ts';
import type { Settings } from './settings/schema.ts';
import { findAccount } from './storage/account.ts';

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
      `${settingsPath}: runAs: there is no account for the serving process: useradd --system homing`,
    );
  const spoolAccount = await spoolAccountOf(settings);
  if (spoolAccount === 'missing')
    lines.push(
      `${settingsPath}: spool.user: there is no account ${settings.spool?.user ?? ''} on this machine`,
    );

  if (lines.length > 0 || !maps.ok || servingAccount === 'missing' || spoolAccount === 'missing')
    return { ok: false, exit: exit.settings, lines };
  const folders = makeFolders(settings, servingAccount);
  if (!folders.ok) return { ok: false, exit: exit.no, lines: [folders.why] };
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
  { state, queue }: Settings,
  owner: Account | null,
): { readonly ok: true; readonly folders: Folders } | { readonly ok: false; readonly why: string } {
  const folders: Folders = {
    state: state.path,
    queue: join(queue.path, 'messages'),
    run: join(queue.path, 'run'),
    bodies: join(queue.path, 'bodies'),
  };
  try {
    // Those above are made passable: the serving process must get to its own.
    for (const folder of [folders.state, folders.queue])
      mkdirSync(dirname(folder), { recursive: true, mode: 0o755 });
    mkdirSync(folders.state, { recursive: true, mode: 0o700 });
    for (const folder of [queue.path, folders.queue, folders.bodies, folders.run]) {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      if (owner !== null) chownSync(folder, owner.uid, owner.gid);
    }
    return { ok: true, folders };
  } catch (error) {
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
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
