/**
 * config/homing.yaml, generated from the schema: each key with its prose, its default, and the key itself, commented out where the default
 * will do. Write it anew with `sh src/homing.sh settings-reference yaml > config/homing.yaml`; a test holds the file against this.
 */
import { inline } from './inline.ts';
import { type Meta, metas, type Shape } from './leaf.ts';
import { notYet } from './read.ts';
import { topKeys } from './schema.ts';

/** What no default can know: these stand uncommented, to be changed. */
const site: Readonly<Record<string, string>> = {
  cluster: 'example',
  nodes: `
  - { name: mail1, address: 10.0.0.1, ports: { imap: 143, lmtp: 24 } }
  - { name: mail2, address: 10.0.0.2, ports: { imap: 143, lmtp: 24 } }
  - { name: mail3, address: 10.0.0.3, ports: { imap: 143, lmtp: 24 } }`,
  'listen.imap': '["0.0.0.0:143"]',
  'listen.lmtp': '["127.0.0.1:24"]',
  'users.defaultDomain': 'example.org',
};

const intro = `# Homing's settings. Keys that are commented out show an example or their default; docs/settings.md describes each.
# Start: homing check --config FILE, then homing serve --config FILE. SIGHUP reads this file again.
# Durations and sizes carry units: 800ms, 1s, 5m, 24h, 64KiB, 10MiB. Relative paths are relative to this file.
`;

export function settingsExample(): string {
  return `${intro}${[...keysOf(topKeys, '', '')].join('')}`;
}

function* keysOf(keys: Shape, above: string, indent: string): Generator<string> {
  for (const [name, schema] of Object.entries(keys)) {
    const meta = metas.get(schema);
    if (meta === undefined) throw new Error(`${above}${name} has no prose`);
    if (!isBuilt(meta)) continue;
    yield* oneKey(`${above}${name}`, name, meta, indent);
  }
}

/** False where all that may stand there is nothing. */
function isBuilt(meta: Meta): boolean {
  if (meta.keys === undefined) return !meta.kind.includes(notYet);
  return Object.values(meta.keys).some(schema => !metas.get(schema)?.kind.includes(notYet));
}

/** A default that would show nobody what to write. */
const isNothing = (fallback: unknown): boolean =>
  fallback === null || fallback === undefined || (Array.isArray(fallback) && fallback.length === 0);

function* oneKey(key: string, name: string, meta: Meta, indent: string): Generator<string> {
  yield indent === '' ? '\n' : '';
  yield wrapped(meta.prose, indent) + wrapped(defaultText(meta), indent);
  const ours = site[key];
  if (ours !== undefined) yield `${indent}${name}:${ours.startsWith('\n') ? '' : ' '}${ours}\n`;
  else if (meta.keys === undefined)
    yield `${indent}#${name}: ${inline(isNothing(meta.fallback) ? meta.example : meta.fallback)}\n`;
  else if (meta.kind === 'optional group') yield `${indent}#${name}: ${inline(meta.example)}\n`;
  else {
    yield `${indent}${name}:\n`;
    yield* keysOf(meta.keys, `${key}.`, `${indent}  `);
  }
}

function defaultText({ keys, required, fallback }: Meta): string {
  if (keys !== undefined || required) return '';
  return fallback === null ? 'Default: not set' : `Default: ${inline(fallback)}`;
}

function wrapped(text: string, indent: string): string {
  if (text === '') return '';
  const room = 110 - indent.length;
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + 1 + word.length > room) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line].map(l => `${indent}${l}\n`).join('');
}
