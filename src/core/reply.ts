/**
 * One answer in SMTP's form, whoever gave it: a node, the spool, or we.
 */

/** An SMTP or LMTP reply as it goes on the wire, without CRLF. `enhanced` is RFC 3463 ("2.1.5") or null. */
export interface Reply {
  readonly code: number;
  readonly enhanced: string | null;
  readonly lines: readonly string[];
}
