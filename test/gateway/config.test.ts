import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError, loadConfig, VARIABLES } from '@keyturn/gateway'
import { expect, test } from 'vitest'

const LEAST = {
  KEYTURN_KAFKA_BROKERS: 'kafka-1:9092,kafka-2:9092',
  KEYTURN_GATEWAY_ID: 'gw-1',
  KEYTURN_GATEWAY_UPSTREAM: 'http://api:8000/v2/',
}

const complaint = (env: Record<string, string>): string => {
  try {
    loadConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error.message
  }
  return 'none'
}

test('three variables are enough', () => {
  expect(loadConfig(LEAST)).toMatchObject({
    kafkaBrokers: ['kafka-1:9092', 'kafka-2:9092'],
    gatewayId: 'gw-1',
    region: 'local',
    listen: { host: '127.0.0.1', port: 8081 },
    environments: ['prod'],
    failClosed: [],
    stalenessMs: 30_000,
    heartbeatMs: 3_000,
    usageWindowMs: 5_000,
    upstreamTimeoutMs: 60_000,
    clientTimeoutMs: 30_000,
    drainNoticeMs: 1_000,
    trustedProxies: 0,
    logLevel: 'info',
  })
  expect(loadConfig(LEAST).topics.keys).toBe('keyturn.keys.v1')
})

test('every variable has its effect', () => {
  const config = loadConfig({
    ...LEAST,
    KEYTURN_TOPIC_PREFIX: 'acme.',
    KEYTURN_GATEWAY_REGION: 'eu-1',
    KEYTURN_GATEWAY_LISTEN: '[::1]:0',
    KEYTURN_GATEWAY_OPS_LISTEN: '0.0.0.0:9000',
    KEYTURN_GATEWAY_UPSTREAM_TIMEOUT: 'PT2M',
    KEYTURN_GATEWAY_CLIENT_TIMEOUT: '10s',
    KEYTURN_GATEWAY_DRAIN_NOTICE: '0s',
    KEYTURN_GATEWAY_ENVIRONMENT: 'dev, test',
    KEYTURN_GATEWAY_SCOPES: 'api:use',
    KEYTURN_GATEWAY_ROUTES: '/orders=orders:read, POST /orders=orders:write',
    KEYTURN_GATEWAY_FAIL_CLOSED: 'trade:*, env:prod',
    KEYTURN_GATEWAY_STALENESS: '10s',
    KEYTURN_GATEWAY_HEARTBEAT: '500ms',
    KEYTURN_GATEWAY_USAGE_WINDOW: '1m',
    KEYTURN_GATEWAY_TRUST_PROXY: '2',
    KEYTURN_LOG_LEVEL: 'warn',
  })
  expect(config).toMatchObject({
    region: 'eu-1',
    listen: { host: '::1', port: 0 },
    opsListen: { host: '0.0.0.0', port: 9000 },
    upstreamTimeoutMs: 120_000,
    clientTimeoutMs: 10_000,
    drainNoticeMs: 0,
    environments: ['dev', 'test'],
    scopes: ['api:use'],
    routes: [
      { path: '/orders', scope: 'orders:read' },
      { method: 'POST', path: '/orders', scope: 'orders:write' },
    ],
    failClosed: ['trade:*', 'env:prod'],
    stalenessMs: 10_000,
    heartbeatMs: 500,
    usageWindowMs: 60_000,
    trustedProxies: 2,
    logLevel: 'warn',
  })
  expect(config.topics.usage).toBe('acme.keyturn.usage.v1')
})

