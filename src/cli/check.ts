/**
 * `homing check`: is what the settings name really there? One row a question: settings, map files, certificate, accounts, spool, folders, and
 * the greeting of each backend of each node. Changes nothing, and asks nodes no more than a probe does.
 */

import { probeBackend } from '../backend/probe.ts';
import type { NodeSpec, Protocol } from '../core/types.ts';
import { checkTargets, loadMaps } from '../directory/map-file.ts';
import { realClock } from '../net/clock.ts';
import { nodeSpecs, userRules } from '../settings/derived.ts';
import type { Settings } from '../settings/schema.ts';
import type { Asked } from './asked.ts';
import { checkFolders, checkSpool } from './check-files.ts';
import { checkTls } from './check-tls.ts';
import type { Checked } from './checked.ts';
import { exit } from './exit.ts';
import { type Io, say } from './io.ts';
import { settingsOf } from './settings.ts';
import { table } from './table.ts';

export async function runCheck(asked: Asked, io: Io): Promise<number> {
  const settings = await settingsOf(asked.settingsPath, io);
  if (settings === null) return exit.settings;
  const nodes = settings.nodes.length === 1 ? '1 node' : `${settings.nodes.length} nodes`;
  const parts = await Promise.all([
    [{ check: 'settings', result: 'ok' as const, why: `${asked.settingsPath}: ${nodes}` }],
    checkMaps(settings),
    checkTls(settings, realClock.wall()),
    checkSpool(settings),
    checkFolders(settings),
    checkNodes(settings),
  ]);
  const rows = parts.flat();
  if (asked.json) for (const row of rows) await say(io, JSON.stringify(row));
  else {
    const head = [{ title: 'CHECK' }, { title: 'RESULT' }, { title: 'WHY' }];
    // Never cut: what is wrong must be readable in full.
    const lines = table(
      head,
      rows.map(r => [r.check, r.result === 'failed' ? 'FAILED' : r.result, r.why]),
      null,
    );
    await say(io, lines.join('\n'));
  }
  return rows.some(row => row.result === 'failed') ? exit.no : exit.ok;
}

async function checkMaps(settings: Settings): Promise<Checked[]> {
  const maps = await loadMaps(settings.maps, userRules(settings));
  const errors = maps.ok ? checkTargets(maps.lines, settings.nodes) : maps.errors;
  return settings.maps.map(file => {
    const own = errors.filter(e => e.file === file || file.endsWith(`/${e.file}`));
    const first = own[0];
    const check = `map ${file}`;
    if (first !== undefined) {
      const more = own.length > 1 ? ` (and ${own.length - 1} more)` : '';
      return {
        check,
        result: 'failed',
        why: `${first.line > 0 ? `line ${first.line}: ` : ''}${first.message}${more}`,
      };
    }
    if (!maps.ok) return { check, result: 'warning', why: 'not looked at further: another map is wrong' };
    const lines = maps.lines.filter(l => file === l.file || file.endsWith(`/${l.file}`)).length;
    return { check, result: 'ok', why: `${lines} ${lines === 1 ? 'line' : 'lines'}` };
  });
}

async function checkNodes(settings: Settings): Promise<Checked[]> {
  const specs = nodeSpecs(settings);
  const asked = specs.flatMap(spec =>
    Object.keys(spec.ports).map(protocol => ({ spec, protocol: protocol as Protocol })),
  );
  // A few at a time: 64 nodes with five backends each must not look like a scan, nor take minutes when many are down.
  const rows: Checked[] = [];
  for (let from = 0; from < asked.length; from += 16) {
    const slice = asked.slice(from, from + 16);
    rows.push(
      ...(await Promise.all(slice.map(({ spec, protocol }) => checkBackend(spec, protocol, settings)))),
    );
  }
  return rows;
}

/** People wait for this: a backend that takes longer is told as such, whatever `health.greetingTimeout` allows a probe. */
const patienceMs = 5000;

async function checkBackend(spec: NodeSpec, protocol: Protocol, { health }: Settings): Promise<Checked> {
  const port = spec.ports[protocol] ?? 0;
  const timeoutMs = Math.max(health.timeout, patienceMs);
  const { evidence, why } = await probeBackend({ address: spec.address, port, protocol, timeoutMs });
  const at = spec.address.includes(':') ? `[${spec.address}]:${port}` : `${spec.address}:${port}`;
  return {
    check: `node ${spec.name} ${protocol}`,
    result: evidence === 'ok' ? 'ok' : 'failed',
    why: `${at}: ${why}`,
  };
}
