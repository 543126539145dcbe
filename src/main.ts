/**
 * Where a process begins: the command line, or one of Homing's own processes.
 */
import { runCli } from './cli/cli.ts';
import { processIo } from './cli/io.ts';

const io = processIo(async () => {
  process.stderr.write('homing: serve is not supported yet\n');
  return 69;
});
process.exitCode = await runCli(process.argv.slice(2), io);
