/**
 * `npm run bench`: measures Keyturn beside its peers, on servers that it starts itself, or on those that are there already
 * (KEYTURN_POSTGRES_URL, KEYTURN_KAFKA_BROKERS, KEYTURN_TEMPORAL_ADDRESS).
 */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Stack, startStack } from '../infra/stack/index.ts'
import { VERSIONS } from '../infra/stack/versions.ts'
import { copyTemplate, dropDatabases } from '../test/support/databases.ts'
import { measureBaselines } from './baselines.ts'
import { measureClient, measureSwitch } from './client.ts'
import { measureFleet } from './fleet.ts'
import { type BenchHouse, openHouse } from './house.ts'
import { measureLeaks } from './leaks.ts'
import { measureLoad } from './load.ts'
import { measureNotifications } from './notifications.ts'
import { measurePolicies } from './policies.ts'
import { measureReplay } from './replay.ts'
import {
  baselinesReport,
  clientReport,
  fleetReport,
  leaksReport,
  loadReport,
  machine,
  notificationsReport,
  policiesReport,
  replayReport,
  requestsReport,
  revocationReport,
  rotationsReport,
  scanReport,
  signaturesReport,
  switchReport,
  verifyReport,
  withFigures,
} from './report.ts'
import { measureRequests } from './requests.ts'
import { measureRevocation } from './revocation.ts'
import { measureRotations } from './rotations.ts'
import { measureScan } from './scan.ts'
import { measureSignatures } from './signatures.ts'
import { measureVerify } from './verify.ts'

const README = fileURLToPath(new URL('./README.md', import.meta.url))

/** Each measure in the order in which they run: those that want the machine for themselves come first. */
const ALONE = {
  verify: async () => verifyReport(await measureVerify()),
  signatures: async () => signaturesReport(await measureSignatures()),
  client: async () => clientReport(await measureClient()),
  requests: async () => requestsReport(await measureRequests()),
  replay: async () => replayReport(await measureReplay()),
  scan: async () => scanReport(await measureScan()),
}
const WITH_KAFKA = { load: async ({ kafkaBrokers }: Stack) => loadReport(await measureLoad(kafkaBrokers)) }
const WITH_HOUSE = {
  baselines: async (house: BenchHouse) => baselinesReport(await measureBaselines(house)),
  revocation: async (house: BenchHouse) => revocationReport(await measureRevocation(house)),
  leaks: async (house: BenchHouse) => leaksReport(await measureLeaks(house)),
  fleet: async (house: BenchHouse) => fleetReport(await measureFleet(house)),
  switch: async (house: BenchHouse) => switchReport(await measureSwitch(house)),
  rotations: async (house: BenchHouse) => rotationsReport(await measureRotations(house)),
  notifications: async (house: BenchHouse) => notificationsReport(await measureNotifications(house)),
  policies: async (house: BenchHouse) => policiesReport(await measurePolicies(house)),
}
const NAMES = [...Object.keys(ALONE), ...Object.keys(WITH_KAFKA), ...Object.keys(WITH_HOUSE)]

const USAGE = `npm run bench -- [measure…] [--write]
  measure   ${NAMES.join(', ')}; all of them unless named
  --write   writes the figures into bench/README.md as well`

interface Options {
  readonly chosen: readonly string[]
  readonly write: boolean
}

/** What has to be undone at the end, however it comes; the last first. */
const cleanups: (() => Promise<unknown>)[] = []

async function main({ chosen, write }: Options): Promise<void> {
  const servers: string[] = []
  const run = async <Context>(
    measures: Readonly<Record<string, (context: Context) => Promise<string>>>,
    context: Context,
  ): Promise<void> => {
    for (const [name, measure] of Object.entries(measures)) {
      if (!chosen.includes(name)) continue
      process.stderr.write(`measuring: ${name}\n`)
      const report = `${machine(servers, new Date())}\n\n${await measure(context)}`
      process.stdout.write(`\n## ${name}\n\n${report}\n`)
      if (write) writeFileSync(README, withFigures(readFileSync(README, 'utf8'), name, report))
    }
  }
  await run(ALONE, undefined)
  if (!chosen.some((name) => !(name in ALONE))) return
  const stack = await startStack({ services: ['postgres', 'kafka', 'temporal'] })
  cleanups.push(() => stack.stop())
  servers.push(process.env['KEYTURN_KAFKA_BROKERS'] ? 'Kafka' : `Kafka ${VERSIONS.kafka.version}, one node`)
  await run(WITH_KAFKA, stack)
  if (!chosen.some((name) => name in WITH_HOUSE)) return
  const runName = `bench${randomBytes(4).toString('hex')}`
  cleanups.push(() => dropDatabases(stack.postgresUrl, runName))
  const house = await openHouse({ ...stack, postgresUrl: await copyTemplate(stack.postgresUrl, runName) })
  cleanups.push(() => house.close())
  servers.push(...(await house.versions()))
  await run(WITH_HOUSE, house)
}

function readOptions(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { write: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } },
  })
  if (values.help) {
    process.stdout.write(`${USAGE}\n`)
    process.exit(0)
  }
  const unknown = positionals.find((name) => !NAMES.includes(name))
  if (unknown !== undefined) throw new Error(`there is no measure ${unknown}`)
  return { chosen: positionals.length === 0 ? NAMES : positionals, write: values.write }
}

let options: Options
try {
  options = readOptions()
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`)
  process.exit(2)
}
const interrupted = new Promise<number>((resolve) => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve(130))
})
const failed = (error: unknown): number => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
  return 1
}
let code = await Promise.race([main(options).then(() => 0, failed), interrupted])
for (const cleanUp of cleanups.reverse()) await cleanUp().catch((error: unknown) => (code = failed(error)))
process.exit(code)
