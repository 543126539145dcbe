/**
 * A writer as a process of its own, to be killed and frozen by tests: `node writer-process.ts '{"socketPath":…,"root":…}'`.
 * Says `ready` on standard output once it listens. Ends when its standard input does, so that it never outlives its test.
 */
import { startWriter, writerThreads } from '../../src/delivery/writer.ts';
import { realClock } from '../../src/net/clock.ts';
import { openLog } from '../../src/observe/log.ts';

const { socketPath, root, uid, gid, create } = JSON.parse(process.argv[2] ?? '{}') as {
  readonly socketPath: string;
  readonly root: string;
  readonly uid: number;
  readonly gid: number;
  readonly create?: boolean;
};
const started = await startWriter({
  socketPath,
  socketOwner: null,
  spool: {
    path: `${root}/{domain}/{local}/Maildir`,
    mark: `${root}/.homing`,
    home: null,
    sieve: ['.dovecot.sieve'],
    account: { uid, gid },
    create: create ?? false,
  },
  clock: realClock,
  log: openLog({ level: 'fatal', file: '-', role: 'writer' }).log,
});
process.stdin.on('end', () => process.exit(0)).resume();
process.stdout.write(
  started.ok && process.env.UV_THREADPOOL_SIZE === String(writerThreads) ? 'ready\n' : 'failed\n',
);
