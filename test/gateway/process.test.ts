import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { decodeUsageEvent } from '@keyturn/contract'
import { expect, inject, onTestFinished, test } from 'vitest'
import { readTopic } from '../support/topics.ts'
import { issueHmac, KEK, signMessage } from './signatures/signing.ts'
import { eventually, issueKey, keyMessage, openBench } from './support.ts'

const PROGRAM = fileURLToPath(new URL('../../infra/program.mjs', import.meta.url))

interface Running {
  readonly child: ChildProcess
  output(): string
  /** Exit code, or the signal that ended it. */
  readonly ended: Promise<number | string | null>
}

function run(env: Record<string, string>): Running {
  const child = spawn(process.execPath, [PROGRAM, 'gateway/src/main.ts'], {
    env: { PATH: process.env['PATH'] ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => {
      output += data.toString()
    })
  }
  onTestFinished(() => void child.kill('SIGKILL'))
  const ended = once(child, 'exit').then(([code, signal]) => (code ?? signal) as number | string | null)
  return { child, output: () => output, ended }
}

/** On the servers of a test. */
const runOn = ({ prefix }: { readonly prefix: string }, env: Record<string, string>): Running =>
  run({
    KEYTURN_KAFKA_BROKERS: inject('kafkaBrokers').join(','),
    KEYTURN_TOPIC_PREFIX: prefix,
    KEYTURN_GATEWAY_ID: 'gw-process',
    KEYTURN_GATEWAY_LISTEN: '127.0.0.1:0',
    ...env,
  })

test('bad values: a sentence each and exit code 2', async () => {
  const gateway = run({ KEYTURN_GATEWAY_STALENESS: 'soon' })
  expect(await gateway.ended).toBe(2)
  expect(gateway.output()).toContain('KEYTURN_KAFKA_BROKERS is not set')
  expect(gateway.output()).toContain('KEYTURN_GATEWAY_STALENESS is not usable')
  expect(gateway.output()).not.toMatch(/^ +at /m)
})

test('a port in use: a sentence and exit code 1', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void taken.close())
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  const gateway = run({
    KEYTURN_KAFKA_BROKERS: '127.0.0.1:1',
    KEYTURN_GATEWAY_ID: 'gw-1',
    KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:1',
    KEYTURN_GATEWAY_LISTEN: `127.0.0.1:${port}`,
  })
  expect(await gateway.ended).toBe(1)
  expect(gateway.output()).toBe(
    `keyturn-gateway: Error: 127.0.0.1:${port} can not be listened on: another program listens there\n`,
  )
})

