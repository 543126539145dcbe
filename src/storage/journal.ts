/**
 * The embedded store's memory on disk: an append-only file of checksummed JSON records, fsynced one by one.
 *
 *     "HJ01" · payload bytes u32 · number u32 · crc32 of bytes, number and payload u32 · payload
 *
 * A tail torn by a crash is cut off and reported: nobody was told of what was not fsynced. DANGER: damage in the middle is something
 * else; it is never skipped, the start is refused and the place is named. Compaction writes a new file, renames it, and fsyncs the
 * folder. After a failed write the file's end is unknown, so it is cut back to the last good record, or written anew, before anything
 * else is appended.
 */
import fs from 'node:fs';
import path from 'node:path';
import { crc32 } from 'node:zlib';

export type Kept = { readonly ok: true } | { readonly ok: false; readonly why: string };

export interface Journal {
  /** On disk when it returns ok. */
  append(record: unknown): Kept;
  /** Replaces all records by these. */
  rewrite(records: readonly unknown[]): Kept;
  readonly bytes: number;
  close(): void;
}

export type OpenedJournal =
  | {
      readonly ok: true;
      readonly journal: Journal;
      readonly records: readonly unknown[];
      /** What was cut off a torn tail. */
      readonly tornBytes: number;
    }
  | { readonly ok: false; readonly why: string };

const mark = Buffer.from('HJ01');
const headerBytes = 16;
export const defaultRecordBytes = 128 * 1024 * 1024;

export function openJournal(options: {
  readonly folder: string;
  /** The file in it. */
  readonly name: string;
  readonly maxRecordBytes?: number;
}): OpenedJournal {
  const file = path.join(options.folder, options.name);
  const maxRecordBytes = options.maxRecordBytes ?? defaultRecordBytes;
  try {
    fs.mkdirSync(options.folder, { recursive: true, mode: 0o700 });
    // What a crash in a compaction left behind; the real file is whole.
    fs.rmSync(`${file}.new`, { force: true });
    const isNew = !fs.existsSync(file);
    const fd = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600);
    if (isNew) syncFolder(options.folder);
    const content = fs.readFileSync(fd);
    const read = readRecords(content, maxRecordBytes);
    if (read.damagedAt !== null) {
      fs.closeSync(fd);
      if (isForeign(content) && !followed(content, 1, maxRecordBytes))
        return { ok: false, why: `${file} is no journal of Homing: move it away` };
      return { ok: false, why: damage(file, read.damagedAt, content.length) };
    }
    if (read.goodBytes < content.length) {
      fs.ftruncateSync(fd, read.goodBytes);
      fs.fsyncSync(fd);
    }
    const journal = createJournal(file, fd, read.goodBytes, read.records.length, maxRecordBytes);
    return { ok: true, journal, records: read.records, tornBytes: content.length - read.goodBytes };
  } catch (error) {
    return { ok: false, why: `${file}: ${message(error)}` };
  }
}

function damage(file: string, at: number, size: number): string {
  return (
    `${file} is damaged at byte ${at} of ${size}: there are whole records after it, so this is no torn tail. ` +
    `Nothing was changed. Restore the file, or move it away to begin with an empty view (pins, overrides and states are lost).`
  );
}

function createJournal(
  file: string,
  firstFd: number,
  goodBytes: number,
  count: number,
  maxRecordBytes: number,
): Journal {
  let fd = firstFd;
  let bytes = goodBytes;
  let number = count;
  // After a failed write: what stands behind `bytes` is unknown.
  let unsure = false;

  const write = (record: Buffer): void => {
    let done = 0;
    while (done < record.length) done += fs.writeSync(fd, record, done, record.length - done, bytes + done);
    fs.fdatasyncSync(fd);
  };
  const mend = (): void => {
    fs.ftruncateSync(fd, bytes);
    fs.fsyncSync(fd);
    unsure = false;
  };

  return {
    get bytes() {
      return bytes;
    },
    append: record => {
      const encoded = encode(record, number, maxRecordBytes);
      if (!encoded.ok) return encoded;
      try {
        if (unsure) mend();
        unsure = true;
        write(encoded.record);
        unsure = false;
        bytes += encoded.record.length;
        number += 1;
        return { ok: true };
      } catch (error) {
        tryTo(mend);
        return { ok: false, why: `${file}: ${message(error)}` };
      }
    },
    rewrite: records => {
      const parts: Buffer[] = [];
      for (const [index, record] of records.entries()) {
        const encoded = encode(record, index, maxRecordBytes);
        if (!encoded.ok) return encoded;
        parts.push(encoded.record);
      }
      const replaced = replace(file, parts);
      if (!replaced.ok) return replaced;
      tryTo(() => fs.closeSync(fd));
      fd = replaced.fd;
      bytes = parts.reduce((sum, part) => sum + part.length, 0);
      number = records.length;
      unsure = false;
      return { ok: true };
    },
    close: () => fs.closeSync(fd),
  };
}

