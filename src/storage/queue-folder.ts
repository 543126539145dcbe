/**
 * The queue on disk: `KEY.body` and `KEY.json` for each message, in one folder. What `add` acknowledged survives kill -9 and power cuts.
 * Stands beneath the courier `queue` and the queue runner. The envelope's name is the commit: a body without one was never
 * acknowledged, or is done. DANGER: an envelope is unlinked only when all its recipients are settled, and before its body.
 *
 *   add: body (fsync) ∥ envelope beside (fsync) → rename the envelope → fsync the folder → acknowledged
 *   remove: unlink the envelope → fsync the folder → unlink the body
 *   load: leftovers are removed, what is torn or foreign goes to `damaged/`, what nobody can be told of to `undelivered/`
 */
import { createReadStream } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Failure } from '../core/failure.ts';
import { type FileCalls, realFileCalls } from './file-calls.ts';
import { fileFailure } from './file-failure.ts';
import { isId, type QueueEnvelope, readEnvelope, writeEnvelope } from './queue-envelope.ts';
import { openSafeFolder, type SafeFolder, type Trouble, temporarySuffix } from './safe-file.ts';

/** A body as its owner lends it for `add`, and as the folder lends it back. */
export interface QueueBody {
  readonly bytes: number;
  readonly memory: Buffer | null;
  open(): Readable;
}

export type Added =
  | { readonly ok: true; readonly key: string }
  | { readonly ok: false; readonly failure: Failure };

export type EntryRead =
  | { readonly ok: true; readonly envelope: QueueEnvelope }
  /** `damaged`: it was put aside, and is no entry any more. */
  | { readonly ok: false; readonly damaged: boolean; readonly why: string };

export interface LoadReport {
  readonly entries: number;
  /** Names of files that were put aside, with the reason. At most a hundred are named. */
  readonly damaged: readonly { readonly name: string; readonly why: string }[];
  readonly damagedCount: number;
  /** Files of messages that were never acknowledged, or were done. */
  readonly leftovers: number;
  /** The folder could not be read. */
  readonly failure: Failure | null;
}

export interface QueueFolder {
  /** Durable when it resolves with ok. `chance`: six or more random letters or digits, in case the id is taken. */
  add(envelope: QueueEnvelope, body: QueueBody, chance: string): Promise<Added>;
  read(key: string): Promise<EntryRead>;
  /** The body, in memory where it has at most `memoryBytes`. */
  body(
    key: string,
    bytes: number,
    memoryBytes: number,
  ): Promise<
    { readonly ok: true; readonly body: QueueBody } | { readonly ok: false; readonly failure: Failure }
  >;
  update(key: string, envelope: QueueEnvelope): Promise<Trouble>;
  remove(key: string): Promise<Trouble>;
  /** Keeps both files in `undelivered/`, for the operator. */
  bury(key: string): Promise<Trouble>;
  /** Reads all envelopes, a bounded number at a time. Call once, before `add`. */
  load(onEntry: (key: string, envelope: QueueEnvelope) => void): Promise<LoadReport>;
  close(): Promise<void>;
}

const envelopeLimitBytes = 16 * 1024 * 1024;
const readsAtOnce = 16;
const namedDamage = 100;
const damagedFolder = 'damaged';
const undeliveredFolder = 'undelivered';

export async function openQueueFolder(
  path: string,
  calls: FileCalls = realFileCalls,
): Promise<
  { readonly ok: true; readonly queue: QueueFolder } | { readonly ok: false; readonly failure: Failure }
> {
  const opened = await openSafeFolder(path, calls);
  return opened.ok ? { ok: true, queue: new Folder(opened.folder, calls) } : opened;
}

class Folder implements QueueFolder {
  private readonly folder: SafeFolder;
  private readonly calls: FileCalls;
  /** Added while the folder is being read: not to be taken for leftovers. Null once it was read. */
  private born: Set<string> | null = new Set();

  constructor(folder: SafeFolder, calls: FileCalls) {
    this.folder = folder;
    this.calls = calls;
  }

  async add(envelope: QueueEnvelope, body: QueueBody, chance: string): Promise<Added> {
    for (const key of [envelope.id, `${envelope.id}x${chance}`]) {
      if (!isId(key)) return { ok: false, failure: { kind: 'internal', text: 'not an id' } };
      const trouble = await this.addAs(key, envelope, body);
      if (trouble === null) return { ok: true, key };
      if (trouble.errno !== 'EEXIST') return { ok: false, failure: trouble.failure };
    }
    return { ok: false, failure: { kind: 'queue-failed', text: 'the id is taken' } };
  }

  private async addAs(key: string, envelope: QueueEnvelope, body: QueueBody): Promise<Trouble> {
    const { folder } = this;
    this.born?.add(key);
    const bodyMade = folder.create(bodyOf(key), body.memory ?? counted(body));
    const envelopeMade = folder.prepare(envelopeOf(key), writeEnvelope(envelope));
    const bodyTrouble = await bodyMade;
    let trouble = (await envelopeMade) ?? bodyTrouble;
    if (bodyTrouble?.errno === 'EEXIST') {
      // The name is another entry's: only the envelope beside is ours.
      this.born?.delete(key);
      await folder.remove(`${envelopeOf(key)}${temporarySuffix}`);
      return bodyTrouble;
    }
    trouble ??= (await folder.keep(envelopeOf(key))) ?? (await folder.sync());
    if (trouble === null) return null;
    // Nothing was acknowledged, so nothing of it may come to life at the next start.
    await folder.remove(envelopeOf(key));
    await folder.remove(`${envelopeOf(key)}${temporarySuffix}`);
    await folder.remove(bodyOf(key));
    return trouble;
  }