test('a key-encryption key that is none, or that nobody unwraps, keeps it from starting, and is not repeated', async () => {
  const least = { KEYTURN_KAFKA_BROKERS: '127.0.0.1:1', KEYTURN_GATEWAY_ID: 'gw', KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:1' }
  const secret = 'c2hvcnQgc2VjcmV0'
  const short = run({ ...least, KEYTURN_KEK: secret })
  const transit = {
    KEYTURN_KEK_TRANSIT: 'http://127.0.0.1:1/transit/kek',
    KEYTURN_KEK_TRANSIT_TOKEN: secret,
    KEYTURN_STARTUP_WAIT: '10ms',
  }
  const away = run({ ...least, KEYTURN_KEK: `vault:v1:${secret}`, ...transit })
  expect([await short.ended, await away.ended]).toEqual([2, 2])
  expect(short.output()).toContain('KEYTURN_KEK: not 32 bytes in base64')
  expect(away.output()).toContain('KEYTURN_KEK: the transit engine at 127.0.0.1:1 does not answer')
  expect(short.output() + away.output()).not.toContain(secret)
})

test('G5: serves, drains on SIGTERM with usage and tombstone sent, exits 0 in time; no token in its log, not at the finest level', async () => {
  const bench = await openBench()
  const [key, unknown, signer, sealedElsewhere] = [issueKey(), issueKey(), issueHmac(), issueHmac({}, randomBytes(32))]
  await bench.publish(...[key, signer, sealedElsewhere].map(({ record }) => keyMessage(record)))
  const api = createServer((_, response) => response.end('ok'))
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    api.close()
    api.closeAllConnections()
  })
  const address = api.address()
  if (address === null || typeof address === 'string') throw new Error('not a TCP address')
  const gateway = runOn(bench, {
    KEYTURN_GATEWAY_UPSTREAM: `http://127.0.0.1:${address.port}`,
    KEYTURN_GATEWAY_USAGE_WINDOW: '1h',
    KEYTURN_GATEWAY_DRAIN_NOTICE: '0s',
    KEYTURN_KEK: KEK.toString('base64'),
    KEYTURN_REPLAY_FAIL_OPEN: '*',
    KEYTURN_LOG_LEVEL: 'trace',
  })
  const url = await eventually(
    'it listens',
    () => /"url":"(http:[^"]+)"/.exec(gateway.output())?.[1],
    (it) => it !== undefined,
  )
  await eventually(
    'it is ready',
    async () => (await fetch(`${url}/readyz`)).status,
    (status) => status === 200,
  )
  const ask = async (headers: Record<string, string>) => (await fetch(`${url}/?key=x`, { headers })).status
  expect(await ask({ authorization: `Bearer ${key.token}`, 'user-agent': `bot ${key.token}` })).toBe(200)
  expect(await ask({ 'x-api-key': key.token })).toBe(200)
  expect(await ask({ 'x-api-key': unknown.token })).toBe(401)
  const signed = await signMessage(signer, { url: `${url}/?key=x` })
  expect([await ask({ ...signed, 'user-agent': `bot ${signer.token}` }), await ask(signed)]).toEqual([200, 401])
  expect(await ask(await signMessage(sealedElsewhere, { url: `${url}/?key=x` }))).toBe(503)
  await eventually('it says so', gateway.output, (output) => output.includes('UNOPENED'))

  const asked = performance.now()
  const before = gateway.output().length
  gateway.child.kill('SIGTERM')
  expect(await gateway.ended).toBe(0)
  // What its README promises. With nothing under way it takes about a second, which leaves a busy machine nine more.
  expect(performance.now() - asked).toBeLessThan(10_000)
  // Nothing is wrong: what it ends itself is no warning.
  const levels = [
    ...gateway
      .output()
      .slice(before)
      .matchAll(/"level":(\d+)/g),
  ].map(([, level]) => Number(level))
  expect(levels.length).toBeGreaterThan(0)
  expect(levels.filter((level) => level >= 40)).toEqual([])
  const tokens = [key, unknown, signer, sealedElsewhere].map(({ token }) => token)
  const secrets = tokens.flatMap((token) => [token, token.split('_')[3] ?? token]).concat(KEK.toString('base64'))
  const usage = await readTopic(bench.topics.usage)
  for (const secret of secrets) {
    expect(gateway.output()).not.toContain(secret)
    expect(JSON.stringify(usage)).not.toContain(secret)
  }
  const outcomes = usage
    .map(({ value }) => decodeUsageEvent(value ?? ''))
    .flatMap((decoded) => (decoded.ok ? [decoded.event.data] : []))
  const counts = Object.fromEntries(
    outcomes.map((report) => [report.keyId, report.outcomes.map(({ outcome, count }) => [outcome, count])]),
  )
  expect(counts).toEqual({
    [key.record.keyId]: [['accepted', 2]],
    [signer.record.keyId]: [
      ['accepted', 1],
      ['replayed', 1],
    ],
  })
  expect((await readTopic(bench.topics.gateways)).at(-1)).toMatchObject({ key: 'gw-process', value: undefined })
})

test('on SIGTERM it is not ready at once, and goes on serving until load balancers have seen that; a second one ends it', async () => {
  const bench = await openBench()
  const key = issueKey()
  await bench.publish(keyMessage(key.record))
  const gateway = runOn(bench, {
    KEYTURN_GATEWAY_OPS_LISTEN: '127.0.0.1:0',
    KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:1',
    KEYTURN_GATEWAY_DRAIN_NOTICE: '10m',
  })
  const [, url = '', opsUrl = ''] = await eventually(
    'it listens',
    () => /"url":"(http:[^"]+)","ops":"(http:[^"]+)"/.exec(gateway.output()) ?? [],
    ({ length }) => length > 0,
  )
  const readiness = async () => (await fetch(`${opsUrl}/readyz`)).status
  await eventually('it is ready', readiness, (status) => status === 200)
  gateway.child.kill('SIGTERM')
  await eventually('it is not', readiness, (status) => status === 503)
  const served = await fetch(url, { headers: { 'x-api-key': key.token } })
  expect([served.status, served.headers.get('connection')]).toEqual([502, 'close'])
  gateway.child.kill('SIGTERM')
  expect(await gateway.ended).toBe(1)
})

test('G3: stopped for longer than its bound and continued, it is stale at once', async () => {
  const bench = await openBench()
  const key = issueKey({ scopes: ['trade:write'] })
  await bench.publish(keyMessage(key.record))
  const gateway = runOn(bench, {
    KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:1',
    KEYTURN_GATEWAY_STALENESS: '1s',
    KEYTURN_GATEWAY_FAIL_CLOSED: 'trade:*',
  })
  const url = await eventually(
    'it listens',
    () => /"url":"(http:[^"]+)"/.exec(gateway.output())?.[1],
    (it) => it !== undefined,
  )
  const ask = async () => (await fetch(url ?? '', { headers: { 'x-api-key': key.token } })).status
  await eventually(
    'it is ready',
    async () => (await fetch(`${url}/readyz`)).status,
    (status) => status === 200,
  )
  await eventually('it decides', ask, (status) => status === 502)
  gateway.child.kill('SIGSTOP')
  const stoppedAt = performance.now()
  // The request is there before the process goes on.
  const waiting = ask()
  await eventually(
    'the bound has passed',
    () => performance.now() - stoppedAt,
    (ms) => ms > 1_100,
  )
  gateway.child.kill('SIGCONT')
  expect(await waiting).toBe(503)
  await eventually('it recovers', ask, (status) => status === 502)
})
