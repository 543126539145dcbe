/**
 * What names, domains and templates in the settings may look like. Each check answers null, or what is wrong and what would be right.
 */
import { isIP } from 'node:net';

export type Objection = { readonly why: string; readonly right: string } | null;

/** Node, pool and cluster names stand in file names, Maildir names, headers and log lines: so only what is safe in all of them. */
export function checkName(value: string): Objection {
  if (/^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/.test(value)) return null;
  return {
    why: `${JSON.stringify(value)} won't do as a name`,
    right: 'letters, digits, "-", "_" and ".", at most 63, a letter or digit at both ends',
  };
}

/** A DNS name as it may stand in an address or be looked up. Unicode letters are allowed; the last label is no number. */
export function checkDomain(value: string): Objection {
  const labels = value.split('.');
  const fine =
    value.length <= 253 &&
    labels.every(l => /^[\p{L}\p{N}_](?:[\p{L}\p{N}\p{M}_-]{0,61}[\p{L}\p{N}\p{M}])?$/u.test(l));
  if (fine && !/^\d+$/.test(labels.at(-1) ?? '')) return null;
  return { why: `${JSON.stringify(value)} is not a domain`, right: 'such as example.org' };
}

export function checkNodeAddress(value: string): Objection {
  if (isIP(value) !== 0 || checkDomain(value) === null) return null;
  const port = /^\[?([^\]]*)\]?:\d+$/.exec(value);
  const right = port
    ? `without the port, which belongs under ports: ${port[1]}`
    : 'an IP address or a DNS name';
  return { why: `${JSON.stringify(value)} is neither an IP address nor a DNS name`, right };
}

/** The `{names}` in a template that are not among the known ones, or a brace out of place. */
export function checkTemplate(value: string, known: readonly string[]): Objection {
  const rest = value.replace(/\{([^{}]*)\}/g, (whole, name: string) => (known.includes(name) ? '' : whole));
  const unknown = /\{[^{}]*\}?|\}/.exec(rest);
  if (unknown === null) return null;
  return {
    why: `${JSON.stringify(unknown[0])} is not known here`,
    right: `what may stand there: ${known.map(k => `{${k}}`).join(', ')}`,
  };
}

export function checkAffinity(value: string): Objection {
  if (value === 'user' || value === 'domain') return null;
  const bad = checkTemplate(value, ['user', 'local', 'domain']);
  if (bad !== null) return bad;
  if (value.includes('{')) return null;
  return {
    why: `${JSON.stringify(value)} hashes everybody alike`,
    right: 'user, domain, or a template with {user}, {local} or {domain}',
  };
}

/** The spool's folder of a user: absolute, and different for different users. */
export function checkSpoolPath(value: string): Objection {
  const bad = checkTemplate(value, ['user', 'local', 'domain']);
  if (bad !== null) return bad;
  if (!value.startsWith('/'))
    return {
      why: `${JSON.stringify(value)} is not an absolute path`,
      right: 'such as "/srv/mail/{domain}/{local}/Maildir"',
    };
  if (value.split('/').includes('..')) return { why: 'has ".." in it', right: 'a path without ".."' };
  if (value.includes('{user}') || value.includes('{local}')) return null;
  return { why: 'names one folder for everybody', right: 'with {user}, or {domain} and {local}, in it' };
}

const punctuation = /^[!-/:-?[-`{-~]$/;

/** One separator; '' for none. */
export function checkSeparator(value: string): Objection {
  if (value === '' || punctuation.test(value)) return null;
  return {
    why: `${JSON.stringify(value)} won't do as a separator`,
    right: 'one ASCII punctuation mark, but not "@"; "" for none',
  };
}

/** As Postfix' recipient_delimiter: any of a few characters; '' for none. */
export function checkDelimiters(value: string): Objection {
  if (value.length <= 4 && [...value].every(c => punctuation.test(c))) return null;
  return {
    why: `${JSON.stringify(value)} won't do as a delimiter`,
    right: 'up to four ASCII punctuation marks, each of which begins the detail, but not "@"; "" for none',
  };
}

/** '' is allowed: a site whose users have no domains. */
export function checkDefaultDomain(value: string): Objection {
  return value === '' ? null : checkDomain(value);
}

/** An account's name or number. */
export function checkAccount(value: string): Objection {
  if (/^(?:[a-z_][a-z0-9_.-]{0,31}\$?|\d{1,10})$/i.test(value)) return null;
  return { why: `${JSON.stringify(value)} is not an account`, right: 'a user name or uid of this machine' };
}
