/** The processes when servers are not there: they wait and say so, or give up with a sentence. */
import { randomBytes } from 'node:crypto'
import { randomBase62 } from '@keyturn/contract'
import getPort from 'get-port'
import { expect, inject, onTestFinished, test } from 'vitest'
import { type Forwarder, forwardKafka, forwardPostgres, forwardTemporal } from '../support/forwarder.ts'
import { eventually } from '../support/house.ts'
import { type Running, startProgram } from '../support/processes.ts'
import { createDatabase } from '../support/servers.ts'

const PROGRAMS = ['api-server', 'rotation-worker', 'usage-collector'] as const
type Program = (typeof PROGRAMS)[number]
const WITHIN_MS = 120_000

const settings = async (): Promise<Record<string, string>> => ({
  KEYTURN_POSTGRES_URL: await createDatabase(),
  KEYTURN_KAFKA_BROKERS: inject('kafkaBrokers').join(','),
  KEYTURN_TEMPORAL_ADDRESS: inject('temporalAddress'),
  KEYTURN_TASK_QUEUE: `keyturn-${randomBase62(8)}`,
  // Topics that nobody has made.
  KEYTURN_TOPIC_PREFIX: `t${randomBytes(6).toString('hex')}.`,
  KEYTURN_KEK: randomBytes(32).toString('base64'),
  KEYTURN_OPERATOR_TOKEN: randomBase62(32),
  KEYTURN_LISTEN: '127.0.0.1:0',
  KEYTURN_WORKFLOW_BUNDLE: inject('workflowBundle'),
})

function start(program: Program, env: Readonly<Record<string, string>>): Running {
  const running = startProgram(`workers/${program}.ts`, env)
  onTestFinished(() => running.kill())
  return running
}

/** What it logged, without the lines of libraries. */
const logOf = (running: Running): { level: number; msg: string; server?: string; where?: string; namespace?: string }[] =>
  running
    .output()
    .split('\n')
    .filter((line) => line.startsWith('{"level"'))
    .map((line) => JSON.parse(line) as { level: number; msg: string })

test('servers that come later are waited for, each is named in the log, and by the API PostgreSQL alone; topics that are missing are made; SIGTERM ends in good order', async () => {
  const env = await settings()
  const postgres = await forwardPostgres(env['KEYTURN_POSTGRES_URL'] ?? '')
  const [kafka, temporal] = await Promise.all([forwardKafka(), forwardTemporal()])
  const forwarders: Forwarder[] = [postgres, kafka, temporal]
  onTestFinished(() => {
    for (const forwarder of forwarders) forwarder.close()
  })
  for (const forwarder of forwarders) forwarder.cut()
  const port = await getPort({ host: '127.0.0.1' })
  const through = {
    ...env,
    KEYTURN_POSTGRES_URL: postgres.url,
    KEYTURN_KAFKA_BROKERS: kafka.address,
    KEYTURN_TEMPORAL_ADDRESS: temporal.address,
    KEYTURN_LISTEN: `127.0.0.1:${port}`,
    KEYTURN_STARTUP_WAIT: '10m',
  }
  const started = PROGRAMS.map((program) => start(program, through))
  const database = ['PostgreSQL', `${postgres.address}${new URL(postgres.url).pathname}`] as const
  const others = [
    ['Kafka', kafka.address],
    ['Temporal', temporal.address],
  ] as const
  for (const [i, running] of started.entries()) {
    const wanted = PROGRAMS[i] === 'api-server' ? [database] : [database, ...others]
    for (const [server] of wanted) await running.says(`"msg":"waiting for ${server}"`)
    const waiting = logOf(running).filter(({ msg }) => msg.startsWith('waiting for'))
    expect(new Set(waiting.map(({ server }) => server))).toEqual(new Set(wanted.map(([server]) => server)))
    for (const [server, where] of wanted)
      expect(waiting).toContainEqual(expect.objectContaining({ server, where, msg: `waiting for ${server}`, limitMs: 600_000 }))
    expect(running.child.exitCode).toBeNull()
  }
  postgres.restore()
  const api = `http://127.0.0.1:${port}`
  const [serving] = started
  await serving?.says('"msg":"running"')
  // Whoever must kill a key now can do it, and gateways hear of it from here.
  expect([(await fetch(`${api}/healthz`)).status, await (await fetch(`${api}/readyz`)).json()]).toEqual([
    200,
    { ready: false, postgres: 'ok', kafka: 'unavailable', temporal: 'unavailable' },
  ])
  const asOperator = { authorization: `Bearer ${env['KEYTURN_OPERATOR_TOKEN']}`, 'content-type': 'application/json' }
  const create = () => fetch(`${api}/v1/clients`, { method: 'POST', headers: asOperator, body: '{"name":"early"}' })
  expect((await create()).status).toBe(201)
  for (const forwarder of forwarders) forwarder.restore()
  for (const running of started) await running.says('"msg":"running"')
  await eventually(async () => (await fetch(`${api}/readyz`)).status === 200, 'the API to have all servers', WITHIN_MS)
  const gateways = await fetch(`${api}/v1/gateways`, { headers: asOperator })
  expect([gateways.status, await gateways.json()]).toMatchObject([200, { gateways: [] }])
  for (const running of started) running.child.kill('SIGTERM')
  for (const running of started) {
    expect([await running.ended, logOf(running).map(({ msg }) => msg)]).toEqual([
      'exit code 0',
      expect.arrayContaining(['running', 'stopping', 'stopped']),
    ])
    // Kafka's library has its own words for a Kafka that is away.
    expect(logOf(running).filter(({ level, namespace }) => level >= 50 && namespace === undefined)).toEqual([])
  }
  const password = new URL(postgres.url).password
  for (const secret of [password, env['KEYTURN_KEK'], env['KEYTURN_OPERATOR_TOKEN']])
    expect(started.map((running) => running.output()).join('')).not.toContain(secret)
}, 600_000)