test.each([
  ['KEYTURN_KAFKA_BROKERS', ''],
  ['KEYTURN_KAFKA_BROKERS', 'kafka'],
  ['KEYTURN_GATEWAY_ID', 'has spaces'],
  ['KEYTURN_GATEWAY_UPSTREAM', 'api:8000'],
  ['KEYTURN_GATEWAY_UPSTREAM', 'http://user:password@api'],
  ['KEYTURN_GATEWAY_ENVIRONMENT', 'production'],
  ['KEYTURN_GATEWAY_STALENESS', '30'],
  ['KEYTURN_GATEWAY_STALENESS', '10ms'],
  ['KEYTURN_GATEWAY_LISTEN', '127.0.0.1:99999'],
  ['KEYTURN_GATEWAY_SCOPES', 'orders:read,Orders write'],
  ['KEYTURN_GATEWAY_ROUTES', 'orders=orders:read'],
  ['KEYTURN_GATEWAY_ROUTES', '/orders=Orders'],
  ['KEYTURN_GATEWAY_ROUTES', '/orders'],
  ['KEYTURN_GATEWAY_ROUTES', 'post /orders=orders:write'],
  ['KEYTURN_GATEWAY_ROUTES', '/orders/:id=orders:read'],
  ['KEYTURN_GATEWAY_ROUTES', '/orders/*=orders:read'],
  ['KEYTURN_GATEWAY_CLIENT_TIMEOUT', '100ms'],
  ['KEYTURN_GATEWAY_FAIL_CLOSED', 'trade:*,env:production'],
  ['KEYTURN_GATEWAY_TRUST_PROXY', 'yes'],
  ['KEYTURN_LOG_LEVEL', 'loud'],
])('%s=%s is refused in a sentence that names the variable', (name, value) => {
  expect(complaint({ ...LEAST, [name]: value })).toMatch(new RegExp(`^${name}`))
})

test('all that is wrong is told at once, and no value that could be a secret is repeated', () => {
  const text = complaint({ KEYTURN_GATEWAY_ID: '-', KEYTURN_GATEWAY_UPSTREAM: 'http://user:hunter2@api' })
  expect(text.split('\n')).toHaveLength(3)
  expect(text).not.toContain('hunter2')
})

const publicPem = ({ publicKey }: { publicKey: KeyObject }): string =>
  publicKey.export({ type: 'spki', format: 'pem' }).toString()

test('the fallback: all of it or nothing, with the public half of an Ed25519 key', () => {
  const pair = generateKeyPairSync('ed25519')
  const publicKey = publicPem(pair)
  const privateKey = pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
  const NAME = 'KEYTURN_GATEWAY_FALLBACK_'
  const all = {
    [`${NAME}URL`]: 'http://keyturn:8080/',
    [`${NAME}TOKEN`]: 'sixteen-or-more-characters',
    [`${NAME}PUBLIC_KEY`]: publicKey,
  }
  expect(loadConfig(LEAST).fallback).toBeUndefined()
  expect(loadConfig({ ...LEAST, ...all }).fallback).toMatchObject({
    url: 'http://keyturn:8080',
    token: 'sixteen-or-more-characters',
  })
  for (const left of Object.keys(all)) expect(complaint({ ...LEAST, ...all, [left]: '' })).toContain('set all three, or none')
  const other = publicPem(generateKeyPairSync('x25519'))
  for (const wrong of [other, 'no key', privateKey]) {
    const text = complaint({ ...LEAST, ...all, [`${NAME}PUBLIC_KEY`]: wrong })
    expect(text).toMatch(/^KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY: no Ed25519 public key/)
    expect(text).not.toContain(wrong)
  }
  const file = complaint({ ...LEAST, ...all, [`${NAME}TOKEN`]: '', [`${NAME}TOKEN_FILE`]: '/nowhere' })
  expect(file).toContain(`${NAME}TOKEN_FILE can not be read (ENOENT)`)
})

test('the README documents every variable', () => {
  const readme = readFileSync(new URL('../../gateway/README.md', import.meta.url), 'utf8')
  for (const name of Object.keys(VARIABLES.properties)) expect(readme).toContain(`\`${name}\``)
})

