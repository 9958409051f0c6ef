/** The process that runs rotations: workflows and activities on the task queue, and the waits for receipts on theirs. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { receiptsTaskQueue } from '@keyturn/contract'
import { Client, Connection } from '@temporalio/client'
import { NativeConnection, Worker, type WorkerOptions } from '@temporalio/worker'
import type { Logger } from 'pino'
import { createAlerts } from '../activities/alerts.ts'
import { createCourier } from '../activities/channels/courier.ts'
import { createOutbound } from '../activities/channels/outbound.ts'
import { createActivities } from '../activities/index.ts'
import { createKafka } from '../activities/kafka.ts'
import { startNeglectWatch } from '../activities/neglect.ts'
import { createPropagation } from '../activities/propagation.ts'
import { startSweeping } from '../activities/sweeping.ts'
import { startRollover } from '../api/rollover-workflows.ts'
import type { ConfigOf } from '../infra/config.ts'
import { ensureSearchAttributes } from '../infra/temporal.ts'
import { ensureTopics } from '../infra/topics.ts'
import { openDatabase } from '../registry/database.ts'
import { migrate } from '../registry/migrate.ts'
import { openSealer } from '../registry/reseal.ts'
import { startRotations } from './fleet.ts'
import { startPolicySchedules } from './policy-schedules.ts'
import { isProgram, type RunningProcess, runProcess } from './process.ts'
import { routeTemporalLog } from './temporal-log.ts'

export type RotationWorkerConfig = ConfigOf<'postgres' | 'kafka' | 'temporal' | 'kek' | 'leaks' | 'listen' | 'delivery'>

/** How the worker of rotations polls. The bench's peer polls the same way. */
export const ROTATIONS = {
  maxConcurrentActivityTaskExecutions: 500,
  maxConcurrentActivityTaskPolls: 10,
  maxConcurrentWorkflowTaskPolls: 10,
  // After a crash another worker takes a rotation over this fast.
  stickyQueueScheduleToStartTimeout: '2s',
} as const satisfies Partial<WorkerOptions>

export interface RunningWorker extends RunningProcess {
  /** Settles when the worker has stopped; rejects when it failed. */
  readonly stopped: Promise<void>
}

/** Starts a worker in this process. */
export async function startRotationWorker(config: RotationWorkerConfig, log: Logger): Promise<RunningWorker> {
  routeTemporalLog(log)
  await migrate(config.postgresUrl)
  const db = openDatabase(config.postgresUrl, { applicationName: 'keyturn-worker' })
  const sealer = await openSealer(db, config)
  const kafka = createKafka(config.kafkaBrokers, 'keyturn-worker', log)
  // Before anything reads one: who reads a topic that is not there may make one that is like none of ours.
  await ensureTopics(kafka, config.topics)
  const source = '/keyturn/worker'
  const propagation = createPropagation({ kafka, topics: config.topics, db, log, source })
  const alerts = createAlerts(kafka, config.topics, source)
  const calls = await Connection.connect({ address: config.temporalAddress })
  const client = new Client({ connection: calls, namespace: config.temporalNamespace })
  const { brand, publicUrl, leaks: leakSettings } = config
  const startRotation = startRotations(client, config.taskQueue)
  const courier = createCourier({ sealer, publicUrl, delivery: config.delivery })
  const outbound = createOutbound({ allow: config.delivery.webhookAllow })
  const { signInUrl } = config.delivery
  const ours = { db, sealer, brand, publicUrl, signInUrl, propagation, alerts, leakSettings }
  const activities = createActivities({ ...ours, courier, outbound, startRotation })
  await ensureSearchAttributes(config.temporalAddress, config.temporalNamespace)
  const connection = await NativeConnection.connect({ address: config.temporalAddress })
  const common = { connection, namespace: config.temporalNamespace, shutdownGraceTime: '10s', shutdownForceTime: '15s' } as const

  const { awaitReceipt, awaitLeakReceipt, closeLeak, awaitRolloverReceipt, awaitRotations } = activities
  const rotations = await Worker.create({
    ...common,
    ...workflowCode(config.workflowBundle),
    taskQueue: config.taskQueue,
    activities,
    ...ROTATIONS,
  })
  const receipts = await Worker.create({
    ...common,
    taskQueue: receiptsTaskQueue(config.taskQueue),
    activities: { awaitReceipt, awaitLeakReceipt, closeLeak, awaitRolloverReceipt, awaitRotations },
    maxConcurrentActivityTaskExecutions: 5_000,
  })
  const sweeping = startSweeping(db, propagation, (rolloverId) => startRollover(client, config.taskQueue, rolloverId), log)
  const neglect = startNeglectWatch(db, alerts, log)
  const schedules = startPolicySchedules(db, client, config.taskQueue, log)
  const workers = [rotations, receipts]
  const shutDown = () => workers.filter((worker) => worker.getState() === 'RUNNING').map((worker) => worker.shutdown())
  const run = async (): Promise<void> => {
    try {
      await Promise.all(workers.map((worker) => worker.run()))
    } finally {
      shutDown()
      await release()
    }
  }
  const release = async (): Promise<void> => {
    await Promise.all([sweeping.stop(), neglect.stop(), schedules.stop()])
    await Promise.allSettled([propagation.stop(), alerts.stop(), courier.close(), outbound.close()])
    await db.close()
    await Promise.all([connection.close(), calls.close()])
  }
  const stopped = run()
  return {
    stopped,
    async stop() {
      shutDown()
      await stopped
    },
  }
}

function workflowCode(bundle: string | undefined): Pick<WorkerOptions, 'workflowBundle' | 'workflowsPath'> {
  if (bundle !== undefined) return { workflowBundle: { code: readFileSync(bundle, 'utf8') } }
  return { workflowsPath: fileURLToPath(new URL('../workflows/index.ts', import.meta.url)) }
}

if (isProgram(import.meta.url)) {
  await runProcess(
    'rotation-worker',
    ['postgres', 'kafka', 'temporal', 'kek', 'leaks', 'listen', 'delivery'],
    startRotationWorker,
  )
}
