/**
 * Where every process begins: the command line, or one of Homing's own processes.
 *
 *     homing COMMAND …      → cli/cli.ts; `serve` → parent.ts, which starts
 *     --process=serving     → serving.ts   listeners, sessions, deliveries, queue; never root
 *     --process=writer      → writer.ts    the only one with rights on the spool
 */
const [first] = process.argv.slice(2);

switch (first) {
  case '--process=serving': {
    const { runServing } = await import('./serving.ts');
    await runServing();
    break;
  }
  case '--process=writer': {
    const { runWriter } = await import('./writer.ts');
    await runWriter();
    break;
  }
  default: {
    const { runCli } = await import('./cli/cli.ts');
    const { processIo } = await import('./cli/io.ts');
    const serve = async (settingsPath: string) => (await import('./parent.ts')).runParent(settingsPath);
    process.exitCode = await runCli(process.argv.slice(2), processIo(serve));
  }
}
