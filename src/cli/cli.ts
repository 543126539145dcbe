/**
 * The command line: which command, its options, its exit code. Each command is loaded only when it is asked for, so that `homing map` in a
 * cron job starts at once. Must never end the process itself: it answers an exit code, and `main.ts` lets streams empty first.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { didYouMean } from '../settings/nearest.ts';
import type { Asked } from './asked.ts';
import { exit } from './exit.ts';
import { complain, type Io, write } from './io.ts';
import { type Command, commands, laterCommands, usage } from './usage.ts';

type Run = (asked: Asked, io: Io) => Promise<number>;

/** How many words a command takes behind it, and how it is loaded. */
const runs: Readonly<Record<Command, { readonly words: readonly [number, number]; load(): Promise<Run> }>> = {
  serve: { words: [0, 0], load: async () => (asked, io) => io.serve(asked.settingsPath) },
  check: { words: [0, 0], load: async () => (await import('./check.ts')).runCheck },
  map: { words: [0, Number.POSITIVE_INFINITY], load: async () => (await import('./map.ts')).runMap },
  explain: { words: [1, 1], load: async () => (await import('./explain.ts')).runExplain },
  status: { words: [0, 0], load: async () => (await import('./status.ts')).runStatus },
  sessions: { words: [0, 0], load: async () => (await import('./lists.ts')).runSessions },
  queue: { words: [0, 0], load: async () => (await import('./lists.ts')).runQueue },
  node: { words: [2, 3], load: async () => (await import('./node.ts')).runNode },
  'settings-reference': { words: [0, 1], load: async () => (await import('./reference.ts')).runReference },
};

const options = {
  config: { type: 'string', short: 'c' },
  admin: { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
  version: { type: 'boolean', short: 'V', default: false },
} as const;

const isCommand = (word: string): word is Command => Object.hasOwn(commands, word);

export async function runCli(argv: readonly string[], io: Io): Promise<number> {
  const parsed = parse(argv);
  if (typeof parsed === 'string') return misused(io, parsed);
  const { values, positionals } = parsed;
  const [word, ...words] = positionals;
  if (values.version) return print(io, `homing ${version(io)}\n`);
  if (word === 'help' || (values.help && word === undefined)) return print(io, usage());
  if (word === undefined) return misused(io, 'which command?');
  if (!isCommand(word)) return misused(io, unknown(word));
  if (values.help) return print(io, `${commands[word]}\n`);
  const run = runs[word];
  const [least, most] = run.words;
  if (words.length < least) return misused(io, `${word}: something is missing`, word);
  if (words.length > most) return misused(io, `${word}: ${words[most]} is one too many`, word);
  const path = settingsPath(values.config, io);
  const asked = {
    words,
    json: values.json,
    settingsPath: path,
    settingsGiven: values.config !== undefined,
    admin: values.admin ?? null,
  };
  const code = await (await run.load())(asked, io);
  const failure = io.outputFailure?.() ?? '';
  if (failure === '') return code;
  await complain(io, `standard output: ${failure}`);
  return exit.no;
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
  } catch (e) {
    // node:util's own sentence names the option; the advice on `--` behind it is not for us.
    return (e instanceof Error ? e.message : String(e)).split('. ')[0] ?? 'wrong command line';
  }
}

function unknown(word: string): string {
  if (laterCommands.includes(word)) return `${word} is not supported yet`;
  return `${JSON.stringify(word)} is not a command; ${didYouMean(word, Object.keys(commands))}`.replace(
    /; $/,
    '',
  );
}

async function print(io: Io, text: string): Promise<number> {
  await write(io.stdout, text);
  return exit.ok;
}

async function misused(io: Io, why: string, command?: Command): Promise<number> {
  await complain(io, why);
  await write(io.stderr, command === undefined ? 'Try: homing --help\n' : `${commands[command]}\n`);
  return exit.usage;
}

const packagedSettings = '/etc/homing/homing.yaml';

function settingsPath(given: string | undefined, { env }: Io): string {
  const named = given ?? env.HOMING_CONFIG;
  if (named !== undefined && named !== '') return named;
  const ours = join(env.HOMING_ROOT ?? '.', 'config', 'homing.yaml');
  return existsSync(packagedSettings) || !existsSync(ours) ? packagedSettings : ours;
}

function version({ env }: Io): string {
  try {
    const parsed: unknown = JSON.parse(readFileSync(join(env.HOMING_ROOT ?? '.', 'package.json'), 'utf8'));
    return typeof parsed === 'object' && parsed !== null && 'version' in parsed
      ? String(parsed.version)
      : 'unknown';
  } catch {
    return 'unknown';
  }
}
