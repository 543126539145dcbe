/**
 * Where every process begins: the command line, or one of Homing's own processes (src/process).
 *
 *     homing COMMAND …      → cli/cli.ts; `serve` → process/parent.ts, which starts
 *     --process=serving     → process/serving.ts   listeners, sessions, deliveries, queue; never root
 *     --process=writer      → process/writer.ts    the only one with rights on the spool
 */
const [first] = process.argv.slice(2);

switch (first) {
  case '--process=serving': {
    const { runServing } = await import('./process/serving.ts');
    await runServing();
    break;
  }
  case '--process=writer': {
    const { runWriter } = await import('./process/writer.ts');
    await runWriter();
    break;
  }
  default: {
    const { runCli } = await import('./cli/cli.ts');
    const { processIo } = await import('./cli/io.ts');
    const serve = async (settingsPath: string) =>
      (await import('./process/parent.ts')).runParent(settingsPath);
    process.exitCode = await runCli(process.argv.slice(2), processIo(serve));
  }
}
