/** Everywhere that a secret could have been left: read whole, as bytes. */
import { readdirSync, readFileSync } from 'node:fs'
import type { Client } from '@temporalio/client'
import { Kafka, logLevel } from 'kafkajs'
import type { Database } from '../../registry/database.ts'

/** One thing that was read, and where. */
export interface Found {
  readonly place: string
  readonly bytes: Buffer
}

/** Every string and every run of bytes in a structure, whatever its depth. Temporal's payloads are such bytes. */
function* leaves(value: unknown): Generator<Buffer> {
  if (typeof value === 'string') yield Buffer.from(value)
  else if (value instanceof Uint8Array) yield Buffer.from(value)
  else if (value instanceof Map) yield* leaves([...value])
  else if (typeof value === 'object' && value !== null) {
    for (const [name, inner] of Object.entries(value)) {
      yield Buffer.from(name)
      yield* leaves(inner)
    }
  }
}

const asOne = (value: unknown): Buffer => Buffer.concat([...leaves(value)].flatMap((leaf) => [leaf, Buffer.from('\n')]))

/** The descriptions and the histories of all runs on a task queue. */
export async function readWorkflows(client: Client, taskQueue: string): Promise<Found[]> {
  const found: Found[] = []
  for await (const execution of client.workflow.list({ query: `TaskQueue = "${taskQueue}"` })) {
    const handle = client.workflow.getHandle(execution.workflowId, execution.runId)
    const history = await handle.fetchHistory()
    found.push({ place: `history of ${execution.workflowId}/${execution.runId}`, bytes: asOne(history) })
    found.push({ place: `description of ${execution.workflowId}`, bytes: asOne((await handle.describe()).raw) })
  }
  return found
}

/** Every message of topics, from their first to their last: key, value and headers. */
export async function readTopics(brokers: string[], topics: readonly string[]): Promise<Found[]> {
  const kafka = new Kafka({ brokers, clientId: 'keyturn-test', logLevel: logLevel.NOTHING })
  const admin = kafka.admin()
  await admin.connect()
  const behind = new Map<string, bigint>()
  for (const topic of topics) {
    for (const { partition, low, high } of await admin.fetchTopicOffsets(topic))
      if (low !== high) behind.set(`${topic}/${partition}`, BigInt(high))
  }
  await admin.disconnect()
  const found: Found[] = []
  const consumer = kafka.consumer({ groupId: `keyturn-test-${process.pid}-${Math.random().toString(36).slice(2)}` })
  await consumer.connect()
  await consumer.subscribe({ topics: [...topics], fromBeginning: true })
  await new Promise<void>((resolve, reject) => {
    consumer.on('consumer.crash', ({ payload }) => reject(payload.error))
    consumer
      .run({
        autoCommit: false,
        eachBatch: async ({ batch }) => {
          const place = `${batch.topic}/${batch.partition}`
          for (const { key, value, headers, offset } of batch.messages)
            found.push({ place: `${place}@${offset}`, bytes: asOne([key, value, headers]) })
          const end = behind.get(place)
          if (end !== undefined && BigInt(batch.lastOffset()) + 1n >= end) behind.delete(place)
          if (behind.size === 0) resolve()
        },
      })
      .catch(reject)
  })
  await consumer.disconnect()
  return found
}

/** Every row of every table, and what statements PostgreSQL shows to others. */
export async function readTables(db: Database): Promise<Found[]> {
  const found: Found[] = []
  const tables = await db.query<{ table: string }>(
    `select format('%I.%I', schemaname, tablename) as table from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`,
  )
  for (const { table } of tables) {
    for (const row of await db.query<Record<string, unknown> & { whole: string }>(
      `select t::text as whole, t.* from ${table} t`,
    )) {
      // As text, where bytes are hexadecimal, and each column by itself, where bytes are bytes.
      const { whole, ...columns } = row
      found.push({ place: `table ${table}`, bytes: Buffer.concat([Buffer.from(whole), asOne(columns)]) })
    }
  }
  const statements = await db.query<{ query: string }>('select query from pg_stat_activity where datname = current_database()')
  found.push({ place: 'pg_stat_activity', bytes: asOne(statements) })
  return found
}

/** Reads the arguments of all processes over and over, until it is stopped. */
export function watchArguments(): { stop(): Found[] } {
  const seen = new Map<string, Buffer>()
  const look = (): void => {
    for (const pid of readdirSync('/proc')) {
      if (!/^\d+$/.test(pid)) continue
      try {
        const bytes = readFileSync(`/proc/${pid}/cmdline`)
        seen.set(bytes.toString('latin1'), bytes)
      } catch {
        // It has ended just now.
      }
    }
  }
  look()
  const timer = setInterval(look, 50)
  return {
    stop() {
      clearInterval(timer)
      look()
      return [...seen.values()].map((bytes) => ({ place: 'arguments of a process', bytes }))
    },
  }
}
