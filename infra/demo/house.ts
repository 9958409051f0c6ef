/** Our own processes on the servers of the stack: control plane, three gateways in front of a sample API. */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { JWKS_PATH } from '@keyturn/contract/session'
import { randomBase62 } from '@keyturn/contract/token'
import { topicNames } from '@keyturn/contract/topics'
import getPort from 'get-port'
import { createKafka } from '../../activities/kafka.ts'
import { migrate } from '../../registry/migrate.ts'
import { createLog } from '../log.ts'
import type { Stack } from '../stack/index.ts'
import { ensureTopics } from '../topics.ts'
import { bundleWorkflows } from '../workflow-bundle.ts'
import { CHECKOUT_STATE } from './place.ts'
import { type Processes, plainEnvironment, untilReady } from './processes.ts'

const GATEWAYS = 3

/** What `.keyturn/local.json` holds. */
export interface Local {
  readonly api: string
  readonly token: string
  readonly console: string
  readonly gateways: readonly string[]
  readonly kafka: readonly string[]
  readonly temporal: string
  readonly postgres: string
}

export interface HouseOptions {
  readonly stack: Promise<Stack>
  readonly processes: Processes
  /** The API behind the gateways refuses keys that it does not know yet. */
  readonly refusesNewKeys: boolean
}

/** Starts everything on the servers as soon as they are there. Resolves when all of it is ready. */
export async function startHouse({ stack: starting, processes, refusesNewKeys }: HouseOptions): Promise<Local> {
  const [stack, bundle] = await Promise.all([starting, bundleWorkflows(CHECKOUT_STATE)])
  await Promise.all([
    migrate(stack.postgresUrl),
    ensureTopics(
      createKafka(stack.kafkaBrokers, 'keyturn-start', createLog('start', 'error')),
      topicNames(process.env['KEYTURN_TOPIC_PREFIX']),
    ),
  ])
  const token = randomBase62(43)
  const apiAddress = `127.0.0.1:${await getPort({ host: '127.0.0.1' })}`
  const api = `http://${apiAddress}`
  const gatewayToken = randomBase62(43)
  const kek = randomBytes(32).toString('base64')
  const signing = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  const plain = plainEnvironment()
  const kafka = { KEYTURN_KAFKA_BROKERS: stack.kafkaBrokers.join(',') }
  const control = {
    ...plain,
    ...kafka,
    KEYTURN_POSTGRES_URL: stack.postgresUrl,
    KEYTURN_TEMPORAL_ADDRESS: stack.temporalAddress,
    KEYTURN_KEK: kek,
    KEYTURN_OPERATOR_TOKEN: token,
    KEYTURN_GATEWAY_TOKEN: gatewayToken,
    KEYTURN_SIGNING_KEY: signing.privateKey,
    KEYTURN_LISTEN: apiAddress,
    KEYTURN_PUBLIC_URL: api,
    // The practice client of `keyturn drill` listens on this machine.
    KEYTURN_WEBHOOK_ALLOW: '127.0.0.0/8,::1',
    KEYTURN_WORKFLOW_BUNDLE: bundle,
    KEYTURN_COLLECTOR_INTERVAL: '300ms',
  }
  const upstream = new Promise<string>((resolve) => {
    processes.start({
      name: 'sample-api',
      file: 'infra/demo/sample-api.ts',
      env: { ...plain, SAMPLE_API_REFUSES_NEW_KEYS: refusesNewKeys ? '1' : '' },
      onLine: (line) => resolve(`http://127.0.0.1:${(JSON.parse(line) as { port: number }).port}`),
    })
  })
  processes.start({ name: 'api', file: 'workers/api-server.ts', env: control })
  processes.start({ name: 'rotation-worker', file: 'workers/rotation-worker.ts', env: control })
  processes.start({ name: 'usage-collector', file: 'workers/usage-collector.ts', env: control })
  processes.start({ name: 'leak-listener', file: 'workers/leak-listener.ts', env: control })
  const ready = [untilReady(`${api}/readyz`, 'the API')]
  const gateways: string[] = []
  for (let i = 1; i <= GATEWAYS; i++) {
    const name = `gateway-${i}`
    const address = `127.0.0.1:${await getPort({ host: '127.0.0.1' })}`
    const env = {
      ...plain,
      ...kafka,
      KEYTURN_GATEWAY_ID: name,
      KEYTURN_KEK: kek,
      KEYTURN_GATEWAY_LISTEN: address,
      KEYTURN_GATEWAY_UPSTREAM: await upstream,
      KEYTURN_GATEWAY_USAGE_WINDOW: '500ms',
      KEYTURN_GATEWAY_HEARTBEAT: '1s',
      KEYTURN_GATEWAY_STALENESS: '10s',
      // No load balancer stands before them.
      KEYTURN_GATEWAY_DRAIN_NOTICE: '0s',
      KEYTURN_JWKS_URL: `${api}${JWKS_PATH}`,
      KEYTURN_GATEWAY_FALLBACK_URL: api,
      KEYTURN_GATEWAY_FALLBACK_TOKEN: gatewayToken,
      KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY: signing.publicKey,
    }
    processes.start({ name, file: 'gateway/src/main.ts', env })
    gateways.push(`http://${address}`)
    ready.push(untilReady(`http://${address}/readyz`, name))
  }
  await Promise.all(ready)
  return {
    api,
    token,
    console: stack.temporalUi ?? `${api}/openapi.json`,
    gateways,
    kafka: stack.kafkaBrokers,
    temporal: stack.temporalAddress,
    postgres: stack.postgresUrl,
  }
}
