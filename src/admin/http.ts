/**
 * The admin listener: plain HTTP on loopback addresses, few connections, short deadlines.
 * Must never listen where another machine could reach it: the settings refuse other addresses, and this asserts it.
 */
import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import type { Log } from '../observe/log.ts';

const connectionsMax = 64;
const requestTimeoutMs = 10_000;

export interface AdminListener {
  close(): Promise<void>;
}

/** Answers why not, where the kernel refuses. */
export function listenAdmin(options: {
  readonly api: Hono;
  readonly address: string;
  readonly port: number;
  readonly log: Log;
}): Promise<
  { readonly ok: true; readonly listener: AdminListener } | { readonly ok: false; readonly why: string }
> {
  const { api, address, port, log } = options;
  assert(/^(127\.|::1$)/.test(address), 'the admin API has no tokens: loopback only');
  const listening = createServer(
    { requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs },
    (request, response) => {
      void getRequestListener(api.fetch)(request, response).catch((error: unknown) => {
        log.warn({ why: String(error) }, 'an admin request broke off');
        response.destroy();
      });
    },
  );
  listening.maxConnections = connectionsMax;
  return new Promise(resolve => {
    listening.once('error', error => resolve({ ok: false, why: error.message }));
    listening.listen(port, address, () =>
      resolve({ ok: true, listener: { close: () => closeAll(listening) } }),
    );
  });
}

function closeAll(listening: Server): Promise<void> {
  return new Promise(resolve => {
    listening.close(() => resolve());
    listening.closeAllConnections();
  });
}
