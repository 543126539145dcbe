/**
 * From an errno of the spool's file system to the failure Homing answers with. All of them are transient (design §5: 451, never 550).
 * The text names errno and call, never a path: it may reach the site's MTA by LMTP.
 */
import type { Failure, FailureKind } from '../core/failure.ts';

const kinds: Readonly<Record<string, FailureKind>> = {
  ENOSPC: 'disk-full',
  EDQUOT: 'disk-quota',
  EROFS: 'mount-read-only',
};

/** The errno name of a rejected call, or ''. */
export function errnoOf(error: unknown): string {
  if (error === null || typeof error !== 'object' || !('code' in error)) return '';
  return typeof error.code === 'string' ? error.code : '';
}

export function fileFailure(error: unknown): Failure {
  const code = errnoOf(error);
  if (code === '') return { kind: 'internal', text: error instanceof Error ? error.message : String(error) };
  const call =
    error instanceof Error && 'syscall' in error && typeof error.syscall === 'string' ? error.syscall : '';
  return { kind: kinds[code] ?? 'io-error', text: call === '' ? code : `${code} ${call}` };
}
