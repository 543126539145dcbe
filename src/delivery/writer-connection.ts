/**
 * One connection to a writer: takes one request at a time, has it done, answers. The states are drawn in writer.ts.
 * A small body is collected and written in one call; a large one is streamed, and the socket waits while the disk does.
 * Must never answer before the body was taken whole (the next frame begins behind it), nor let an error out of here.
 */
import type { Socket } from 'node:net';
import type { Log } from '../observe/log.ts';
import { fileFailure } from '../storage/file-failure.ts';
import type { Maildirs } from '../storage/maildir.ts';
import { type BodyFeed, createBodyFeed } from './body-feed.ts';
import {
  createFrameReader,
  type DeliverRequest,
  encodeFrame,
  type FrameEvent,
  parseRequest,
  type WriterAnswer,
  type WriterRequest,
} from './writer-wire.ts';

export interface WriterConnectionOptions {
  readonly socket: Socket;
  readonly maildirs: Maildirs;
  readonly log: Log;
}

/** Up to this size a body is collected; the courier keeps bodies of this size in memory too. */
const collectLimitBytes = 256 * 1024;
const feedLimitBytes = 1024 * 1024;
/** A connection without a byte for so long is given up; the courier opens another one when it needs it. */
const idleTimeoutMs = 600_000;

type State =
  | { readonly kind: 'idle' }
  /** Collecting a small body, or past the header of a request without one. */
  | { readonly kind: 'taking'; readonly request: WriterRequest; readonly pieces: Buffer[] }
  /** Streaming: `answer` waits for the body's end, or the other way round. */
  | { kind: 'streaming'; readonly feed: BodyFeed; taken: boolean; answer: WriterAnswer | null }
  | { readonly kind: 'working' };

export function createWriterConnection({ socket, maildirs, log }: WriterConnectionOptions): void {
  const reader = createFrameReader(parseRequest);
  let state: State = { kind: 'idle' };

  socket.setTimeout(idleTimeoutMs, () => {
    if (state.kind !== 'working') socket.destroy();
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    if (state.kind === 'streaming') state.feed.cut();
  });
  socket.on('data', (bytes: Buffer) => {
    const events = reader.push(bytes);
    if (events?.every(event => take(event)) !== true) {
      log.warn('a connection broke the rules of the wire');
      socket.destroy();
    }
  });

  /** False: not allowed now. */
  function take(event: FrameEvent<WriterRequest>): boolean {
    switch (state.kind) {
      case 'working':
        return false;
      case 'idle':
        if (event.kind !== 'header') return false;
        begin(event.header);
        return true;
      case 'taking':
        if (event.kind === 'body') state.pieces.push(event.bytes);
        if (event.kind === 'end') finish(state.request, state.pieces);
        return event.kind !== 'header';
      case 'streaming':
        if (event.kind === 'body' && !state.feed.push(event.bytes)) socket.pause();
        if (event.kind === 'end') endStream(state);
        return (
          event.kind !== 'header' && !(state.kind === 'streaming' && state.taken && event.kind === 'body')
        );
    }
  }

  function begin(request: WriterRequest): void {
    if (request.kind !== 'deliver' || request.bytes <= collectLimitBytes) {
      state = { kind: 'taking', request, pieces: [] };
      return;
    }
    const feed = createBodyFeed(feedLimitBytes, () => socket.resume());
    const streaming: State = { kind: 'streaming', feed, taken: false, answer: null };
    state = streaming;
    void deliver(request, feed).then(answer => {
      // After an early failure the rest of the body is still to come: take it, drop it, then answer.
      feed.drop();
      if (streaming.taken) reply(answer);
      else streaming.answer = answer;
    });
  }

  function endStream(streaming: State & { kind: 'streaming' }): void {
    streaming.taken = true;
    streaming.feed.end();
    if (streaming.answer !== null) reply(streaming.answer);
  }

  function finish(request: WriterRequest, pieces: readonly Buffer[]): void {
    state = { kind: 'working' };
    const [first] = pieces;
    const body = pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces);
    void perform(request, body).then(reply);
  }

  function reply(answer: WriterAnswer): void {
    state = { kind: 'idle' };
    socket.write(encodeFrame(answer));
  }

  function perform(request: WriterRequest, body: Buffer): Promise<WriterAnswer> {
    switch (request.kind) {
      case 'ping':
        return Promise.resolve({ kind: 'pong' });
      case 'verify':
        return guard(async () => ({ kind: 'presence', presence: await maildirs.verify(request.user) }));
      case 'deliver':
        return deliver(request, body);
    }
  }

  function deliver(request: DeliverRequest, body: Buffer | BodyFeed): Promise<WriterAnswer> {
    return guard(async () => {
      const written = await maildirs.deliver({ ...request, body, bodyBytes: request.bytes });
      if (written.ok) return { kind: 'done', already: written.kind === 'already', file: written.file };
      const { failure, mayBeThere } = written;
      const { user, name } = request;
      log.warn({ user, name, failure: failure.kind, detail: failure.text, mayBeThere }, 'not delivered');
      return { kind: 'failure', failure, mayBeThere };
    });
  }

  async function guard(work: () => Promise<WriterAnswer>): Promise<WriterAnswer> {
    try {
      return await work();
    } catch (error) {
      // Storage answers with values: what comes here is a bug, and what it left behind is unknown.
      log.error({ err: error }, 'a request failed in an unforeseen way');
      return { kind: 'failure', failure: fileFailure(error), mayBeThere: true };
    }
  }
}
