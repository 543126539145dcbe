/**
 * docs/settings.md, generated from the schema: so that no key is without its prose, and none is described that does not exist.
 * Write it anew with `sh src/homing.sh settings-reference > docs/settings.md`; a test holds the file against this.
 */
import { inline } from './inline.ts';
import { type Meta, metas, type Shape } from './leaf.ts';
import { topKeys } from './schema.ts';

const intro = `# Settings

Generated from \`src/settings/schema.ts\`; change it there.

Settings are one YAML file, given with \`--config FILE\`. An unknown or wrong key ends the start with file, line, column, the key, and what
would be right; \`homing check\` finds more. SIGHUP reads the file again: with an error in it, all stays as it was. Keys marked
*restart* take effect at the next start only.

Durations carry a unit: \`800ms\`, \`1s\`, \`5m\`, \`24h\`, \`5d\`. Sizes too: \`512B\`, \`64KiB\`, \`10MiB\`, \`2GiB\`.
Relative paths are relative to the settings file. In paths \`{host}\` stands for this machine's name and \`{node}\` for \`self\`.
`;

export function settingsReference(): string {
  return `${intro}${[...describe(topKeys, '', 2)].join('')}`;
}

function* describe(keys: Shape, above: string, depth: number): Generator<string> {
  for (const [name, schema] of Object.entries(keys)) {
    const meta = metas.get(schema);
    if (meta === undefined) throw new Error(`${above}${name} has no prose`);
    const key = `${above}${name}`;
    yield `\n${'#'.repeat(Math.min(depth, 4))} \`${key}\`\n\n${meta.prose}\n\n`;
    yield* facts(name, meta);
    if (meta.keys) yield* describe(meta.keys, meta.each === true ? `${key}[].` : `${key}.`, depth + 1);
  }
}

function* facts(name: string, meta: Meta): Generator<string> {
  if (meta.keys === undefined) {
    yield `- value: ${meta.kind}${meta.restart === true ? ' (*restart*)' : ''}\n`;
    yield `- default: ${meta.required ? 'none, it must be set' : meta.fallback === null ? 'not set' : `\`${inline(meta.fallback)}\``}\n`;
  }
  if (meta.later !== undefined && meta.later.length > 0)
    yield `- not supported yet: ${meta.later.join(', ')}\n`;
  if (meta.example !== undefined) yield `- example: \`${name}: ${inline(meta.example)}\`\n`;
}
