/**
 * Talks to a running Homing over its admin address: one request, one JSON answer, one deadline. Every failure is a value with a sentence
 * an operator can act on and the exit code that goes with it.
 */
import { request } from 'node:http';
import { loadSettings } from '../settings/load.ts';
import { readAddress } from '../settings/read.ts';
import type { Asked } from './asked.ts';
import { exit } from './exit.ts';
import type { Io } from './io.ts';
import { printErrors } from './settings.ts';

export type Answer<T> =
  | { readonly ok: true; readonly body: T }
  | { readonly ok: false; readonly why: string; readonly code: number };

export interface Question {
  readonly method: 'GET' | 'POST';
  /** With its query; everything in it encoded. */
  readonly path: string;
  readonly body?: unknown;
  readonly timeoutMs: number;
}

export interface Client {
  readonly base: string;
  ask<T>(question: Question): Promise<Answer<T>>;
}

const answerLimitBytes = 64 * 1024 * 1024;

/** Whom to ask: `--admin`, else the settings' first admin address. Null: it can't be told, and why has been printed. */
export async function clientFor(asked: Asked, io: Io): Promise<Client | number> {
  if (asked.admin !== null) return readBase(asked.admin, io);
  const loaded = await loadSettings(asked.settingsPath);
  if (!loaded.ok) {
    await printErrors(loaded.errors, io);
    io.stderr.write('homing: with --admin URL a running Homing can be asked without its settings\n');
    return exit.settings;
  }
  const [first] = loaded.settings.listen.admin;
  if (first === undefined) {
    io.stderr.write(`homing: listen.admin is empty in ${asked.settingsPath}: there is nobody to ask\n`);
    return exit.unavailable;
  }
  return readBase(first, io);
}

function readBase(text: string, io: Io): Client | number {
  const plain = /^[a-z]+:\/\//i.test(text) ? text : `http://${text}`;
  const url = URL.canParse(plain) ? new URL(plain) : null;
  if (url === null || url.protocol !== 'http:' || url.port === '0') {
    io.stderr.write(
      `homing: ${JSON.stringify(text)} can't be asked; such as --admin http://127.0.0.1:8025\n`,
    );
    return exit.usage;
  }
  // "Any address" is where it listens, not where it is asked.
  const any = readAddress(url.host);
  if (any.ok && any.value.address === '0.0.0.0') url.hostname = '127.0.0.1';
  if (any.ok && any.value.address === '::') url.hostname = '[::1]';
  return createClient(url.origin);
}

export function createClient(base: string): Client {
  return { base, ask: question => ask(base, question) };
}

function ask<T>(base: string, { method, path, body, timeoutMs }: Question): Promise<Answer<T>> {
  return new Promise(resolve => {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = {
      accept: 'application/json',
      ...(payload === undefined ? {} : { 'content-type': 'application/json' }),
    };
    const signal = AbortSignal.timeout(timeoutMs);
    const fail = (why: string, code: number = exit.unavailable): void => resolve({ ok: false, why, code });
    const lost = (error: Error): void =>
      fail(
        signal.aborted
          ? `${base} gave no answer within ${timeoutMs / 1000} s`
          : `no running Homing at ${base}: ${reason(error)}`,
      );
    const asking = request(`${base}${path}`, { method, headers, signal, agent: false }, response => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        chunks.push(chunk);
        if (bytes > answerLimitBytes) asking.destroy(new Error('its answer has no end'));
      });
      response.on('error', lost);
      response.on('end', () =>
        resolve(readAnswer<T>(base, response.statusCode ?? 0, Buffer.concat(chunks).toString())),
      );
    });
    asking.on('error', lost);
    asking.end(payload);
  });
}

function readAnswer<T>(base: string, status: number, text: string): Answer<T> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return {
      ok: false,
      why: `${base} is not a Homing's admin address: it answered ${status} and no JSON`,
      code: exit.unavailable,
    };
  }
  if (status >= 200 && status < 300) return { ok: true, body: body as T };
  const error =
    typeof body === 'object' && body !== null && 'error' in body
      ? String(body.error)
      : `it answered ${status}`;
  return { ok: false, why: error, code: status >= 500 ? exit.unavailable : exit.no };
}

function reason(error: Error): string {
  const code = 'code' in error ? String(error.code) : '';
  return code === 'ECONNREFUSED' ? 'connection refused' : code || error.message;
}
