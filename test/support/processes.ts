/** Our programs as processes of their own, for tests that kill, stop and restart them. */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import getPort from 'get-port'
import { type GuardedProcess, spawnGuarded, stopGuarded } from '../../infra/stack/guard.ts'
import { eventually, type House } from './house.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PROGRAM = join(ROOT, 'infra/program.mjs')

/** The environment that gives a process the configuration of a house. */
export const environmentOf = ({ config }: House, log = 'error'): Record<string, string> => ({
  KEYTURN_POSTGRES_URL: config.postgresUrl,
  KEYTURN_KAFKA_BROKERS: config.kafkaBrokers.join(','),
  KEYTURN_TEMPORAL_ADDRESS: config.temporalAddress,
  KEYTURN_TASK_QUEUE: config.taskQueue,
  KEYTURN_TOPIC_PREFIX: config.topics.keys.replace('keyturn.keys.v1', ''),
  KEYTURN_KEK: config.kek.toString('base64'),
  KEYTURN_OPERATOR_TOKEN: config.operatorToken,
  KEYTURN_LEAK_AT_ONCE: config.leaks.atOnce.join(','),
  KEYTURN_LEAK_OVERLAP: `${config.leaks.overlapMs}ms`,
  KEYTURN_WEBHOOK_ALLOW: '127.0.0.0/8',
  KEYTURN_COLLECTOR_INTERVAL: '200ms',
  KEYTURN_LOG_LEVEL: log,
  ...(config.workflowBundle === undefined ? {} : { KEYTURN_WORKFLOW_BUNDLE: config.workflowBundle }),
})

export interface Running extends GuardedProcess {
  /** What it has written so far, both streams. */
  output(): string
  kill(): Promise<void>
  stop(): Promise<void>
  /** Waits until the output has it; fails with the output when the process ends before. */
  says(what: string | RegExp, withinMs?: number): Promise<void>
}

export function startProgram(file: string, env: Readonly<Record<string, string>>): Running {
  const guarded = spawnGuarded(process.execPath, [PROGRAM, file], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const written: Buffer[] = []
  guarded.child.stdout?.on('data', (chunk: Buffer) => written.push(chunk))
  guarded.child.stderr?.on('data', (chunk: Buffer) => written.push(chunk))
  const output = () => Buffer.concat(written).toString('utf8')
  return {
    ...guarded,
    output,
    async says(what, withinMs = 120_000) {
      const said = () => (typeof what === 'string' ? output().includes(what) : what.test(output()))
      await eventually(
        () => {
          if (!said() && guarded.child.exitCode !== null) throw new Error(`${file} ended: ${output()}`)
          return said()
        },
        () => `${what} from ${file}, which said: ${output()}`,
        withinMs,
      )
    },
    async kill() {
      if (guarded.child.exitCode === null && guarded.child.signalCode === null) {
        guarded.child.kill('SIGKILL')
        await guarded.ended
      }
    },
    stop: () => stopGuarded(guarded),
  }
}

export interface GatewayProcess extends Running {
  readonly url: string
  /** The status of a request with this token. */
  call(token: string): Promise<number>
}

/** A gateway in a process of its own, in front of an API. Resolves once it is ready. */
export async function startGatewayProcess(
  house: House,
  gatewayId: string,
  env: Readonly<Record<string, string>> = {},
): Promise<GatewayProcess> {
  const port = await getPort({ host: '127.0.0.1' })
  const url = `http://127.0.0.1:${port}`
  const running = startProgram('gateway/src/main.ts', {
    ...environmentOf(house),
    KEYTURN_GATEWAY_ID: gatewayId,
    KEYTURN_GATEWAY_LISTEN: `127.0.0.1:${port}`,
    KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:9',
    KEYTURN_GATEWAY_HEARTBEAT: '500ms',
    KEYTURN_GATEWAY_USAGE_WINDOW: '200ms',
    KEYTURN_GATEWAY_DRAIN_NOTICE: '0s',
    ...env,
  })
  await eventually(
    async () => {
      if (running.child.exitCode !== null) throw new Error(`the gateway ended: ${running.output()}`)
      return fetch(`${url}/readyz`).then(
        ({ ok }) => ok,
        () => false,
      )
    },
    `gateway ${gatewayId} ready`,
    90_000,
  )
  const call = async (token: string): Promise<number> => {
    const response = await fetch(`${url}/v1/ticker`, { headers: { authorization: `Bearer ${token}` } })
    await response.arrayBuffer()
    return response.status
  }
  return { ...running, url, call }
}

/** An API to stand behind gateways; it answers 200 to all, but 403 to the keys that `refused` holds. */
export async function startUpstream(refused: ReadonlySet<string> = new Set()): Promise<{ url: string; server: Server }> {
  const server = createServer((request, response) => {
    request.resume()
    if (refused.has(String(request.headers['keyturn-key-id']))) response.statusCode = 403
    response.end('ok')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server }
}
