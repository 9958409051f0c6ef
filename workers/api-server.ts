/** The process that serves the control plane's HTTP API. */
import type { AddressInfo } from 'node:net'
import type { KeyId } from '@keyturn/contract'
import { Client, Connection, WorkflowExecutionAlreadyStartedError } from '@temporalio/client'
import { createAlerts } from '../activities/alerts.ts'
import { createKafka } from '../activities/kafka.ts'
import { createPropagation } from '../activities/propagation.ts'
import { createGithubKeys } from '../api/github-keys.ts'
import { given } from '../api/routes.ts'
import { createApi } from '../api/server.ts'
import type { Config } from '../infra/config.ts'
import type { Log } from '../infra/log.ts'
import { openDatabase } from '../registry/database.ts'
import { migrate } from '../registry/migrate.ts'
import { openSealer } from '../registry/reseal.ts'
import type { tellOfSecondClaim } from '../workflows/index.ts'
import { createLeakResponses } from './leak-responses.ts'
import { isProgram, type RunningProcess, runProcess } from './process.ts'
import { createSignatureCheck } from './signature-check.ts'

export interface RunningApi extends RunningProcess {
  /** Where it listens: `http://host:port`. */
  readonly url: string
  /** Finishes the requests that are under way; one that has not ended after `drainMs` is cut off. */
  stop(drainMs?: number): Promise<void>
}

/** No request of ours takes longer; one that does is waiting for its own body. Kubernetes kills after 30 s. */
const DRAIN_MS = 25_000
/** Temporal answers within milliseconds. */
const START_DEADLINE_MS = 2_000

/**
 * Brings the registry up to date, and serves the API. PostgreSQL must be there; the others may come later: without Kafka, gateways ask this
 * process what has ended.
 */
export async function startApiServer(config: Config, log: Log, clock: () => Date = () => new Date()): Promise<RunningApi> {
  await migrate(config.postgresUrl)
  const db = openDatabase(config.postgresUrl, { applicationName: 'keyturn-api', max: 20, statementMs: 10_000 })
  const sealer = await openSealer(db, config)
  const kafka = createKafka(config.kafkaBrokers, 'keyturn-api', log)
  const propagation = createPropagation({ kafka, topics: config.topics, db, log, source: '/keyturn/api' })
  const alerts = createAlerts(kafka, config.topics, '/keyturn/api')
  const admin = kafka.admin()
  let connected: Promise<void> | undefined
  const pingKafka = async (): Promise<void> => {
    connected ??= admin.connect().catch((error: unknown) => {
      connected = undefined
      throw error
    })
    await connected
    await admin.describeCluster()
  }
  const connection = Connection.lazy({ address: config.temporalAddress })
  const temporal = new Client({ connection, namespace: config.temporalNamespace })
  const { taskQueue, leaks } = config
  const responses = createLeakResponses({ temporal, taskQueue, db, propagation, leakSettings: leaks, clock, log })
  let url = ''
  // With port 0 the address is known only once we listen.
  const publicUrl = () => (config.publicUrl.endsWith(':0') ? url : config.publicUrl)
  const keks = config.previousKek === undefined ? [config.kek] : [config.kek, config.previousKek]
  const api = await createApi({
    db,
    sealer,
    temporal,
    propagation,
    checkSignature: createSignatureCheck({ db, keks, publicUrl, clock, log }),
    alert: (alert) => alerts.raiseInTheEnd(alert),
    tellOfSecondClaim: (keyId) => void startTelling(temporal, taskQueue, keyId, log),
    respond: responses.respond,
    pingKafka,
    clock,
    log,
    config: {
      brand: config.brand,
      operatorToken: config.operatorToken,
      leaks: {
        ...given('reporterToken', leaks.reporterToken),
        ...given('gitguardianToken', leaks.gitguardianToken),
        ...given('githubKeys', leaks.githubKeys === undefined ? undefined : createGithubKeys(leaks.githubKeys, { log })),
      },
      publicUrl,
      trustedProxies: config.trustedProxies,
      taskQueue,
      webhookAllow: config.delivery.webhookAllow,
      sessionKeyPeriodMs: config.sessionKeyPeriodMs,
      fallback: config.fallback,
    },
  })
  await api.listen({ ...config.listen, listenTextResolver: (address) => `listening at ${address}` })
  const { address, port, family } = api.server.address() as AddressInfo
  url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  return {
    url,
    async stop(drainMs = DRAIN_MS) {
      const late = setTimeout(() => api.server.closeAllConnections(), drainMs)
      await api.close()
      clearTimeout(late)
      await responses.stop()
      await Promise.allSettled([propagation.stop(), alerts.stop(), admin.disconnect(), connection.close()])
      await db.close()
    },
  }
}

/** Once for each claim, however often it is tried. When Temporal is away the alert is what is left. */
async function startTelling(temporal: Client, taskQueue: string, keyId: KeyId, log: Log): Promise<void> {
  try {
    await temporal.withDeadline(Date.now() + START_DEADLINE_MS, () =>
      temporal.workflow.start<typeof tellOfSecondClaim>('tellOfSecondClaim', {
        workflowId: `second-claim/${keyId}`,
        taskQueue,
        workflowIdReusePolicy: 'REJECT_DUPLICATE',
        args: [{ keyId }],
      }),
    )
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) return
    log.warn({ err: error, keyId }, 'a client could not be told of a second claim')
  }
}

if (isProgram(import.meta.url)) {
  await runProcess(
    'api-server',
    ['postgres', 'kafka', 'temporal', 'kek', 'operator', 'leaks', 'listen', 'fallback', 'delivery'],
    startApiServer,
    ({ postgresUrl }) => ({ postgresUrl }),
  )
}
