/** The process that listens for leak reports on Kafka, and sees that every leak is answered. */
import { Client, Connection } from '@temporalio/client'
import type { Logger } from 'pino'
import { createKafka } from '../activities/kafka.ts'
import { type LeakReports, startLeakReports } from '../activities/leak-reports.ts'
import { createPropagation } from '../activities/propagation.ts'
import type { ConfigOf } from '../infra/config.ts'
import { ensureTopics } from '../infra/topics.ts'
import { openDatabase } from '../registry/database.ts'
import { migrate } from '../registry/migrate.ts'
import { createLeakResponses, startSweepingLeaks } from './leak-responses.ts'
import { isProgram, type RunningProcess, runProcess } from './process.ts'

export type LeakListenerConfig = ConfigOf<'postgres' | 'kafka' | 'temporal' | 'leaks'>

export interface RunningListener extends RunningProcess {
  readonly counts: LeakReports['counts']
}

/** Starts a listener in this process. */
export async function startLeakListener(
  config: LeakListenerConfig,
  log: Logger,
  { clock = () => new Date(), sweepMs }: { clock?: () => Date; sweepMs?: number } = {},
): Promise<RunningListener> {
  await migrate(config.postgresUrl)
  const db = openDatabase(config.postgresUrl, { applicationName: 'keyturn-leaks', max: 10 })
  const kafka = createKafka(config.kafkaBrokers, 'keyturn-leaks', log)
  const { topics, taskQueue, leaks: leakSettings } = config
  // Before anything reads one: who reads a topic that is not there may make one that is like none of ours.
  await ensureTopics(kafka, topics)
  const propagation = createPropagation({ kafka, topics, db, log, source: '/keyturn/leaks' })
  const connection = await Connection.connect({ address: config.temporalAddress })
  const temporal = new Client({ connection, namespace: config.temporalNamespace })
  const responses = createLeakResponses({ temporal, taskQueue, db, propagation, leakSettings, clock, log })
  const reports = await startLeakReports({ kafka, topics, db, respond: responses.respond, clock, log })
  const sweeping = startSweepingLeaks(responses, log, sweepMs)
  return {
    counts: reports.counts,
    async stop() {
      await Promise.all([reports.stop(), sweeping.stop()])
      await responses.stop()
      await Promise.allSettled([propagation.stop(), connection.close()])
      await db.close()
    },
  }
}

if (isProgram(import.meta.url)) {
  await runProcess('leak-listener', ['postgres', 'kafka', 'temporal', 'leaks'], (config, log) => startLeakListener(config, log))
}
