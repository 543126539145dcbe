/**
 * Reads a dialog script. One turn a line:
 *
 *     set KEY VALUE   a setting of this dialog: plaintext tls|always|loopback, holdMs, preAuthMs, badCommands …
 *     c: text         the client sends the line        c| text   … without CRLF        c! end|reset
 *     s: text         the client must get this line    s~ regex  … one like it         s! end
 *     node            the node's next connection: from here on
 *     n> n< n| n!     it says a line, hears a line, hears bytes without CRLF, closes | resets | hears-end
 *
 * Escapes: \r \n \0 \t \\ \xNN. Turns of the client that follow each other are one block of bytes, sent without waiting.
 */
import type { NodeLine } from './scripted-node.ts';

export type ClientTurn =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  | { readonly kind: 'expect'; readonly text: string; readonly at: number }
  | { readonly kind: 'match'; readonly pattern: RegExp; readonly at: number }
  | { readonly kind: 'end' | 'reset' | 'expect-end'; readonly at: number };

export interface Dialog {
  readonly settings: ReadonlyMap<string, string>;
  readonly turns: readonly ClientTurn[];
  readonly scenes: readonly (readonly NodeLine[])[];
}

const escapes: Readonly<Record<string, string>> = { r: '\r', n: '\n', 0: '\0', t: '\t', '\\': '\\' };

function bytesOf(text: string): Buffer {
  const plain = text.replace(/\\(x[0-9a-f]{2}|.)/gi, (_, mark: string) =>
    mark.length === 3 ? String.fromCharCode(Number.parseInt(mark.slice(1), 16)) : (escapes[mark] ?? mark),
  );
  return Buffer.from(plain, 'latin1');
}

const crlf = Buffer.from('\r\n');
const line = (text: string) => Buffer.concat([bytesOf(text), crlf]);

export function readDialog(text: string): Dialog {
  const settings = new Map<string, string>();
  const turns: ClientTurn[] = [];
  const scenes: NodeLine[][] = [];
  const send = (bytes: Buffer) => {
    const last = turns.at(-1);
    if (last?.kind === 'send')
      turns.splice(-1, 1, { kind: 'send', bytes: Buffer.concat([last.bytes, bytes]) });
    else turns.push({ kind: 'send', bytes });
  };
  const scene = (turn: NodeLine) => {
    if (scenes.length === 0) scenes.push([]);
    scenes.at(-1)?.push(turn);
  };
  for (const [index, raw] of text.split('\n').entries()) {
    const at = index + 1;
    if (raw.trim() === '' || raw.startsWith('#')) continue;
    const mark = raw.slice(0, 2);
    const rest = raw.slice(3);
    if (raw.startsWith('set ')) settings.set(raw.split(' ')[1] ?? '', raw.split(' ')[2] ?? '');
    else if (raw.trim() === 'node') scenes.push([]);
    else if (mark === 'c:') send(line(rest));
    else if (mark === 'c|') send(bytesOf(rest));
    else if (mark === 'c!') turns.push({ kind: rest === 'reset' ? 'reset' : 'end', at });
    else if (mark === 's:') turns.push({ kind: 'expect', text: bytesOf(rest).toString('latin1'), at });
    else if (mark === 's~') turns.push({ kind: 'match', pattern: new RegExp(rest), at });
    else if (mark === 's!') turns.push({ kind: 'expect-end', at });
    else if (mark === 'n>') scene({ kind: 'says', bytes: line(rest) });
    else if (mark === 'n<') scene({ kind: 'hears', bytes: line(rest) });
    else if (mark === 'n|') scene({ kind: 'hears', bytes: bytesOf(rest) });
    else if (raw === 'n! closes' || raw === 'n! resets' || raw === 'n! hears-end')
      scene({ kind: rest as 'closes' | 'resets' | 'hears-end' });
    else throw new Error(`line ${at} of the dialog is not understood: ${raw}`);
  }
  return { settings, turns, scenes };
}