/** A whole new file beside the old, then the rename: a crash leaves one or the other. */
function replace(
  file: string,
  parts: readonly Buffer[],
): { ok: true; fd: number } | { ok: false; why: string } {
  let fd = -1;
  try {
    fd = fs.openSync(`${file}.new`, 'w+', 0o600);
    for (const part of parts) {
      let done = 0;
      while (done < part.length) done += fs.writeSync(fd, part, done);
    }
    fs.fsyncSync(fd);
    fs.renameSync(`${file}.new`, file);
  } catch (error) {
    if (fd >= 0) tryTo(() => fs.closeSync(fd));
    tryTo(() => fs.rmSync(`${file}.new`, { force: true }));
    return { ok: false, why: `${file}.new: ${message(error)}` };
  }
  // The name points to the new file now, whatever the folder's fsync says: going on with the old one would write into the void.
  // If the folder is not on disk, a crash brings the old file back: only what follows an fsynced record of the old is lost then,
  // so try twice before giving up on the disk.
  if (!tryTo(() => syncFolder(path.dirname(file)))) tryTo(() => syncFolder(path.dirname(file)));
  return { ok: true, fd };
}

function encode(
  record: unknown,
  number: number,
  maxRecordBytes: number,
): { ok: true; record: Buffer } | { ok: false; why: string } {
  const payload = Buffer.from(JSON.stringify(record));
  if (payload.length > maxRecordBytes)
    return { ok: false, why: `a record of ${payload.length} bytes is over the limit of ${maxRecordBytes}` };
  const header = Buffer.alloc(headerBytes);
  mark.copy(header);
  header.writeUInt32LE(payload.length, 4);
  header.writeUInt32LE(number, 8);
  header.writeUInt32LE(checksum(header, payload), 12);
  return { ok: true, record: Buffer.concat([header, payload]) };
}

function checksum(header: Buffer, payload: Buffer): number {
  return crc32(payload, crc32(header.subarray(4, 12)));
}

export interface ReadRecords {
  readonly records: readonly unknown[];
  readonly goodBytes: number;
  /** Where a record is broken although whole records follow; null if that is not so. */
  readonly damagedAt: number | null;
}

export function readRecords(content: Buffer, maxRecordBytes: number): ReadRecords {
  const records: unknown[] = [];
  let at = 0;
  while (at < content.length) {
    const found = readOne(content, at, maxRecordBytes);
    if (found === null || found.number !== records.length) {
      const isDamaged = isForeign(content) || followed(content, found === null ? at + 1 : at, maxRecordBytes);
      const damagedAt = isDamaged ? at : null;
      return { records, goodBytes: at, damagedAt };
    }
    records.push(found.record);
    at = found.end;
  }
  return { records, goodBytes: at, damagedAt: null };
}

function readOne(
  content: Buffer,
  at: number,
  maxRecordBytes: number,
): { record: unknown; number: number; end: number } | null {
  if (content.length - at < headerBytes) return null;
  const header = content.subarray(at, at + headerBytes);
  if (!header.subarray(0, 4).equals(mark)) return null;
  const size = header.readUInt32LE(4);
  const end = at + headerBytes + size;
  if (size > maxRecordBytes || end > content.length) return null;
  const payload = content.subarray(at + headerBytes, end);
  if (checksum(header, payload) !== header.readUInt32LE(12)) return null;
  return { record: JSON.parse(payload.toString('utf8')) as unknown, number: header.readUInt32LE(8), end };
}

/** A torn first record begins with our mark, or with the zeros of blocks never written. All else was never a journal. */
function isForeign(content: Buffer): boolean {
  const start = content.subarray(0, mark.length);
  return !start.equals(mark.subarray(0, start.length)) && start.some(byte => byte !== 0);
}

/** Is there any whole record at or after `from`? Then what is broken before it is no torn tail. */
function followed(content: Buffer, from: number, maxRecordBytes: number): boolean {
  let at = content.indexOf(mark, from);
  while (at >= 0) {
    if (readOne(content, at, maxRecordBytes) !== null) return true;
    at = content.indexOf(mark, at + 1);
  }
  return false;
}

function syncFolder(folder: string): void {
  const fd = fs.openSync(folder, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function tryTo(act: () => void): boolean {
  try {
    act();
    return true;
  } catch {
    return false;
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
