/** Everything that is measured, each in a process of its own as in production: API, worker, collector, three gateways; and the peer. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { randomBase62, topicNames } from '@keyturn/contract'
import { Client, Connection } from '@temporalio/client'
import getPort from 'get-port'

import { Agent, request } from 'undici'
import { type ControlKafka, createKafka } from '../activities/kafka.ts'
import { createProcesses, plainEnvironment, untilReady } from '../infra/demo/processes.ts'
import { createLog } from '../infra/log.ts'
import { ensureTopics } from '../infra/topics.ts'
import { bundleWorkflows } from '../infra/workflow-bundle.ts'
import { type Database, openDatabase } from '../registry/database.ts'
import { migrate } from '../registry/migrate.ts'

const STATE = fileURLToPath(new URL('../.keyturn', import.meta.url))
const GATEWAYS = 3
const TRIES = 6

export interface Servers {
  /** Of an empty database. */
  readonly postgresUrl: string
  readonly kafkaBrokers: readonly string[]
  readonly temporalAddress: string
}

export interface GatewayAddress {
  readonly id: string
  readonly url: string
}

export interface BenchHouse {
  /** Address of the API. */
  readonly api: string
  readonly gateways: readonly GatewayAddress[]
  readonly temporal: Client
  readonly kafka: ControlKafka
  readonly db: Database
  /** Before the names of topics that a measure makes for itself. */
  readonly prefix: string
  /** Where the rotation worker takes its work. */
  readonly taskQueue: string
  /** Where the peer takes its work: the workflow type is `oneActivity`. */
  readonly peerTaskQueue: string
  /** A request to the API, as its operator; again while a server does not answer in time (503). @throws when it is refused */
  call<T>(method: 'GET' | 'POST', path: string, body?: object): Promise<T>
  /** Of the servers, for people. */
  versions(): Promise<string[]>
  close(): Promise<void>
}

/** Starts all of it on the given servers, and waits until it is ready. */
export async function openHouse(servers: Servers): Promise<BenchHouse> {
  const log = createLog('bench', 'error')
  const prefix = `bench-${randomBase62(6)}.`
  const taskQueue = `keyturn-bench-${randomBase62(6)}`
  const peerTaskQueue = `${taskQueue}-peer`
  const operatorToken = randomBase62(43)
  const kafka = createKafka(servers.kafkaBrokers, 'bench', log)
  const processes = createProcesses(`${STATE}/logs/bench`)
  const closers: (() => Promise<unknown>)[] = []
  const close = async (): Promise<void> => {
    await processes.stopAll()
    for (const each of closers.splice(0).reverse()) await each()
  }
  try {
    const bundle = await bundleWorkflows(STATE)
    await Promise.all([migrate(servers.postgresUrl), ensureTopics(kafka, topicNames(prefix))])
    closers.push(() => removeTopics(kafka, Object.values(topicNames(prefix))))
    const upstream = await startUpstream()
    closers.push(upstream.close)
    const apiPort = await getPort({ host: '127.0.0.1' })
    const api = `http://127.0.0.1:${apiPort}`
    const env = {
      ...plainEnvironment(),
      KEYTURN_POSTGRES_URL: servers.postgresUrl,
      KEYTURN_KAFKA_BROKERS: servers.kafkaBrokers.join(','),
      KEYTURN_TEMPORAL_ADDRESS: servers.temporalAddress,
      KEYTURN_TOPIC_PREFIX: prefix,
      KEYTURN_TASK_QUEUE: taskQueue,
      KEYTURN_KEK: randomBytes(32).toString('base64'),
      KEYTURN_OPERATOR_TOKEN: operatorToken,
      KEYTURN_LISTEN: `127.0.0.1:${apiPort}`,
      KEYTURN_PUBLIC_URL: api,
      // Clients listen on this machine.
      KEYTURN_WEBHOOK_ALLOW: '127.0.0.0/8',
      KEYTURN_WORKFLOW_BUNDLE: bundle,
      KEYTURN_COLLECTOR_INTERVAL: '200ms',
    }
    const start = (name: string, file: string, more: Record<string, string> = {}): void => {
      processes.start({ name, file, env: { ...env, ...more } })
    }
    start('api', 'workers/api-server.ts')
    const ready = [untilReady(`${api}/readyz`, 'api')]
    start('rotation-worker', 'workers/rotation-worker.ts')
    start('usage-collector', 'workers/usage-collector.ts')
    start('peer-worker', 'bench/peer/worker.ts', { KEYTURN_TASK_QUEUE: peerTaskQueue })
    const gateways: GatewayAddress[] = []
    for (let i = 1; i <= GATEWAYS; i++) {
      const id = `gateway-${i}`
      const port = await getPort({ host: '127.0.0.1' })
      const url = `http://127.0.0.1:${port}`
      start(id, 'gateway/src/main.ts', {
        KEYTURN_GATEWAY_ID: id,
        KEYTURN_GATEWAY_LISTEN: `127.0.0.1:${port}`,
        KEYTURN_GATEWAY_UPSTREAM: upstream.url,
        KEYTURN_GATEWAY_USAGE_WINDOW: '500ms',
      })
      gateways.push({ id, url })
      ready.push(untilReady(`${url}/readyz`, id))
    }
    const connection = await Connection.connect({ address: servers.temporalAddress })
    const db = openDatabase(servers.postgresUrl, { applicationName: 'bench', max: 4 })
    closers.push(
      () => connection.close(),
      () => db.close(),
    )
    await Promise.race([Promise.all(ready), processes.failed])
    const temporal = new Client({ connection })
    await temporal.workflow.execute('oneActivity', { taskQueue: peerTaskQueue, workflowId: `bench/ready/${randomBase62(8)}` })

    const dispatcher = new Agent({ connections: 32, pipelining: 1 })
    closers.push(() => dispatcher.close())
    return {
      api,
      gateways,
      temporal,
      kafka,
      db,
      prefix,
      taskQueue,
      peerTaskQueue,
      async call<T>(method: 'GET' | 'POST', path: string, body?: object): Promise<T> {
        for (let tries = 1; ; tries++) {
          const response = await request(api + path, {
            method,
            dispatcher,
            headers: {
              authorization: `Bearer ${operatorToken}`,
              ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            },
            body: body === undefined ? null : JSON.stringify(body),
          })
          const answer = (await response.body.json()) as T & { detail?: string }
          if (response.statusCode < 300) return answer
          if (response.statusCode === 503 && tries < TRIES) continue
          throw new Error(`${method} ${path.replace(/claims\/.*/, 'claims/…')}: ${response.statusCode} ${answer.detail ?? ''}`)
        }
      },
      async versions() {
        const [postgres] = await db.query<{ server_version: string }>('show server_version')
        const { serverVersion } = await connection.workflowService.getSystemInfo({})
        return [`PostgreSQL ${postgres?.server_version.split(' ')[0]}`, `Temporal server ${serverVersion}`]
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function removeTopics(kafka: ControlKafka, topics: string[]): Promise<void> {
  const admin = kafka.admin()
  await admin.connect()
  await admin.deleteTopics({ topics })
  await admin.disconnect()
}

/** The API behind the gateways: it says yes, and costs as little as it can. */
async function startUpstream(): Promise<{ url: string; close(): Promise<unknown> }> {
  const server = createServer((incoming, response) => {
    incoming.resume()
    response.end('ok')
  })
  server.keepAliveTimeout = 60_000
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      server.closeAllConnections()
      server.close()
    },
  }
}
