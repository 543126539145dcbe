/**
 * The HTTP API behind `homing status`, `explain`, `sessions`, `queue` and `node`: a thin face of the `Desk` that the parent provides.
 * It has no tokens, so it answers loopback connections only, and only requests that a browser's page could not have sent:
 * a Host that is a loopback name, and JSON for what changes anything.
 */
import { Hono } from 'hono';
import { z } from 'zod';
import type {
  ExplainAnswer,
  NodeOrder,
  NodeOrderAnswer,
  QueueAnswer,
  SessionsAnswer,
  StatusAnswer,
} from '../core/status.ts';

/** `not-found` 404, `wrong` 400, `conflict` 409, `unavailable` 503. */
export type DeskAnswer<T> =
  | { readonly ok: true; readonly value: T }
  | {
      readonly ok: false;
      readonly kind: 'not-found' | 'wrong' | 'conflict' | 'unavailable';
      readonly why: string;
    };

/** What the API asks of the running proxy. Never rejects; each answer comes within the proxy's own deadlines. */
export interface Desk {
  status(): Promise<DeskAnswer<StatusAnswer>>;
  explain(raw: string): Promise<DeskAnswer<ExplainAnswer>>;
  sessions(): Promise<DeskAnswer<SessionsAnswer>>;
  queue(): Promise<DeskAnswer<QueueAnswer>>;
  orderNode(name: string, order: NodeOrder): Promise<DeskAnswer<NodeOrderAnswer>>;
  /** Whether this proxy can serve: someone is serving, and a node is up. */
  ready(): Promise<DeskAnswer<{ readonly ready: true }>>;
}

const statusOf = { 'not-found': 404, wrong: 400, conflict: 409, unavailable: 503 } as const;
const bodyLimitBytes = 4096;

const nodeOrder = z
  .strictObject({
    admin: z.enum(['ready', 'drain', 'maint']).optional(),
    weight: z.number().int().min(0).max(1000).optional(),
  })
  .refine(order => (order.admin === undefined) !== (order.weight === undefined), {
    message: 'name one of: admin (ready, drain, maint), weight (0 to 1000)',
  });

/** A browser sends the page's own name as Host: a rebound DNS name never passes for loopback. */
const loopbackHost = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i;

export function createApi(desk: Desk): Hono {
  const api = new Hono();

  api.use('*', async (context, next) => {
    if (!loopbackHost.test(context.req.header('host') ?? ''))
      return context.json({ error: 'wrong Host' }, 403);
    if (
      context.req.method !== 'GET' &&
      !/^application\/json\b/.test(context.req.header('content-type') ?? '')
    )
      return context.json({ error: 'send application/json' }, 415);
    await next();
    return undefined;
  });

  const answer = <T extends object>(result: DeskAnswer<T>) =>
    result.ok
      ? Response.json(result.value)
      : Response.json({ error: result.why }, { status: statusOf[result.kind] });

  api.get('/livez', context => context.text('ok\n'));
  api.get('/readyz', async () => answer(await desk.ready()));
  api.get('/v1/status', async () => answer(await desk.status()));
  api.get('/v1/sessions', async () => answer(await desk.sessions()));
  api.get('/v1/queue', async () => answer(await desk.queue()));
  api.get('/v1/explain', async context => {
    const raw = context.req.query('user');
    if (raw === undefined) return context.json({ error: 'name a user: ?user=NAME' }, 400);
    return answer(await desk.explain(raw));
  });
  api.post('/v1/nodes/:name', async context => {
    const text = await context.req.text();
    const order = text.length > bodyLimitBytes ? null : parseOrder(text);
    if (order === null) return context.json({ error: 'the body is not JSON' }, 400);
    const parsed = nodeOrder.safeParse(order);
    if (!parsed.success)
      return context.json({ error: parsed.error.issues.map(one => one.message).join('; ') }, 400);
    const { admin, weight } = parsed.data;
    const clean: NodeOrder = {
      ...(admin === undefined ? {} : { admin }),
      ...(weight === undefined ? {} : { weight }),
    };
    return answer(await desk.orderNode(context.req.param('name'), clean));
  });
  api.notFound(context => context.json({ error: `there is no ${context.req.path}` }, 404));
  api.onError((error, context) => context.json({ error: error.message }, 500));
  return api;
}

function parseOrder(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
