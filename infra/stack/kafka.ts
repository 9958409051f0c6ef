/** Kafka: one node that is broker and controller (KRaft). */
import { randomBytes } from 'node:crypto'
import { cpSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Kafka, logLevel } from 'kafkajs'
import { cached } from './cache.ts'
import { StackError } from './errors.ts'
import { fetchMaven } from './fetch.ts'
import { type RunningService, startService } from './service.ts'
import { findJava, run } from './tools.ts'
import { cacheName, VERSIONS } from './versions.ts'

const INSTEAD = 'set KEYTURN_KAFKA_BROKERS to a Kafka that runs already'
const WITHIN_MS = 60_000
const { artifacts, version, megabytes } = VERSIONS.kafka

const SMALL_JVM = ['-Xmx512m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1']
const LOG_TO_STDERR = ['-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-Dorg.slf4j.simpleLogger.showDateTime=true']

const settings = (data: string, [broker, controller]: readonly number[]): Record<string, string | number | boolean> => ({
  'process.roles': 'broker,controller',
  'node.id': 1,
  listeners: `PLAINTEXT://127.0.0.1:${broker},CONTROLLER://127.0.0.1:${controller}`,
  'advertised.listeners': `PLAINTEXT://127.0.0.1:${broker}`,
  'controller.listener.names': 'CONTROLLER',
  'controller.quorum.voters': `1@127.0.0.1:${controller}`,
  'log.dirs': data,
  'auto.create.topics.enable': false,
  'default.replication.factor': 1,
  'offsets.topic.replication.factor': 1,
  'offsets.topic.num.partitions': 1,
  'transaction.state.log.replication.factor': 1,
  'transaction.state.log.min.isr': 1,
  'transaction.state.log.num.partitions': 1,
  'share.coordinator.state.topic.replication.factor': 1,
  'share.coordinator.state.topic.min.isr': 1,
  'group.initial.rebalance.delay.ms': 0,
  'log.cleaner.dedupe.buffer.size': 4 * 1024 * 1024,
})

const propertiesFile = (entries: Record<string, string | number | boolean>): string =>
  Object.entries(entries)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')

const newClusterId = (): string => {
  // Kafka's tools refuse one that begins like an option.
  const id = randomBytes(16).toString('base64url')
  return id.startsWith('-') ? newClusterId() : id
}

/** Fetches Kafka and formats a data directory once: every start copies it and is spared a JVM. */
async function fetchKafka(java: string, directory: string): Promise<void> {
  await fetchMaven(directory, artifacts, INSTEAD)
  const file = join(directory, 'format.properties')
  writeFileSync(file, propertiesFile(settings(join(directory, 'formatted'), [9092, 9093])))
  const format = ['kafka.tools.StorageTool', 'format', '-t', newClusterId(), '-c', file]
  const { ok, output } = await run(java, [...SMALL_JVM, '-cp', join(directory, 'jars', '*'), ...format])
  if (!ok) throw new StackError(`Kafka's StorageTool failed:\n${output.slice(-2_000)}`)
}

/** @param say called with what takes time */
export async function startKafka(
  signal: AbortSignal,
  say: (what: string) => void,
): Promise<RunningService & { brokers: string[] }> {
  const java = await findJava(INSTEAD)
  const kafka = await cached(
    cacheName('kafka', VERSIONS.kafka),
    (directory) => {
      say(`fetching Kafka ${version} with Maven, ${megabytes} MB, once`)
      return fetchKafka(java, directory)
    },
    () => say('waiting for another run that fetches Kafka'),
  )
  signal.throwIfAborted()
  say('starting')
  const clusterId = newClusterId()
  const service = await startService(
    {
      name: 'Kafka',
      slug: 'kafka',
      ports: 2,
      withinMs: WITHIN_MS,
      async prepare(directory, ports) {
        mkdirSync(directory)
        const data = join(directory, 'data')
        cpSync(join(kafka, 'formatted'), data, { recursive: true })
        const identity = join(data, 'meta.properties')
        writeFileSync(`${identity}.new`, readFileSync(identity, 'utf8').replace(/^cluster\.id=.*$/m, `cluster.id=${clusterId}`))
        renameSync(`${identity}.new`, identity)
        const file = join(directory, 'server.properties')
        writeFileSync(file, propertiesFile(settings(data, ports)))
        const args = [...SMALL_JVM, ...LOG_TO_STDERR, '-cp', join(kafka, 'jars', '*'), 'kafka.Kafka', file]
        // Its data is thrown away: it needs no orderly end.
        return { command: java, args, options: { cwd: directory, stopSignal: 'SIGKILL' } }
      },
      ask: ([port = 0]) => askKafka(port, clusterId),
    },
    signal,
  )
  return { ...service, brokers: [`127.0.0.1:${service.ports[0]}`] }
}

/** The node knows itself, is ours, and its group coordinator has loaded. */
async function askKafka(port: number, clusterId: string): Promise<void> {
  const kafka = new Kafka({
    brokers: [`127.0.0.1:${port}`],
    clientId: 'keyturn-stack',
    logLevel: logLevel.NOTHING,
    connectionTimeout: 1_000,
    requestTimeout: 5_000,
    retry: { retries: 0 },
  })
  const admin = kafka.admin()
  try {
    await admin.connect()
    const cluster = await admin.describeCluster()
    if (cluster.clusterId !== clusterId) throw new StackError(`another Kafka answers on port ${port}`)
    if (cluster.brokers.length === 0) throw new StackError('no broker is registered yet')
    await admin.fetchOffsets({ groupId: 'keyturn-stack' })
  } finally {
    await admin.disconnect()
  }
}
