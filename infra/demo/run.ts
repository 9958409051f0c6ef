/**
 * `npm start`: the whole house on this machine, and one rotation under live traffic.
 *   --once       stop everything at the end; exit 0 only when nothing failed
 *   --roll-back  the API refuses the new key, so that the rotation rolls back on its own
 *   --json       the report as the last line
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type RotationStage, randomBase62, topicNames } from '@keyturn/contract'
import { isTerminal } from '@keyturn/contract/rotation'
import getPort from 'get-port'
import { createKafka } from '../../activities/kafka.ts'
import { migrate } from '../../registry/migrate.ts'
import { createLog } from '../log.ts'
import { type GuardedProcess, stopGuarded } from '../stack/guard.ts'
import { type Stack, startStack } from '../stack/index.ts'
import { ensureTopics } from '../topics.ts'
import { bundleWorkflows } from '../workflow-bundle.ts'
import { startProcess, untilReady } from './processes.ts'
import { type DemoReport, printReport } from './report.ts'

const STATE = fileURLToPath(new URL('../../.keyturn', import.meta.url))
const LOGS = join(STATE, 'logs')
const GATEWAYS = 3
const CONNECTIONS = 12
const REQUESTS_PER_SECOND = 300
/** How much later than the others one connection switches: what monitoring visibly waits for. */
const SLOW_MS = 6_000
const WINDOWS = { overlap: '2m', quietPeriod: '3s', regretWindow: '3s' } as const

const USAGE = `npm start -- [--once] [--roll-back] [--json]
  --once       stop everything at the end; exit 0 only when nothing failed
  --roll-back  the API refuses the new key: the rotation rolls back on its own
  --json       print the report as JSON, as the last line`

interface Options {
  readonly once: boolean
  readonly rollBack: boolean
  readonly json: boolean
}

interface Local {
  readonly api: string
  readonly token: string
  readonly console: string
  readonly gateways: string[]
  readonly kafka: string[]
  readonly temporal: string
  readonly postgres: string
}

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

async function main(options: Options): Promise<number> {
  const processes: GuardedProcess[] = []
  let stack: Stack | undefined
  const stopAll = async (): Promise<void> => {
    rmSync(join(STATE, 'local.json'), { force: true })
    // Clients first, then what they call.
    for (const guarded of processes.reverse()) await stopGuarded(guarded)
    await stack?.stop()
  }
  let asked = false
  const interrupted = new Promise<'interrupted'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (asked) process.exit(130)
        asked = true
        resolve('interrupted')
      })
    }
  })
  try {
    const work = async (): Promise<DemoReport> => {
      const [started, bundle] = await Promise.all([
        startStack({ services: ['postgres', 'kafka', 'temporal'] }),
        bundleWorkflows(STATE),
      ])
      stack = started
      const house = await startHouse(started, bundle, options, processes)
      return rotateUnderTraffic(house, options, processes)
    }
    const report = await Promise.race([work(), interrupted])
    if (report === 'interrupted') return 130
    printReport(report, say)
    if (!options.once) {
      say('\nrunning on: .keyturn/local.json holds the addresses; Ctrl-C stops everything')
      if (options.json) say(JSON.stringify(report))
      await interrupted
      return 0
    }
    await stopAll()
    if (options.json) say(JSON.stringify(report))
    return report.ok ? 0 : 1
  } finally {
    await stopAll()
  }
}

/** Starts our own processes on the servers, and writes down where everything is. */
async function startHouse(stack: Stack, bundle: string, options: Options, processes: GuardedProcess[]): Promise<Local> {
  const token = randomBase62(43)
  const topics = topicNames()
  await Promise.all([
    migrate(stack.postgresUrl),
    ensureTopics(createKafka(stack.kafkaBrokers, 'keyturn-start', createLog('start', 'error')), topics),
  ])
  const apiPort = await getPort({ host: '127.0.0.1' })
  const api = `http://127.0.0.1:${apiPort}`
  const env = {
    KEYTURN_POSTGRES_URL: stack.postgresUrl,
    KEYTURN_KAFKA_BROKERS: stack.kafkaBrokers.join(','),
    KEYTURN_TEMPORAL_ADDRESS: stack.temporalAddress,
    KEYTURN_KEK: randomBytes(32).toString('base64'),
    KEYTURN_OPERATOR_TOKEN: token,
    KEYTURN_LISTEN: `127.0.0.1:${apiPort}`,
    KEYTURN_PUBLIC_URL: api,
    KEYTURN_WORKFLOW_BUNDLE: bundle,
    KEYTURN_COLLECTOR_INTERVAL: '300ms',
  }
  const start = (
    name: string,
    file: string,
    more: Record<string, string> = {},
    onLine?: (line: string) => void,
  ): GuardedProcess => {
    const guarded = startProcess({
      name,
      file,
      env: { ...env, ...more },
      logDirectory: LOGS,
      ...(onLine === undefined ? {} : { onLine }),
    })
    processes.push(guarded)
    return guarded
  }
  const upstream = await new Promise<string>((resolve, reject) => {
    const sample = start(
      'sample-api',
      'infra/demo/sample-api.ts',
      { SAMPLE_API_REFUSES_NEW_KEYS: options.rollBack ? '1' : '' },
      (line) => resolve(`http://127.0.0.1:${(JSON.parse(line) as { port: number }).port}`),
    )
    sample.child.once('exit', (code) => reject(new Error(`the sample API ended with code ${code}`)))
  })
  const server = start('api', 'workers/api-server.ts')
  start('rotation-worker', 'workers/rotation-worker.ts')
  start('usage-collector', 'workers/usage-collector.ts')
  const gateways: string[] = []
  const ready: Promise<void>[] = [untilReady(`${api}/readyz`, server, 'api')]
  for (let i = 1; i <= GATEWAYS; i++) {
    const port = await getPort({ host: '127.0.0.1' })
    const name = `gateway-${i}`
    const gateway = start(name, 'gateway/src/main.ts', {
      KEYTURN_GATEWAY_ID: name,
      KEYTURN_GATEWAY_LISTEN: `127.0.0.1:${port}`,
      KEYTURN_GATEWAY_UPSTREAM: upstream,
      KEYTURN_GATEWAY_USAGE_WINDOW: '500ms',
      KEYTURN_GATEWAY_HEARTBEAT: '1s',
    })
    gateways.push(`http://127.0.0.1:${port}`)
    ready.push(untilReady(`http://127.0.0.1:${port}/readyz`, gateway, name))
  }
  await Promise.all(ready)
  const local: Local = {
    api,
    token,
    console: stack.temporalUi ?? `${api}/openapi.json`,
    gateways,
    kafka: [...stack.kafkaBrokers],
    temporal: stack.temporalAddress,
    postgres: stack.postgresUrl,
  }
  mkdirSync(STATE, { recursive: true })
  writeFileSync(join(STATE, 'local.json'), `${JSON.stringify(local, null, 2)}\n`, { mode: 0o600 })
  return local
}

