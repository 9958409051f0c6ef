/** `npm start`: installs what is missing, then is infra/demo/run.ts. */
import { ensureInstalled, requireNode } from './bootstrap.mjs'

requireNode()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stopEarly)
await ensureInstalled()
const program = await (await import('./bundle.mjs')).addressOf('infra/demo/run.ts')
for (const signal of ['SIGINT', 'SIGTERM']) process.removeListener(signal, stopEarly)
// In this process, not in a child: signals and the exit code need no passing on.
await import(program)

function stopEarly() {
  process.exit(130)
}