test('replay protection: a window within bounds, and a Redis whose password is never repeated', () => {
  expect(loadConfig(LEAST).replay).toEqual({ windowMs: 60_000, capacity: 1_000_000, reorder: 16, failOpen: [], redis: undefined })
  const url = 'rediss://gateway:correct-horse@redis:6379/2'
  const { replay } = loadConfig({
    ...LEAST,
    KEYTURN_TOPIC_PREFIX: 'acme.',
    KEYTURN_REPLAY_WINDOW: '2m',
    KEYTURN_REPLAY_CAPACITY: '5000',
    KEYTURN_REPLAY_REORDER: '0',
    KEYTURN_REPLAY_FAIL_OPEN: 'read:*, status',
    KEYTURN_REDIS_URL: url,
    KEYTURN_REDIS_TIMEOUT: '50ms',
  })
  const redis = { url, prefix: 'acme.keyturn:replay:', timeoutMs: 50 }
  expect(replay).toEqual({ windowMs: 120_000, capacity: 5_000, reorder: 0, failOpen: ['read:*', 'status'], redis })
  for (const window of ['29s', '121s']) {
    expect(complaint({ ...LEAST, KEYTURN_REPLAY_WINDOW: window })).toBe('KEYTURN_REPLAY_WINDOW: 30s to 120s')
  }
  expect(complaint({ ...LEAST, KEYTURN_REPLAY_FAIL_OPEN: 'read:*,env:prod' })).toContain('"env:prod" is no scope pattern')
  const flaws = complaint({ ...LEAST, KEYTURN_REDIS_URL: 'http://correct-horse@redis', KEYTURN_REPLAY_REORDER: '32' })
  expect(flaws).toMatch(/KEYTURN_REPLAY_REORDER is not usable.*KEYTURN_REDIS_URL is not usable/s)
  expect(complaint({ ...LEAST, KEYTURN_REDIS_URL: 'redis://correct-horse:x' })).toBe('KEYTURN_REDIS_URL: not a URL')
  expect(flaws).not.toContain('horse')
})

test('signed requests: key-encryption keys as in the control plane, origins without a path, limits', () => {
  expect(loadConfig(LEAST).signing).toEqual({
    keks: [],
    publicUrls: [],
    bodyLimit: 1_048_576,
    bodyTimeoutMs: 30_000,
    unseenBodies: 'refuse',
  })
  const [first, second] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)]
  const both = [first, second].map((kek) => kek.toString('base64')).join(',')
  const { signing } = loadConfig({
    ...LEAST,
    KEYTURN_KEK: both,
    KEYTURN_GATEWAY_PUBLIC_URL: 'https://api.example.com, http://localhost:8080/',
    KEYTURN_GATEWAY_SIGNED_BODY: '5000',
    KEYTURN_GATEWAY_SIGNED_BODY_TIMEOUT: '2s',
    KEYTURN_GATEWAY_UNSEEN_BODIES: 'api-checks',
  })
  expect(signing).toEqual({
    keks: [first, second],
    publicUrls: ['https://api.example.com', 'http://localhost:8080/'],
    bodyLimit: 5_000,
    bodyTimeoutMs: 2_000,
    unseenBodies: 'api-checks',
  })
  const wrong = {
    'not 32 bytes in base64': 'c2hvcnQ=',
    'not 32 bytes': ',',
    'more than two': `${both},${Buffer.alloc(32, 3).toString('base64')}`,
    'the same key twice': `${first.toString('base64')},${first.toString('base64')}`,
    'KEYTURN_KEK_TRANSIT says who': 'vault:v1:c2hvcnQ=',
  }
  for (const [expected, value] of Object.entries(wrong)) {
    const text = complaint({ ...LEAST, KEYTURN_KEK: value })
    expect(text).toMatch(new RegExp(`^KEYTURN_KEK: .*${expected}`))
    expect(text).not.toContain('c2hvcnQ')
  }
  const file = join(mkdtempSync(join(tmpdir(), 'kek-')), 'kek')
  writeFileSync(file, both, { mode: 0o600 })
  expect(loadConfig({ ...LEAST, KEYTURN_KEK_FILE: file }).signing.keks).toEqual([first, second])
  chmodSync(file, 0o644)
  expect(complaint({ ...LEAST, KEYTURN_KEK_FILE: file })).toContain('others than its owner can read')
  for (const url of ['https://api.example.com/v1', 'ftp://api.example.com', 'api.example.com'])
    expect(complaint({ ...LEAST, KEYTURN_GATEWAY_PUBLIC_URL: url })).toMatch(/^KEYTURN_GATEWAY_PUBLIC_URL: .* is no URL/)
  expect(complaint({ ...LEAST, KEYTURN_GATEWAY_UNSEEN_BODIES: 'accept' })).toMatch(/^KEYTURN_GATEWAY_UNSEEN_BODIES is not usable/)
})
