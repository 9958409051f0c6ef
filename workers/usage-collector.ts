/** The process that turns usage reports into evidence, and tells rotations what has come true. */
import { type EvidenceFact, rotationWorkflowId } from '@keyturn/contract'
import { Client, Connection, WorkflowNotFoundError } from '@temporalio/client'
import type { Logger } from 'pino'
import { createAlerts } from '../activities/alerts.ts'
import { watchGateways } from '../activities/gateway-watch.ts'
import { createKafka } from '../activities/kafka.ts'
import { type Collector, startCollector, type ToldRotation } from '../activities/usage.ts'
import type { ConfigOf } from '../infra/config.ts'
import { ensureTopics } from '../infra/topics.ts'
import { openDatabase } from '../registry/database.ts'
import { migrate } from '../registry/migrate.ts'
import { isProgram, type RunningProcess, runProcess } from './process.ts'

export type UsageCollectorConfig = ConfigOf<'postgres' | 'kafka' | 'temporal'>

export interface RunningCollector extends RunningProcess {
  readonly collector: Collector
}

/** Starts a collector in this process. It sweeps by itself every `sweepMs`; 0 leaves that to the caller. */
export async function startUsageCollector(
  config: UsageCollectorConfig,
  log: Logger,
  { sweepMs, clock }: { sweepMs: number; clock?: () => Date },
): Promise<RunningCollector> {
  await migrate(config.postgresUrl)
  const db = openDatabase(config.postgresUrl, { applicationName: 'keyturn-collector', max: 4 })
  const kafka = createKafka(config.kafkaBrokers, 'keyturn-collector', log)
  // Before anything reads one: who reads a topic that is not there may make one that is like none of ours.
  await ensureTopics(kafka, config.topics)
  const watch = watchGateways(kafka, config.topics, log)
  const connection = await Connection.connect({ address: config.temporalAddress })
  const client = new Client({ connection, namespace: config.temporalNamespace })
  const alerts = createAlerts(kafka, config.topics, '/keyturn/collector')
  const tell = (rotation: ToldRotation, fact: EvidenceFact): Promise<boolean> => signal(client, rotation, fact)
  const collector = await startCollector({
    kafka,
    topics: config.topics,
    db,
    watch,
    tell,
    alert: alerts.raise,
    log,
    ...(clock === undefined ? {} : { clock }),
  })

  let sweeping: Promise<void> = Promise.resolve()
  let stopping = false
  const loop = async (): Promise<void> => {
    while (!stopping) {
      await collector.sweep().catch((error: unknown) => log.warn({ err: error }, 'a sweep failed; the next one tries again'))
      await new Promise((resolve) => setTimeout(resolve, sweepMs))
    }
  }
  if (sweepMs > 0) sweeping = loop()

  return {
    collector,
    async stop() {
      stopping = true
      await sweeping
      await Promise.allSettled([collector.stop(), alerts.stop(), watch.stop(), connection.close()])
      await db.close()
    },
  }
}

async function signal(client: Client, { rotationId, credentialId }: ToldRotation, fact: EvidenceFact): Promise<boolean> {
  try {
    await client.workflow.getHandle(rotationWorkflowId(credentialId)).signal('evidence', fact, rotationId)
    return true
  } catch (error) {
    // It has just ended: there is nobody left to tell.
    if (error instanceof WorkflowNotFoundError) return false
    throw error
  }
}

if (isProgram(import.meta.url)) {
  await runProcess('usage-collector', ['postgres', 'kafka', 'temporal'], (config, log) =>
    startUsageCollector(config, log, { sweepMs: config.collectorIntervalMs }),
  )
}
