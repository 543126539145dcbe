/**
 * Where a user's mail lies: a template of the settings ("/srv/mail/{domain}/{local}/Maildir") and a user make a root and the folders
 * below it. A name never becomes anything but one plain folder name: what could mean another place is refused, not rewritten,
 * because the node's Dovecot would look elsewhere and the mail would lie where nobody sees it.
 * Pure; must never touch the file system (links are maildir.ts' business).
 */
import type { User } from '../core/types.ts';

/** A checked template: `root` is its part before the first name, `folders` the rest, one pattern a folder. */
export interface SpoolTemplate {
  readonly text: string;
  readonly root: string;
  readonly folders: readonly string[];
}

export type SpoolPath =
  | { readonly ok: true; readonly root: string; readonly folders: readonly string[]; readonly path: string }
  | { readonly ok: false; readonly why: string };

/** NAME_MAX of every Linux file system in use; a whole path stays far below PATH_MAX. */
const folderLimitBytes = 255;
const pathLimitBytes = 2000;
const placeholder = /\{([^{}]*)\}/g;
const known = new Set(['user', 'local', 'domain']);

export function parseSpoolTemplate(
  text: string,
): { readonly ok: true; readonly template: SpoolTemplate } | { readonly ok: false; readonly why: string } {
  if (!text.startsWith('/')) return { ok: false, why: 'must be an absolute path' };
  if (text.includes('\0')) return { ok: false, why: 'must not contain a NUL' };
  for (const [, name = ''] of text.matchAll(placeholder)) {
    if (!known.has(name)) return { ok: false, why: `{${name}} is not one of {user}, {local}, {domain}` };
  }
  if (/[{}]/.test(text.replace(placeholder, ''))) return { ok: false, why: 'has a stray brace' };
  const parts = text.split('/').filter(part => part !== '');
  if (parts.some(part => part === '.' || part === '..'))
    return { ok: false, why: 'must not contain . or ..' };
  const first = parts.findIndex(part => part.includes('{'));
  const cut = first < 0 ? parts.length : first;
  const template = { text, root: `/${parts.slice(0, cut).join('/')}`, folders: parts.slice(cut) };
  return { ok: true, template };
}

/** True where the template names the user, so that no two users share a place. `{local}` alone is enough for a site of one domain. */
export function isPerUser(template: SpoolTemplate): boolean {
  return template.folders.some(folder => folder.includes('{user}') || folder.includes('{local}'));
}

export function spoolPath(template: SpoolTemplate, user: User): SpoolPath {
  const at = user.lastIndexOf('@');
  const names: Readonly<Record<string, string>> = {
    user,
    local: at < 0 ? user : user.slice(0, at),
    domain: at < 0 ? '' : user.slice(at + 1),
  };
  const folders: string[] = [];
  for (const pattern of template.folders) {
    let why: string | null = null;
    // One pass: a name that itself contains "{domain}" is not filled in again.
    const folder = pattern.replace(placeholder, (_, name: string) => {
      const value = names[name] ?? '';
      why ??= unsafe(name, value);
      return value;
    });
    why ??= Buffer.byteLength(folder) > folderLimitBytes ? 'its folder name is too long' : null;
    if (why !== null) return { ok: false, why };
    folders.push(folder);
  }
  const path = [template.root === '/' ? '' : template.root, ...folders].join('/');
  if (Buffer.byteLength(path) > pathLimitBytes) return { ok: false, why: 'its path is too long' };
  return { ok: true, root: template.root, folders, path };
}

/** Why a name may not stand in a path, or null. A leading dot is refused too: `..`, hidden folders and Maildir++ subfolders alike. */
function unsafe(name: string, value: string): string | null {
  if (value === '') return `it has no {${name}}`;
  if (value.startsWith('.')) return `its {${name}} starts with a dot`;
  if (value.includes('/')) return `its {${name}} contains a slash`;
  if (/\p{Cc}/u.test(value)) return `its {${name}} contains a control character`;
  if (!value.isWellFormed()) return `its {${name}} is not well-formed Unicode`;
  return null;
}
