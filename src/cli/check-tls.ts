/**
 * The certificate of the listeners: readable, a pair with its key, valid now and for a while.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Settings } from '../settings/schema.ts';
import type { Checked } from './checked.ts';

const dayMs = 86_400_000;
const warnDays = 21;

export async function checkTls({ tls, listen, login }: Settings, nowMs: number): Promise<Checked[]> {
  if (tls === null) {
    const open = listen.imap.filter(address => !/^(127\.|\[::1\])/.test(address));
    if (open.length === 0) return [];
    const why =
      login.plaintext === 'always'
        ? `none is set, and login.plaintext is always: passwords cross the network in the clear at ${open.join(', ')}`
        : `none is set: from other machines nobody can log in at ${open.join(', ')} (login.plaintext is ${login.plaintext})`;
    return [{ check: 'tls', result: 'warning', why }];
  }
  const check = `tls ${tls.cert}`;
  const failed = (why: string): Checked[] => [{ check, result: 'failed', why }];
  const cert = await read(tls.cert);
  const key = await read(tls.key);
  if (!cert.ok) return failed(`the certificate ${cert.why}`);
  if (!key.ok) return [{ check: `tls ${tls.key}`, result: 'failed', why: `the key ${key.why}` }];
  const x509 = attempt(() => new X509Certificate(cert.bytes));
  if (x509 === null) return failed('is not a certificate in PEM form');
  const privateKey = attempt(() => createPrivateKey(key.bytes));
  if (privateKey === null)
    return [
      {
        check: `tls ${tls.key}`,
        result: 'failed',
        why: 'is not a private key in PEM form without a passphrase',
      },
    ];
  if (!x509.checkPrivateKey(privateKey)) return failed(`does not belong to the key ${tls.key}`);
  return [validity(check, x509, nowMs), ...(await openKey(tls.key))];
}

function validity(check: string, cert: X509Certificate, nowMs: number): Checked {
  const from = Date.parse(cert.validFrom);
  const days = Math.floor((Date.parse(cert.validTo) - nowMs) / dayMs);
  const names = cert.subjectAltName?.replaceAll('DNS:', '') ?? cert.subject.replaceAll('\n', ', ');
  if (nowMs < from) return { check, result: 'failed', why: `is not valid before ${cert.validFrom}` };
  if (days < 0) return { check, result: 'failed', why: `has expired on ${cert.validTo}` };
  if (days < warnDays)
    return { check, result: 'warning', why: `expires in ${days} days, on ${cert.validTo}` };
  return { check, result: 'ok', why: `${names}; ${days} days left` };
}

async function openKey(path: string): Promise<Checked[]> {
  const mode = await stat(path).then(
    s => s.mode,
    () => 0,
  );
  if ((mode & 0o004) === 0) return [];
  return [
    {
      check: `tls ${path}`,
      result: 'warning',
      why: 'every account of this machine can read the private key: chmod o-r',
    },
  ];
}

type ReadFile = { readonly ok: true; readonly bytes: Buffer } | { readonly ok: false; readonly why: string };

async function read(path: string): Promise<ReadFile> {
  try {
    return { ok: true, bytes: await readFile(path) };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if (code === 'ENOENT') return { ok: false, why: `is missing: ${path}` };
    if (code === 'EACCES') return { ok: false, why: `may not be read by this user: ${path}` };
    return { ok: false, why: `can't be read (${code}): ${path}` };
  }
}

function attempt<T>(make: () => T): T | null {
  try {
    return make();
  } catch {
    return null;
  }
}
