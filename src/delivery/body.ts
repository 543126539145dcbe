/**
 * Where a message's bytes stay between the client's final dot and the couriers: in memory while small, else in a file.
 * The file is unlinked as soon as it is open, so that neither kill -9 nor a lost reference leaves anything behind; its space comes
 * back with `dispose`. A full or broken disk is a value. Must never grow without bound: memory has a limit for each message and one
 * for the whole process, and a writer that the disk can't follow makes its client wait.
 */
import { close, constants, open, read, unlink, writev } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Failure } from '../core/failure.ts';
import { fileFailure } from '../storage/file-failure.ts';
import type { Body } from './courier.ts';

export interface BodySpoolOptions {
  /** Folder on a local disk, ours alone; must exist. */
  readonly folder: string;
  /** A message larger than this goes to a file. */
  readonly memoryBytes?: number;
  /** All messages of this process together; past it, every message goes to a file. */
  readonly totalMemoryBytes?: number;
  /** How a file is opened; tests lend a descriptor whose disk is full. */
  readonly openFile?: (path: string) => Promise<number>;
}

export interface BodySpool {
  /** `id` names the file for the instant that it has a name. */
  begin(id: string): BodyWriter;
  /** Memory held by writers and bodies now, for metrics and tests. */
  memoryInUseBytes(): number;
}

export type Finished =
  | { readonly ok: true; readonly body: Body }
  | { readonly ok: false; readonly failure: Failure };

export interface BodyWriter {
  /** Keeps the piece. A promise means: wait for it before the next one. After a failure, pieces are dropped. */
  write(piece: Buffer): Promise<void> | null;
  /** The body, or why there is none. Never rejects. Call once, or `abort`. */
  finish(): Promise<Finished>;
  /** Frees everything; idempotent, also after a failure. */
  abort(): Promise<void>;
}

/** What a message on its way to its file holds in memory before the next write. */
const gatherBytes = 64 * 1024;

export function createBodySpool(options: BodySpoolOptions): BodySpool {
  const { folder, memoryBytes = 256 * 1024, totalMemoryBytes = 64 * 1024 * 1024 } = options;
  const { openFile = openUnnamed } = options;
  let inUse = 0;
  const budget: Budget = {
    take: bytes => {
      inUse += bytes;
    },
    give: bytes => {
      inUse -= bytes;
    },
    fits: bytes => bytes <= memoryBytes && inUse <= totalMemoryBytes,
  };
  return {
    begin: id => new SpoolWriter(() => openFile(join(folder, `${id}.body`)), budget),
    memoryInUseBytes: () => inUse,
  };
}

interface Budget {
  take(bytes: number): void;
  give(bytes: number): void;
  /** Whether a message that has `bytes` now may stay in memory. */
  fits(bytes: number): boolean;
}

class SpoolWriter implements BodyWriter {
  readonly #open: () => Promise<number>;
  readonly #budget: Budget;
  #pieces: Buffer[] = [];
  /** Bytes in `#pieces`: all in memory, or those the file does not have yet. */
  #heldBytes = 0;
  #bytes = 0;
  #fd: number | null = null;
  #filing = false;
  #failure: Failure | null = null;
  #flight: Promise<void> | null = null;

  constructor(open: () => Promise<number>, budget: Budget) {
    this.#open = open;
    this.#budget = budget;
  }

