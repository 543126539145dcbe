/** Self-signed certificates for tests, made by openssl in a folder of their own. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TlsFiles } from '../../../src/net/tls.ts';

const run = promisify(execFile);

/** Writes `<stem>.crt` and `<stem>.key` for `name`. */
export async function makeCertificate(folder: string, stem: string, name: string): Promise<TlsFiles> {
  const files = { cert: join(folder, `${stem}.crt`), key: join(folder, `${stem}.key`) };
  await run('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`],
    ...['-keyout', files.key, '-out', files.cert],
  ]);
  return files;
}
