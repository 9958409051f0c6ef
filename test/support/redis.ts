/** A real Redis that a test can kill, restart and stop for a while. */
import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { createClient } from '@redis/client'
import getPort from 'get-port'
import { type GuardedProcess, guardReady, runDirectory, spawnGuarded, stopGuarded } from '../../infra/stack/guard.ts'
import { redisServer } from '../../infra/stack/redis.ts'
import { eventually } from './house.ts'

export interface RunningRedis {
  readonly url: string
  /** Ends it at once. What it had saved is there when it starts again, and nothing else. */
  kill(): Promise<void>
  start(): Promise<void>
  /** Stands still: connections stay, and nothing is answered. */
  freeze(): void
  thaw(): void
  command(...words: string[]): Promise<unknown>
  stop(): Promise<void>
}

/** @param settings of redis-server: `['--maxmemory', '4mb']`. A password among them is used by `command`, too */
export async function startRedis(settings: readonly string[] = []): Promise<RunningRedis> {
  await guardReady()
  const program = await redisServer((what) => process.stderr.write(`Tests: ${what}\n`))
  const directory = mkdtempSync(join(runDirectory(), 'redis-'))
  const port = await getPort({ host: '127.0.0.1' })
  const url = `redis://127.0.0.1:${port}`
  const at = settings.indexOf('--requirepass')
  const password = at < 0 ? undefined : settings[at + 1]
  let running: GuardedProcess | undefined
  const command = async (...words: string[]): Promise<unknown> => {
    const client = createClient({ url, ...(password === undefined ? {} : { password }), socket: { reconnectStrategy: false } })
    client.on('error', () => undefined)
    await client.connect()
    return client.sendCommand(words).finally(() => client.destroy())
  }
  const redis: RunningRedis = {
    url,
    async kill() {
      running?.child.kill('SIGKILL')
      await running?.ended
    },
    async start() {
      const words = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, '--save', '', ...settings]
      running = spawnGuarded(program, words, { stdio: 'ignore' })
      await eventually(() => command('PING').then(String, () => undefined), 'Redis')
    },
    freeze: () => void running?.child.kill('SIGSTOP'),
    thaw: () => void running?.child.kill('SIGCONT'),
    command,
    async stop() {
      if (running === undefined) return
      running.child.kill('SIGCONT')
      await stopGuarded(running)
    },
  }
  await redis.start()
  return redis
}
