/** Servers may start after us: waits for those that a process needs, and says for which. */
import { formatDuration } from '@keyturn/contract'
import { Connection } from '@temporalio/client'
import { Kafka, logLevel } from 'kafkajs'
import pg from 'pg'
import type { Log } from '../infra/log.ts'

const PAUSE_MS = 250
const SAY_EVERY_MS = 5_000
const ATTEMPT_MS = 3_000

export interface NeededServers {
  readonly postgresUrl?: string
  readonly kafkaBrokers?: readonly string[]
  readonly temporalAddress?: string
}

/** A sentence for the person who starts the process. */
export class ServerMissing extends Error {
  override readonly name = 'ServerMissing'
}

interface Server {
  readonly name: string
  /** Where it was looked for, without user and password. */
  readonly where: string
  readonly variable: string
  /** Resolves when the server answers. */
  attempt(): Promise<void>
}

/**
 * Resolves when all the servers answer.
 * @param limitMs how long to wait for each; they are waited for at the same time
 * @throws ServerMissing
 */
export async function waitForServers(needed: NeededServers, limitMs: number, log: Log): Promise<void> {
  const { postgresUrl, kafkaBrokers, temporalAddress } = needed
  const servers: Server[] = []
  if (postgresUrl !== undefined) servers.push(postgres(postgresUrl))
  if (kafkaBrokers !== undefined) servers.push(kafka(kafkaBrokers))
  if (temporalAddress !== undefined) servers.push(temporal(temporalAddress))
  await Promise.all(servers.map((server) => waitFor(server, limitMs, log)))
}

async function waitFor(server: Server, limitMs: number, log: Log): Promise<void> {
  const { name, where, variable } = server
  const begun = Date.now()
  let said = -Infinity
  for (;;) {
    try {
      return await server.attempt()
    } catch (error) {
      const waited = Date.now() - begun
      const code = (error as { code?: unknown }).code
      const why = typeof code === 'string' ? ` (${code})` : ''
      if (typeof code === 'string' && code.startsWith('28')) {
        throw new ServerMissing(`${name} at ${where} does not let us in${why}: set user and password in ${variable}.`)
      }
      if (waited >= limitMs) {
        throw new ServerMissing(
          `${name} at ${where} did not answer within ${formatDuration(limitMs)}${why}: start it, or set ${variable}; KEYTURN_STARTUP_WAIT says how long to wait.`,
        )
      }
      if (waited - said >= SAY_EVERY_MS) {
        said = waited
        log.info({ server: name, where, waitedMs: waited, limitMs }, `waiting for ${name}`)
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }
}

function postgres(url: string): Server {
  const { hostname, port, pathname } = new URL(url)
  return {
    name: 'PostgreSQL',
    where: `${hostname}:${port === '' ? 5432 : port}${pathname}`,
    variable: 'KEYTURN_POSTGRES_URL',
    async attempt() {
      const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: ATTEMPT_MS, query_timeout: ATTEMPT_MS })
      client.on('error', () => {})
      try {
        await client.connect()
        await client.query('select 1')
      } finally {
        await client.end().catch(() => {})
      }
    },
  }
}

function kafka(brokers: readonly string[]): Server {
  const client = new Kafka({
    brokers: [...brokers],
    clientId: 'keyturn-startup',
    logLevel: logLevel.NOTHING,
    connectionTimeout: ATTEMPT_MS,
    requestTimeout: ATTEMPT_MS,
    retry: { retries: 0 },
  })
  return {
    name: 'Kafka',
    where: brokers.join(','),
    variable: 'KEYTURN_KAFKA_BROKERS',
    async attempt() {
      const admin = client.admin()
      try {
        await admin.connect()
        await admin.describeCluster()
      } finally {
        await admin.disconnect().catch(() => {})
      }
    },
  }
}

const temporal = (address: string): Server => ({
  name: 'Temporal',
  where: address,
  variable: 'KEYTURN_TEMPORAL_ADDRESS',
  async attempt() {
    const connection = await Connection.connect({ address, connectTimeout: ATTEMPT_MS })
    await connection.close()
  },
})