  async read(key: string): Promise<EntryRead> {
    const file = await this.folder.read(envelopeOf(key), envelopeLimitBytes);
    if (!file.ok) {
      // Reading may fail for a while (EIO, EMFILE): only what can't be an envelope is put aside.
      const damaged = file.errno === 'EINVAL' || file.errno === 'EFBIG';
      if (damaged) await this.putAside(key);
      return {
        ok: false,
        damaged: damaged || file.errno === 'ENOENT',
        why: file.failure.text ?? file.failure.kind,
      };
    }
    const read = readEnvelope(file.bytes);
    const why = read.ok ? await this.bodyTrouble(key, read.envelope) : read.why;
    if (read.ok && why === null) return read;
    await this.putAside(key);
    return { ok: false, damaged: true, why: why ?? 'damaged' };
  }

  private async bodyTrouble(key: string, envelope: QueueEnvelope): Promise<string | null> {
    try {
      const stat = await lstat(join(this.folder.path, bodyOf(key)));
      return stat.size === envelope.bodyBytes
        ? null
        : `its body has ${stat.size} bytes, not ${envelope.bodyBytes}`;
    } catch (error) {
      const { text, kind } = fileFailure(error);
      return text?.startsWith('ENOENT') ? 'it has no body' : (text ?? kind);
    }
  }

  async body(key: string, bytes: number, memoryBytes: number) {
    const open = () => createReadStream(join(this.folder.path, bodyOf(key)), { highWaterMark: 64 * 1024 });
    if (bytes > memoryBytes) return { ok: true as const, body: { bytes, memory: null, open } };
    const file = await this.folder.read(bodyOf(key), memoryBytes);
    if (!file.ok) return { ok: false as const, failure: file.failure };
    if (file.bytes.length !== bytes)
      return { ok: false as const, failure: { kind: 'io-error', text: 'its body was cut' } as const };
    return { ok: true as const, body: { bytes, memory: file.bytes, open } };
  }

  update(key: string, envelope: QueueEnvelope): Promise<Trouble> {
    return this.folder.replace(envelopeOf(key), writeEnvelope(envelope));
  }

  async remove(key: string): Promise<Trouble> {
    const trouble = (await this.folder.remove(envelopeOf(key))) ?? (await this.folder.sync());
    // A body that stays behind is a leftover, and goes at the next start.
    if (trouble === null) await this.folder.remove(bodyOf(key));
    return trouble;
  }

  async bury(key: string): Promise<Trouble> {
    // The body first: an envelope without its body would be damage, a body alone is a leftover of nothing.
    const body = await this.folder.moveTo(undeliveredFolder, bodyOf(key));
    if (body !== null && body.errno !== 'ENOENT') return body;
    return (await this.folder.moveTo(undeliveredFolder, envelopeOf(key))) ?? (await this.folder.sync());
  }

  async load(onEntry: (key: string, envelope: QueueEnvelope) => void): Promise<LoadReport> {
    let names: readonly string[];
    try {
      names = await this.calls.readdir(this.folder.path);
    } catch (error) {
      return { entries: 0, damaged: [], damagedCount: 0, leftovers: 0, failure: fileFailure(error) };
    }
    const there = new Set(names);
    const damaged: { name: string; why: string }[] = [];
    let damagedCount = 0;
    let entries = 0;
    let leftovers = 0;
    const damage = (name: string, why: string) => {
      damagedCount += 1;
      if (damaged.length < namedDamage) damaged.push({ name, why });
    };
    const take = async (name: string): Promise<void> => {
      if (name === damagedFolder || name === undeliveredFolder) return;
      const half = name.endsWith(temporarySuffix);
      const key = keyOf(half ? name.slice(0, -temporarySuffix.length) : name);
      if (key === null) {
        damage(name, 'not a file of the queue');
        await this.folder.moveTo(damagedFolder, name);
      } else if (this.born?.has(key)) return;
      else if (half) {
        leftovers += 1;
        await this.folder.remove(name);
      } else if (name.endsWith('.body')) {
        if (there.has(envelopeOf(key))) return;
        leftovers += 1;
        await this.folder.remove(name);
      } else {
        const read = await this.read(key);
        if (read.ok) {
          entries += 1;
          onEntry(key, read.envelope);
        } else damage(name, read.why);
      }
    };
    let at = 0;
    const worker = async () => {
      for (let name = names[at++]; name !== undefined; name = names[at++]) await take(name);
    };
    await Promise.all(Array.from({ length: readsAtOnce }, worker));
    await this.folder.sync();
    this.born = null;
    return { entries, damaged, damagedCount, leftovers, failure: null };
  }

  close(): Promise<void> {
    return this.folder.close();
  }

  private async putAside(key: string): Promise<void> {
    await this.folder.moveTo(damagedFolder, bodyOf(key));
    await this.folder.moveTo(damagedFolder, envelopeOf(key));
  }
}

/** A reader that ends short must not become a shorter message. */
async function* counted(body: QueueBody): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const piece of body.open() as AsyncIterable<Buffer>) {
    bytes += piece.length;
    yield piece;
  }
  if (bytes !== body.bytes)
    throw Object.assign(new Error('body cut short'), { code: 'EIO', syscall: 'read' });
}

function bodyOf(key: string): string {
  return `${key}.body`;
}

function envelopeOf(key: string): string {
  return `${key}.json`;
}

function keyOf(name: string): string | null {
  const dot = name.lastIndexOf('.');
  const suffix = name.slice(dot);
  if (suffix !== '.body' && suffix !== '.json') return null;
  const key = name.slice(0, dot);
  return isId(key) ? key : null;
}
