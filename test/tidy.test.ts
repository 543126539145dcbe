/**
 * The house rules that a machine can hold: floors, file heads, sizes, words, and purity of the core.
 * A failure names the file and the rule, so that nobody has to look the rule up.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..');
const src = join(root, 'src');

const floors: Readonly<Record<string, number>> = {
  core: 0,
  wire: 1,
  settings: 1,
  observe: 1,
  net: 2,
  storage: 2,
  backend: 3,
  directory: 3,
  cluster: 4,
  delivery: 5,
  session: 5,
  drill: 6,
  admin: 6,
  cli: 7,
  process: 8,
};
const topFloor = 9; // main.ts

interface Source {
  readonly path: string;
  readonly room: string;
  readonly text: string;
  readonly imports: readonly string[];
}

function sources(): readonly Source[] {
  return readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => {
      const text = readFileSync(join(src, name), 'utf8');
      const imports = [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(match => match[1] ?? '');
      return { path: name, room: dirname(name) === '.' ? '' : (name.split('/')[0] ?? ''), text, imports };
    });
}

function floorOf(room: string): number {
  if (room === '') return topFloor;
  const floor = floors[room];
  assert.ok(floor !== undefined, `src/${room} stands on no floor: add it to the house or move its files`);
  return floor;
}

const files = sources();

test('floors import downward only, and siblings never import each other', () => {
  const wrong: string[] = [];
  for (const file of files) {
    for (const name of file.imports.filter(one => one.startsWith('.'))) {
      const path = relative(src, normalize(join(src, dirname(file.path), name)));
      const room = dirname(path) === '.' ? '' : (path.split('/')[0] ?? '');
      if (room === file.room) continue;
      if (floorOf(room) >= floorOf(file.room)) wrong.push(`${file.path} imports ${path}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('no two files need each other: a circle has no first page to read', () => {
  const wants = new Map(
    files.map(file => [
      file.path,
      file.imports
        .filter(name => name.startsWith('.'))
        .map(name => relative(src, normalize(join(src, dirname(file.path), name)))),
    ]),
  );
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, way: readonly string[]): void => {
    const at = way.indexOf(path);
    if (at >= 0) circles.push([...way.slice(at), path].join(' → '));
    if (at >= 0 || done.has(path)) return;
    for (const next of wants.get(path) ?? []) visit(next, [...way, path]);
    done.add(path);
  };
  for (const path of wants.keys()) visit(path, []);
  assert.deepEqual(circles, []);
});

test('the core is pure: no node modules, no packages, no clock, no chance, nothing asynchronous', () => {
  const impure =
    /\b(Date\.now|new Date\(\)|Math\.random|performance\.|setTimeout|setInterval|setImmediate|process\.|async |await )/;
  const wrong = files
    .filter(file => file.room === 'core')
    .flatMap(file => [
      ...file.imports.filter(name => !name.startsWith('.')).map(name => `${file.path} imports ${name}`),
      ...codeLines(file.text)
        .filter(line => impure.test(line))
        .map(line => `${file.path}: ${line.trim()}`),
    ]);
  assert.deepEqual(wrong, []);
});

test('only the clock knows real time and chance', () => {
  const impure = /\b(Math\.random|Date\.now)\b/;
  const wrong = files
    .filter(file => file.path !== 'net/clock.ts' && codeLines(file.text).some(line => impure.test(line)))
    .map(file => file.path);
  assert.deepEqual(wrong, []);
});

test('each file opens with what it is', () => {
  assert.deepEqual(
    files.filter(file => !/^(#!.*\n)?\/\*\*\n \* \S/.test(file.text)).map(file => file.path),
    [],
  );
});

test('files are of a size one can read', () => {
  const tooLong = files.filter(file => file.text.split('\n').length > 500).map(file => file.path);
  assert.deepEqual(tooLong, []);
});

test('file names are nouns in kebab-case, and none of the words that mean nothing', () => {
  const wrong = files
    .map(file => file.path)
    .filter(
      path => !/^([a-z0-9-]+\/)*[a-z0-9-]+\.ts$/.test(path) || /(helper|util|manager|common|misc)/.test(path),
    );
  assert.deepEqual(wrong, []);
});

test('nothing is left over: no unfinished marks, no focused or skipped tests', () => {
  const marks = new RegExp(
    `\\b(${['TO', 'FIX', 'X', 'HA'].map((a, i) => a + ['DO', 'ME', 'XX', 'CK'][i]).join('|')})\\b`,
  );
  const tests = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => ({ path: `test/${name}`, text: readFileSync(join(root, 'test', name), 'utf8') }));
  const wrong = [...files, ...tests].filter(file => marks.test(file.text)).map(file => file.path);
  const skipped = tests
    .filter(
      file =>
        /\b(it|test|describe)\.(skip|only|todo)\b|\bskip: ?(true|['"`])/.test(file.text) &&
        file.path !== 'test/tidy.test.ts',
    )
    .map(file => file.path);
  assert.deepEqual({ wrong, skipped }, { wrong: [], skipped: [] });
});

/** Lines of code without comments, roughly: enough to keep prose from looking like a call. */
function codeLines(text: string): readonly string[] {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .split('\n')
    .map(line => line.replace(/\/\/.*$/, ''));
}