/** One credential, clients that call all the time, one rotation. */
async function rotateUnderTraffic(local: Local, options: Options, processes: GuardedProcess[]): Promise<DemoReport> {
  const call = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const response = await fetch(local.api + path, {
      method,
      headers: { authorization: `Bearer ${local.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const answer = (await response.json()) as T & { detail?: string }
    if (!response.ok)
      throw new Error(`${method} ${path.replace(/claims\/.*/, 'claims/…')}: ${response.status} ${answer.detail ?? ''}`)
    return answer
  }
  const { clientId } = await call<{ clientId: string }>('POST', '/v1/clients', { name: 'Acme Trading' })
  const { credentialId, claim } = await call<{ credentialId: string; claim: string }>(
    'POST',
    `/v1/clients/${clientId}/credentials`,
    {
      name: 'price-feed',
      environment: 'prod',
      scopes: ['read:prices'],
    },
  )
  const { token } = await call<{ token: string }>('POST', `/v1/claims/${claim}`, {})

  let counts = { requests: 0, failed: 0, withNewKey: 0, repeatedWithOldKey: 0 }
  const clients = startProcess({
    name: 'clients',
    file: 'infra/demo/sample-clients.ts',
    logDirectory: LOGS,
    input: JSON.stringify({
      gateways: local.gateways,
      api: local.api,
      token,
      connections: CONNECTIONS,
      requestsPerSecond: REQUESTS_PER_SECOND,
      slowMs: SLOW_MS,
    }),
    onLine: (line) => {
      const counted = JSON.parse(line) as Partial<typeof counts> & { note?: string }
      if (counted.note === undefined) counts = { ...counts, ...counted }
      else say(`  clients: ${counted.note}`)
    },
  })
  processes.push(clients)
  while (counts.requests < REQUESTS_PER_SECOND) await pause(100)
  say(`clients call ${local.gateways.length} gateways: ${CONNECTIONS} connections, ${REQUESTS_PER_SECOND} requests a second`)

  const { rotationId } = await call<{ rotationId: string }>('POST', `/v1/credentials/${credentialId}/rotations`, {
    trigger: 'manual',
    reason: 'npm start',
    ...WINDOWS,
  })
  const rotation = await follow(() => call<RotationView>('GET', `/v1/rotations/${rotationId}`), counts)
  // A little traffic after the end, too: whatever was broken shows now.
  await pause(1_000)
  await stopGuarded(clients)
  const expected: RotationStage = options.rollBack ? 'rolled-back' : 'completed'
  const ok = rotation.stage === expected && counts.failed === 0 && counts.requests > 0
  return {
    rotationId,
    credentialId,
    stage: rotation.stage,
    timeline: rotation.timeline,
    receipts: rotation.receipts,
    ...counts,
    ok,
  }
}

type RotationView = Pick<DemoReport, 'timeline' | 'receipts'> & {
  readonly stage: RotationStage
  readonly stragglers?: readonly { userAgent: string }[]
  readonly evidence?: { readonly stragglers: readonly { userAgent: string; lastAt: string }[] }
}

/** Prints each stage as it comes, and in monitoring who is still waited for. */
async function follow(read: () => Promise<RotationView>, _counts: unknown): Promise<RotationView> {
  let shown = 0
  let waitedFor = ''
  for (;;) {
    const rotation = await read()
    for (const { stage, reason } of rotation.timeline.slice(shown)) say(`  ${stage}${reason === undefined ? '' : `: ${reason}`}`)
    shown = rotation.timeline.length
    if (isTerminal(rotation.stage)) return rotation
    const recent = (rotation.evidence?.stragglers ?? []).filter(({ lastAt }) => Date.now() - Date.parse(lastAt) < 3_000)
    const names = [...new Set(recent.map(({ userAgent }) => userAgent))].sort().join(', ')
    if (rotation.stage === 'monitoring' && names !== waitedFor && names !== '') say(`    still uses the old key: ${names}`)
    waitedFor = names
    await pause(250)
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

let options: Options
try {
  const { values } = parseArgs({
    options: {
      once: { type: 'boolean' },
      'roll-back': { type: 'boolean' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) {
    say(USAGE)
    process.exit(0)
  }
  options = { once: values.once ?? false, rollBack: values['roll-back'] ?? false, json: values.json ?? false }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : 'unknown option'}\n\n${USAGE}\n`)
  process.exit(2)
}
try {
  process.exitCode = await main(options)
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
