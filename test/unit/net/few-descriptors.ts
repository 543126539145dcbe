/** A listener in a process of few descriptors, for listener.test.ts: prints its port, greets everyone. */
import { pino } from 'pino';
import { openListener } from '../../../src/net/listener.ts';

const result = await openListener({
  address: '127.0.0.1',
  port: 0,
  maxConnections: 1000,
  maxPerAddress: 1000,
  log: pino({ level: 'silent' }),
  onSocket: socket => {
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    socket.resume();
    socket.write('hello');
  },
});
if (!result.ok) throw new Error(result.why);
process.stdout.write(String(result.listener.address().port));
// The test holds our standard input; when it is gone, so are we.
process.stdin.on('end', () => process.exit()).resume();
