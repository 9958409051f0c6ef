/**
 * A program that starts servers as `npm start` does, says so, and stays: for tests that end it.
 *   stack-owner.ts <services> [children]     children: two more, one of which does not listen to SIGTERM
 */
import { spawn } from 'node:child_process'
import { runDirectory, spawnGuarded } from '../../infra/stack/guard.ts'
import { type ServiceName, startStack } from '../../infra/stack/index.ts'

const [services = '', children] = process.argv.slice(2)
try {
  const stack = await startStack({ services: services.split(',') as ServiceName[], progress: 'silent' })
  if (children !== undefined) {
    spawnGuarded('sh', ['-c', 'trap "" TERM; while :; do sleep 1; done'], { stdio: 'ignore' })
    spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' }).unref()
  }
  process.stdout.write(`${JSON.stringify({ ...stack, runDirectory: runDirectory() })}\n`)
  setInterval(() => {}, 1_000)
  process.on('SIGTERM', async () => {
    await stack.stop()
    process.exit(0)
  })
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`)
  process.exit(1)
}