/** Nobody listens there. */
const NOWHERE = '127.0.0.1:1'

test.concurrent.each<[program: Program, server: string, change: Record<string, string>, sentence: RegExp]>([
  [
    'api-server',
    'PostgreSQL',
    { KEYTURN_POSTGRES_URL: `postgres://keyturn:hidden@${NOWHERE}/registry` },
    /^PostgreSQL at 127\.0\.0\.1:1\/registry did not answer within 1s \(ECONNREFUSED\): start it, or set KEYTURN_POSTGRES_URL; KEYTURN_STARTUP_WAIT says how long to wait\.$/,
  ],
  [
    'usage-collector',
    'Kafka',
    { KEYTURN_KAFKA_BROKERS: NOWHERE },
    /^Kafka at 127\.0\.0\.1:1 did not answer within 1s.*: start it, or set KEYTURN_KAFKA_BROKERS; KEYTURN_STARTUP_WAIT says how long to wait\.$/,
  ],
  [
    'rotation-worker',
    'Temporal',
    { KEYTURN_TEMPORAL_ADDRESS: NOWHERE },
    /^Temporal at 127\.0\.0\.1:1 did not answer within 1s.*: start it, or set KEYTURN_TEMPORAL_ADDRESS; KEYTURN_STARTUP_WAIT says how long to wait\.$/,
  ],
  [
    'api-server',
    'the right password',
    { KEYTURN_POSTGRES_URL: '' },
    /^PostgreSQL at .* does not let us in \(28P01\): set user and password in KEYTURN_POSTGRES_URL\.$/,
  ],
])(
  '%s without %s gives up with exit code 1 and one sentence',
  async (program, _, change, sentence) => {
    const env = await settings()
    const locked = new URL(env['KEYTURN_POSTGRES_URL'] ?? '')
    locked.password = 'hidden'
    const url = change['KEYTURN_POSTGRES_URL'] === '' ? { KEYTURN_POSTGRES_URL: locked.href } : {}
    const running = startProgram(`workers/${program}.ts`, { ...env, KEYTURN_STARTUP_WAIT: '1s', ...change, ...url })
    expect(await running.ended).toBe('exit code 1')
    const said = running
      .output()
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('{"level"'))
    expect(said).toEqual([expect.stringMatching(sentence)])
    expect(running.output()).not.toContain('hidden')
  },
  WITHIN_MS,
)

test('signals while it waits end it at once', async () => {
  const running = start('usage-collector', { ...(await settings()), KEYTURN_KAFKA_BROKERS: NOWHERE, KEYTURN_STARTUP_WAIT: '10m' })
  await running.says('waiting for Kafka')
  running.child.kill('SIGTERM')
  expect(await running.ended).toBe('exit code 0')
})
