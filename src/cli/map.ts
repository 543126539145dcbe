/**
 * `homing map`: where each user belongs by the settings and map files alone, with every node taken as up and ready: for cron jobs on nodes,
 * which ask "is this user's home here?" without a running Homing. Reads standard input as a stream: memory does not grow with it.
 */
import type { Readable } from 'node:stream';
import { canonicalUser, type UserRules } from '../core/canonical.ts';
import { createPlacer, type Placer } from '../core/place.ts';
import { apply, emptyView } from '../core/view.ts';
import { checkTargets, loadMaps } from '../directory/map-file.ts';
import { nodeSpecs, userRules, viewRules } from '../settings/derived.ts';
import type { Settings } from '../settings/schema.ts';
import type { Asked } from './asked.ts';
import { exit } from './exit.ts';
import { type Io, write } from './io.ts';
import { settingsOf } from './settings.ts';
import { printable } from './table.ts';

export async function runMap(asked: Asked, io: Io): Promise<number> {
  const settings = await settingsOf(asked.settingsPath, io);
  if (settings === null) return exit.settings;
  const rules = userRules(settings);
  const placer = await placerFor(settings, rules, io);
  if (placer === null) return exit.no;
  const mapping = new Mapping(placer, rules, asked.json, io);
  if (asked.words.length > 0) {
    for (const [i, word] of asked.words.entries()) mapping.add(word, `argument ${i + 1}`);
    await mapping.flush();
  } else await mapInput(io.stdin, mapping);
  return mapping.isAllWell ? exit.ok : exit.no;
}

/** The view that a cluster without trouble would have. Null: a map file is wrong, and its errors are printed. */
async function placerFor(settings: Settings, rules: UserRules, io: Io): Promise<Placer | null> {
  const specs = nodeSpecs(settings);
  const maps = await loadMaps(settings.maps, rules);
  const errors = maps.ok ? checkTargets(maps.lines, specs) : maps.errors;
  const text = errors.map(e => `${e.file}${e.line > 0 ? `:${e.line}` : ''}: ${e.message}\n`);
  await write(io.stderr, text.join(''));
  if (!maps.ok || errors.length > 0) return null;
  const { map } = maps;
  const view = apply(
    emptyView(viewRules(settings), 'map'),
    [
      { kind: 'nodes', specs },
      { kind: 'map', digest: map.digest },
    ],
    1,
    new Map([[map.digest, map]]),
  );
  return createPlacer(view);
}

const flushChars = 64 * 1024;

/** Turns names into lines of output, written in blocks. */
class Mapping {
  isAllWell = true;
  /** False once the reader of standard output has gone. */
  isRead = true;
  readonly #placer: Placer;
  readonly #rules: UserRules;
  readonly #json: boolean;
  readonly #io: Io;
  #out = '';
  #complaints = '';

  constructor(placer: Placer, rules: UserRules, json: boolean, io: Io) {
    this.#placer = placer;
    this.#rules = rules;
    this.#json = json;
    this.#io = io;
  }

  get isFull(): boolean {
    return this.#out.length + this.#complaints.length > flushChars;
  }

  add(raw: string, where: string): void {
    const name = canonicalUser(raw, this.#rules);
    if (!name.ok) {
      this.refuse(where, `${JSON.stringify(printable(raw.slice(0, 80)))} ${name.why}`);
      return;
    }
    const place = this.#placer.place(name.user);
    const node = 'node' in place ? place.node : null;
    if (node === null) this.isAllWell = false;
    this.#out += this.#json
      ? `${JSON.stringify({ user: name.user, node, why: place.why })}\n`
      : `${printable(name.user)}\t${node ?? '-'}\t${printable(place.why)}\n`;
  }

  refuse(where: string, why: string): void {
    this.isAllWell = false;
    this.#complaints += `homing: ${where}: ${why}\n`;
  }

  async flush(): Promise<void> {
    const [out, complaints] = [this.#out, this.#complaints];
    this.#out = '';
    this.#complaints = '';
    await write(this.#io.stderr, complaints);
    if (out !== '') this.isRead = await write(this.#io.stdout, out);
  }
}

/** A name has at most 255 bytes; what is longer than this is skipped to its line end, so that memory stays bounded. */
const lineLimitChars = 4096;

async function mapInput(input: Readable, mapping: Mapping): Promise<void> {
  const decoder = new TextDecoder('utf-8');
  let rest = '';
  let line = 0;
  let isSkipping = false;
  const take = (text: string): void => {
    line += 1;
    const name = text.endsWith('\r') ? text.slice(0, -1) : text;
    if (isSkipping || name.length > lineLimitChars) mapping.refuse(`line ${line}`, 'is too long for a user');
    else if (name.trim() !== '') mapping.add(name, `line ${line}`);
    isSkipping = false;
  };
  try {
    for await (const chunk of input) {
      const text = rest + decoder.decode(chunk as Uint8Array, { stream: true });
      let from = 0;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', from)) {
        take(text.slice(from, end));
        from = end + 1;
        if (mapping.isFull) await mapping.flush();
        if (!mapping.isRead) return;
      }
      rest = text.slice(from);
      if (rest.length > lineLimitChars) {
        isSkipping = true;
        rest = '';
      }
    }
  } catch (error) {
    mapping.refuse('standard input', error instanceof Error ? error.message : String(error));
  }
  if (rest !== '' || isSkipping) take(rest);
  await mapping.flush();
}