  write(piece: Buffer): Promise<void> | null {
    if (this.#failure !== null || piece.length === 0) return null;
    this.#pieces.push(piece);
    this.#heldBytes += piece.length;
    this.#bytes += piece.length;
    this.#budget.take(piece.length);
    this.#filing ||= !this.#budget.fits(this.#bytes);
    if (!this.#filing) return null;
    if (this.#flight === null) {
      if (this.#fd !== null && this.#heldBytes < gatherBytes) return null;
      this.#flight = this.#save();
    }
    // One gathering may fill while another is under way; beyond that the client waits.
    return this.#heldBytes < gatherBytes ? null : this.#flight;
  }

  async finish(): Promise<Finished> {
    while (this.#flight !== null || (this.#filing && this.#heldBytes > 0 && this.#failure === null)) {
      this.#flight ??= this.#save();
      await this.#flight;
    }
    if (this.#failure !== null) {
      await this.abort();
      return { ok: false, failure: this.#failure };
    }
    if (this.#fd !== null) return { ok: true, body: new FileBody(this.#fd, this.#bytes) };
    const memory = this.#pieces.length === 1 ? this.#pieces[0] : undefined;
    return {
      ok: true,
      body: new MemoryBody(memory ?? Buffer.concat(this.#pieces, this.#bytes), this.#budget),
    };
  }

  async abort(): Promise<void> {
    this.#failure ??= { kind: 'aborted' };
    this.#drop();
    while (this.#flight !== null) await this.#flight;
    const fd = this.#fd;
    this.#fd = null;
    if (fd !== null) await closed(fd);
  }

  #drop(): void {
    this.#pieces = [];
    this.#budget.give(this.#heldBytes);
    this.#heldBytes = 0;
  }

  /** Moves what is held now into the file. Its end clears `#flight`; its failure is kept as a value. */
  async #save(): Promise<void> {
    const pieces = this.#pieces;
    const heldBytes = this.#heldBytes;
    const position = this.#bytes - heldBytes;
    this.#pieces = [];
    this.#heldBytes = 0;
    try {
      this.#fd ??= await this.#open();
      await writeAll(this.#fd, pieces, position);
    } catch (error) {
      this.#failure ??= fileFailure(error);
      this.#drop();
    }
    this.#budget.give(heldBytes);
    this.#flight = null;
  }
}

class MemoryBody implements Body {
  readonly bytes: number;
  readonly memory: Buffer;
  readonly #budget: Budget;
  #disposed = false;

  constructor(memory: Buffer, budget: Budget) {
    this.bytes = memory.length;
    this.memory = memory;
    this.#budget = budget;
  }

  open(): Readable {
    return Readable.from(this.bytes === 0 ? [] : [this.memory], { objectMode: false });
  }

  dispose(): Promise<void> {
    if (!this.#disposed) this.#budget.give(this.bytes);
    this.#disposed = true;
    return Promise.resolve();
  }
}

class FileBody implements Body {
  readonly bytes: number;
  readonly memory = null;
  readonly #fd: number;
  readonly #readers = new Set<Readable>();
  #disposed: Promise<void> | null = null;

  constructor(fd: number, bytes: number) {
    this.#fd = fd;
    this.bytes = bytes;
  }

  /** A reader that is still open at `dispose` is destroyed: a closed descriptor's number may be another message's by then. */
  open(): Readable {
    if (this.#disposed !== null) return brokenReader();
    const reader = fileReader(this.#fd, this.bytes);
    this.#readers.add(reader);
    reader.once('close', () => this.#readers.delete(reader));
    return reader;
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.#close();
    return this.#disposed;
  }

  async #close(): Promise<void> {
    const readers = [...this.#readers];
    await Promise.all(readers.map(reader => ended(reader)));
    await closed(this.#fd);
  }
}

function brokenReader(): Readable {
  return new Readable({
    read() {
      this.destroy(new Error('body is disposed'));
    },
  });
}

/** Destroys the reader and waits until no read of it is under way. */
function ended(reader: Readable): Promise<void> {
  return new Promise(resolve => {
    reader.once('close', () => resolve());
    if (reader.listenerCount('error') === 0) reader.on('error', () => undefined);
    reader.destroy(new Error('body is disposed'));
  });
}

/** Reads by position, so that many readers share the descriptor; never closes it. */
function fileReader(fd: number, bytes: number): Readable {
  let position = 0;
  let idle: (() => void) | null = null;
  let reading = false;
  return new Readable({
    highWaterMark: 64 * 1024,
    read(wanted) {
      const length = Math.min(wanted, bytes - position);
      if (length <= 0) {
        this.push(null);
        return;
      }
      reading = true;
      read(fd, Buffer.allocUnsafe(length), 0, length, position, (error, count, buffer) => {
        reading = false;
        idle?.();
        if (this.destroyed) return;
        if (error !== null || count === 0) {
          this.destroy(error ?? new Error('the spooled body is shorter than it was'));
          return;
        }
        position += count;
        this.push(buffer.subarray(0, count));
      });
    },
    destroy(error, done) {
      if (reading) idle = () => done(error);
      else done(error);
    },
  });
}

function openUnnamed(path: string): Promise<number> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  return new Promise((resolve, reject) => {
    open(path, flags, 0o600, (error, fd) => {
      if (error !== null) {
        reject(error);
        return;
      }
      unlink(path, unlinkError => {
        if (unlinkError === null) resolve(fd);
        else close(fd, () => reject(unlinkError));
      });
    });
  });
}

async function writeAll(fd: number, pieces: readonly Buffer[], position: number): Promise<void> {
  let rest = pieces;
  let at = position;
  while (rest.length > 0) {
    // The kernel takes 1024 pieces at a time, and may take less than it was given.
    const written = await writeSome(fd, rest.slice(0, 1024), at);
    at += written;
    rest = behind(rest, written);
  }
}

function writeSome(fd: number, pieces: readonly Buffer[], position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(fd, [...pieces], position, (error, written) => {
      if (error !== null) reject(error);
      else if (written === 0)
        reject(Object.assign(new Error('nothing was written'), { code: 'ENOSPC', syscall: 'write' }));
      else resolve(written);
    });
  });
}

function behind(pieces: readonly Buffer[], written: number): readonly Buffer[] {
  let skipped = 0;
  for (const [index, piece] of pieces.entries()) {
    if (skipped + piece.length > written) {
      return [piece.subarray(written - skipped), ...pieces.slice(index + 1)];
    }
    skipped += piece.length;
  }
  return [];
}

function closed(fd: number): Promise<void> {
  return new Promise(resolve => {
    close(fd, () => resolve());
  });
}
