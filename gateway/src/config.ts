/** The configuration of a gateway process, read here and nowhere else, from the environment. `VARIABLES` documents each variable. */
import { createPublicKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { BlockList } from 'node:net'
import {
  DURATION_PATTERN,
  ENVIRONMENTS,
  type Environment,
  GATEWAY_ID_PATTERN,
  isScope,
  KEK_SOURCES,
  othersCanRead,
  parseDuration,
  parseKeks,
  type TopicNames,
  topicNames,
  withUnwrappedKeks,
} from '@keyturn/contract'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { isFailClosedPattern } from './fail-closed.ts'
import type { FallbackAddress } from './fallback.ts'
import type { GatewayOptions } from './gateway.ts'
import { parseOrigin } from './public-address.ts'
import type { ReplaySettings } from './replay/create.ts'
import { addressList } from './restriction.ts'
import { parseRoute, type Route } from './routes.ts'
import type { HostAndPort } from './server.ts'
import type { SigningSettings } from './signatures/settings.ts'

const HOST_PORT = '^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9._-]+):\\d{1,5}$'
const LIST = '^[^,]*(,[^,]*)*$'
const ONE_ENVIRONMENT = `\\s*(${ENVIRONMENTS.join('|')})\\s*`
const duration = (description: string, byDefault: string) =>
  Type.String({ pattern: DURATION_PATTERN, default: byDefault, description: `${description} (a duration like ${byDefault})` })

/** Every variable, what it means and what it looks like. An empty one counts as not set. */
export const VARIABLES = Type.Object({
  KEYTURN_KAFKA_BROKERS: Type.String({
    pattern: '^[^,\\s]+:\\d{1,5}(,[^,\\s]+:\\d{1,5})*$',
    description: 'Kafka: host:port, more than one with commas',
  }),
  KEYTURN_TOPIC_PREFIX: Type.String({
    pattern: '^[A-Za-z0-9._-]{0,100}$',
    default: '',
    description: 'before every topic name, on a cluster that others use too',
  }),
  KEYTURN_GATEWAY_ID: Type.String({
    pattern: GATEWAY_ID_PATTERN,
    description: 'the name of this gateway, of no other, and the same after a restart: a host name, say',
  }),
  KEYTURN_GATEWAY_REGION: Type.String({ maxLength: 64, default: 'local', description: 'where it runs, for people' }),
  KEYTURN_GATEWAY_LISTEN: Type.String({
    pattern: HOST_PORT,
    default: '127.0.0.1:8081',
    description: 'where requests arrive: host:port; port 0 takes a free one',
  }),
  KEYTURN_GATEWAY_OPS_LISTEN: Type.Optional(
    Type.String({
      pattern: HOST_PORT,
      description: 'host:port of its own for /healthz, /readyz and /metrics; otherwise they hide these three paths of the API',
    }),
  ),
  KEYTURN_GATEWAY_MODE: Type.Enum(['proxy', 'auth'], {
    default: 'proxy',
    description: 'proxy: a reverse proxy; auth: the server that nginx, Caddy or HAProxy asks; the first argument says the same',
  }),
  KEYTURN_GATEWAY_UPSTREAM: Type.Optional(
    Type.String({
      pattern: '^https?://[^\\s?#@]+$',
      description: 'the API behind: http(s)://host:port, with a path that comes before every request’s if need be',
    }),
  ),
  KEYTURN_GATEWAY_ASKERS: Type.String({
    pattern: LIST,
    default: '127.0.0.1,::1',
    description: 'in mode auth: the proxies that are believed on what they ask about: addresses and CIDR blocks, with commas',
  }),
  KEYTURN_GATEWAY_BAD_TOKENS: Type.String({
    pattern: '^\\d{1,6}$',
    default: '20',
    description: 'so many bad tokens a second of one address before their refusals are held back for a second; 0: no limit',
  }),
  KEYTURN_GATEWAY_UPSTREAM_TIMEOUT: duration('how long the API may take to answer, or to send its next bytes', '60s'),
  KEYTURN_GATEWAY_CLIENT_TIMEOUT: duration(
    'how long a client may take for the head of a request; its body comes at 100 bytes a second at least, over this time',
    '30s',
  ),
  KEYTURN_GATEWAY_DRAIN_NOTICE: duration(
    'how long it goes on taking requests after SIGTERM while /readyz says 503 already, so that load balancers see it first; 0s: not at all',
    '1s',
  ),
  KEYTURN_GATEWAY_ENVIRONMENT: Type.String({
    pattern: `^${ONE_ENVIRONMENT}(,${ONE_ENVIRONMENT})*$`,
    default: 'prod',
    description: 'whose keys are accepted: dev, test, prod, more than one with commas',
  }),
  KEYTURN_GATEWAY_SCOPES: Type.String({
    pattern: LIST,
    default: '',
    description: 'in mode proxy: what a key must have for any request: scopes like orders:read with commas, all of them',
  }),
  KEYTURN_GATEWAY_ROUTES: Type.String({
    pattern: LIST,
    default: '',
    description:
      'in mode proxy: what a key must have by path, beside that: POST /orders=orders:write, with commas; for every path that begins so, whatever the method where none is named',
  }),
  KEYTURN_GATEWAY_FAIL_CLOSED: Type.String({
    pattern: LIST,
    default: '',
    description: 'what is refused while the gateway is stale: scope patterns and environments with commas, like trade:*,env:prod',
  }),
  KEYTURN_GATEWAY_STALENESS: duration('stale when nothing was heard from Kafka for so long', '30s'),
  KEYTURN_GATEWAY_HEARTBEAT: duration('it reports where it stands at least so often', '3s'),
  KEYTURN_GATEWAY_USAGE_WINDOW: duration('usage is counted and reported in windows of this length', '5s'),
  KEYTURN_GATEWAY_FALLBACK_URL: Type.Optional(
    Type.String({
      pattern: '^https?://[^\\s?#@]+$',
      description: 'the control plane’s API, asked for keys that have ended while Kafka is silent; with the two that follow',
    }),
  ),
  KEYTURN_GATEWAY_FALLBACK_TOKEN: Type.Optional(
    Type.String({ pattern: '^[\\x21-\\x7e]{16,}$', description: 'the control plane’s KEYTURN_GATEWAY_TOKEN' }),
  ),
  KEYTURN_GATEWAY_FALLBACK_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY: Type.Optional(
    Type.String({ description: 'the public half (PEM) of the control plane’s KEYTURN_SIGNING_KEY' }),
  ),
  KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_JWKS_URL: Type.Optional(
    Type.String({
      // Whoever can stand between could bring keys of their own.
      pattern: '^(https://[^\\s@]+|http://(127[.]0[.]0[.]1|localhost|\\[::1\\])[:/][^\\s@]*)$',
      description:
        'the control plane’s /.well-known/jwks.json, https unless it is on this machine: the keys of session tokens; without it there are none',
    }),
  ),
  KEYTURN_KEK: Type.Optional(
    Type.String({
      description:
        'what the signing keys of HMAC keys are opened with, as in the control plane: 32 bytes in base64; two with a comma while one is being replaced',
    }),
  ),
  ...KEK_SOURCES,
  KEYTURN_STARTUP_WAIT: duration('how long to wait at the start for a transit engine that is not there yet', '60s'),
  KEYTURN_GATEWAY_PUBLIC_URL: Type.String({
    pattern: LIST,
    default: '',
    description:
      'where clients find the API, https://api.example.com, more than one with commas: what signatures are made over; otherwise as requests say it',
  }),
  KEYTURN_GATEWAY_SIGNED_BODY: Type.String({
    pattern: '^[1-9]\\d{2,7}$',
    default: '1048576',
    description: 'the largest body of a signed request, in bytes: 100 to 99999999; its digest is compared before it is passed on',
  }),
  KEYTURN_GATEWAY_SIGNED_BODY_TIMEOUT: duration('for how long such a body may take to arrive', '30s'),
  KEYTURN_GATEWAY_UNSEEN_BODIES: Type.Enum(['refuse', 'api-checks'], {
    default: 'refuse',
    description:
      'in mode auth: refuse signed requests that may have a body; or api-checks: their Content-Digest is signed, and the API promises to compare it',
  }),
  KEYTURN_REPLAY_WINDOW: duration('for how long a signed request is valid: 30s to 120s', '60s'),
  KEYTURN_REPLAY_CAPACITY: Type.String({
    pattern: '^[1-9]\\d{2,7}$',
    default: '1000000',
    description: 'how many nonces this process remembers at most: 100 to 99999999; when it is full it refuses',
  }),
  KEYTURN_REPLAY_REORDER: Type.String({
    pattern: '^([0-9]|[12][0-9]|3[01])$',
    default: '16',
    description: 'how far a sequence number may be behind the highest of its key: 0 to 31',
  }),
  KEYTURN_REPLAY_FAIL_OPEN: Type.String({
    pattern: LIST,
    default: '',
    description:
      'scope patterns with commas: keys that can do nothing else are served even while nobody can tell what was accepted before',
  }),
  KEYTURN_REDIS_URL: Type.Optional(
    Type.String({
      pattern: '^rediss?://[^\\s]+$',
      description:
        'the Redis in which gateways remember nonces together: redis(s)://user:password@host:6379; without it, one gateway',
    }),
  ),
  KEYTURN_REDIS_URL_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_REDIS_TIMEOUT: duration('how long Redis may take to answer', '200ms'),
  KEYTURN_GATEWAY_TRUST_PROXY: Type.String({
    pattern: '^(true|false|\\d{1,2})$',
    default: 'false',
    description: 'how many proxies before it are believed on X-Forwarded-For; true means 1',
  }),
  KEYTURN_LOG_LEVEL: Type.Enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], {
    default: 'info',
    description: 'trace, debug, info, warn, error, fatal or silent',
  }),
})
type Variables = Type.Static<typeof VARIABLES>
const validator = Compile(VARIABLES)

export interface GatewayConfig {
  readonly kafkaBrokers: readonly string[]
  readonly topics: TopicNames
  readonly gatewayId: string
  readonly region: string
  readonly listen: HostAndPort
  readonly opsListen: HostAndPort | undefined
  /** The API behind; nothing in mode auth. */
  readonly upstream: URL | undefined
  readonly askers: BlockList
  readonly badTokensPerSecond: number
  readonly upstreamTimeoutMs: number
  readonly clientTimeoutMs: number
  readonly drainNoticeMs: number
  readonly environments: readonly Environment[]
  readonly scopes: readonly string[]
  readonly routes: readonly Route[]
  readonly failClosed: readonly string[]
  readonly stalenessMs: number
  readonly heartbeatMs: number
  readonly usageWindowMs: number
  readonly trustedProxies: number
  readonly fallback: FallbackAddress | undefined
  readonly jwksUrl: string | undefined
  readonly replay: ReplaySettings
  readonly signing: SigningSettings
  readonly logLevel: string
}

/** What is wrong with the environment, a line each, for whoever starts the process. Never quotes a value. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

const list = (text: string): string[] =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')

function hostAndPort(text: string): HostAndPort {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) }
}

function isOrigin(url: string): boolean {
  try {
    const { scheme, authority } = parseOrigin(url)
    return new URL(url).href === `${scheme}://${authority}/`
  } catch {
    return false
  }
}

/** What only a second look shows, by variable. */
function* secondLook(config: GatewayConfig): Generator<string> {
  const ports = { KEYTURN_GATEWAY_LISTEN: config.listen, KEYTURN_GATEWAY_OPS_LISTEN: config.opsListen }
  for (const [name, value] of Object.entries(ports)) if ((value?.port ?? 0) > 65_535) yield `${name}: a port is at most 65535`
  const wrong = config.failClosed.find((pattern) => !isFailClosedPattern(pattern))
  if (wrong !== undefined) {
    yield `KEYTURN_GATEWAY_FAIL_CLOSED: "${wrong.slice(0, 60)}" is neither a scope pattern like trade:* nor env:dev, env:test, env:prod`
  }
  const noScope = config.scopes.find((scope) => !isScope(scope))
  if (noScope !== undefined) yield `KEYTURN_GATEWAY_SCOPES: "${noScope.slice(0, 60)}" is no scope: write it like orders:read`
  const unclear = config.replay.failOpen.find((pattern) => !isFailClosedPattern(pattern) || pattern.startsWith('env:'))
  if (unclear !== undefined) yield `KEYTURN_REPLAY_FAIL_OPEN: "${unclear.slice(0, 60)}" is no scope pattern like read:*`
  if (config.replay.windowMs < 30_000 || config.replay.windowMs > 120_000) yield 'KEYTURN_REPLAY_WINDOW: 30s to 120s'
  for (const url of config.signing.publicUrls) {
    if (!isOrigin(url))
      yield `KEYTURN_GATEWAY_PUBLIC_URL: "${url.slice(0, 60)}" is no URL like https://api.example.com, without a path`
  }
  if (config.jwksUrl !== undefined && !URL.canParse(config.jwksUrl)) yield 'KEYTURN_JWKS_URL: not a URL'
  if (config.replay.redis !== undefined && !URL.canParse(config.replay.redis.url)) yield 'KEYTURN_REDIS_URL: not a URL'
  const least = {
    KEYTURN_GATEWAY_STALENESS: [config.stalenessMs, 1_000],
    KEYTURN_GATEWAY_HEARTBEAT: [config.heartbeatMs, 100],
    KEYTURN_GATEWAY_USAGE_WINDOW: [config.usageWindowMs, 100],
    KEYTURN_GATEWAY_UPSTREAM_TIMEOUT: [config.upstreamTimeoutMs, 100],
    KEYTURN_GATEWAY_CLIENT_TIMEOUT: [config.clientTimeoutMs, 1_000],
    KEYTURN_GATEWAY_SIGNED_BODY_TIMEOUT: [config.signing.bodyTimeoutMs, 100],
  } as const
  for (const [name, [value, minimum]] of Object.entries(least)) if (value < minimum) yield `${name}: at least ${minimum}ms`
}

const IN_FILES = [
  'KEYTURN_GATEWAY_FALLBACK_TOKEN',
  'KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY',
  'KEYTURN_REDIS_URL',
  'KEYTURN_KEK',
  'KEYTURN_KEK_TRANSIT_TOKEN',
]

/** Each of those that may stand in a file: from there. */
function readFiles(given: Record<string, string>, flaws: Set<string>): void {
  for (const name of IN_FILES) {
    const file = given[`${name}_FILE`]
    if (file === undefined) continue
    if (given[name] !== undefined) flaws.add(`${name} and ${name}_FILE: both are set; keep one`)
    try {
      given[name] = readFileSync(file, 'utf8').trim()
    } catch (error) {
      flaws.add(`${name}_FILE can not be read (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
    }
  }
}

const readReplay = (read: Variables): ReplaySettings => ({
  windowMs: parseDuration(read.KEYTURN_REPLAY_WINDOW),
  capacity: Number(read.KEYTURN_REPLAY_CAPACITY),
  reorder: Number(read.KEYTURN_REPLAY_REORDER),
  failOpen: list(read.KEYTURN_REPLAY_FAIL_OPEN),
  redis:
    read.KEYTURN_REDIS_URL === undefined
      ? undefined
      : {
          url: read.KEYTURN_REDIS_URL,
          prefix: `${read.KEYTURN_TOPIC_PREFIX}keyturn:replay:`,
          timeoutMs: parseDuration(read.KEYTURN_REDIS_TIMEOUT),
        },
})

/** Whoever has a key-encryption key can sign as any client. */
function readSigning(read: Variables): SigningSettings {
  const file = read.KEYTURN_KEK_FILE
  const { keks, flaws } = parseKeks(read.KEYTURN_KEK ?? '', 'KEYTURN_KEK')
  const open = file !== undefined && othersCanRead(file)
  const wrong = open ? [...flaws, 'KEYTURN_KEK_FILE: others than its owner can read the file; `chmod 600` it'] : flaws
  if (wrong.length > 0) throw new ConfigError(wrong.join('\n'))
  return {
    keks,
    publicUrls: list(read.KEYTURN_GATEWAY_PUBLIC_URL),
    bodyLimit: Number(read.KEYTURN_GATEWAY_SIGNED_BODY),
    bodyTimeoutMs: parseDuration(read.KEYTURN_GATEWAY_SIGNED_BODY_TIMEOUT),
    unseenBodies: read.KEYTURN_GATEWAY_UNSEEN_BODIES as SigningSettings['unseenBodies'],
  }
}

/** All three, or none. */
function readFallback(read: Variables): FallbackAddress | undefined {
  const { KEYTURN_GATEWAY_FALLBACK_URL: url, KEYTURN_GATEWAY_FALLBACK_TOKEN: token } = read
  const pem = read.KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY
  if (url === undefined && token === undefined && pem === undefined) return undefined
  if (url === undefined || token === undefined || pem === undefined)
    throw new ConfigError('KEYTURN_GATEWAY_FALLBACK_URL, _TOKEN and _PUBLIC_KEY: set all three, or none')
  try {
    const publicKey = createPublicKey(pem)
    if (publicKey.asymmetricKeyType === 'ed25519' && !pem.includes('PRIVATE'))
      return { url: url.replace(/\/+$/, ''), token, publicKey }
  } catch {
    // What it says may quote what it was given.
  }
  throw new ConfigError(
    'KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY: no Ed25519 public key in PEM; `openssl pkey -in signing.pem -pubout` makes it of the private one',
  )
}

function readAskers(read: Variables): BlockList {
  try {
    return addressList(list(read.KEYTURN_GATEWAY_ASKERS))
  } catch (error) {
    throw new ConfigError(`KEYTURN_GATEWAY_ASKERS: ${(error as RangeError).message}`)
  }
}

function readRoutes(read: Variables): Route[] {
  return list(read.KEYTURN_GATEWAY_ROUTES).map((text) => {
    const route = parseRoute(text)
    if (route !== undefined) return route
    throw new ConfigError(
      `KEYTURN_GATEWAY_ROUTES: "${text.slice(0, 60)}" is no route: write it like /orders=orders:read or POST /orders=orders:write`,
    )
  })
}

/** @throws ConfigError that names every variable that is missing or wrong */
export function loadConfig(env: Readonly<Record<string, string | undefined>> = process.env): GatewayConfig {
  const given: Record<string, string> = {}
  for (const [name, schema] of Object.entries(VARIABLES.properties)) {
    const value = env[name]?.trim()
    if (value !== undefined && value !== '') given[name] = value
    else if ('default' in schema && typeof schema.default === 'string') given[name] = schema.default
  }
  const meaning = (name: string): string => {
    const schema: object = VARIABLES.properties[name as keyof Variables]
    return 'description' in schema && typeof schema.description === 'string' ? schema.description : ''
  }
  const flaws = new Set<string>()
  readFiles(given, flaws)
  const required = [...VARIABLES.required, ...(given['KEYTURN_GATEWAY_MODE'] === 'auth' ? [] : ['KEYTURN_GATEWAY_UPSTREAM'])]
  for (const name of required) if (given[name] === undefined) flaws.add(`${name} is not set: ${meaning(name)}`)
  if (!validator.Check(given)) {
    for (const error of validator.Errors(given)) {
      const name = error.instancePath.slice(1)
      if (name in VARIABLES.properties) {
        flaws.add(`${name} is not usable: ${meaning(name)}`)
      }
    }
  }
  if (flaws.size > 0) throw new ConfigError([...flaws].join('\n'))
  const read = given as unknown as Variables
  const hops = read.KEYTURN_GATEWAY_TRUST_PROXY
  const config: GatewayConfig = {
    kafkaBrokers: list(read.KEYTURN_KAFKA_BROKERS),
    topics: topicNames(read.KEYTURN_TOPIC_PREFIX),
    gatewayId: read.KEYTURN_GATEWAY_ID,
    region: read.KEYTURN_GATEWAY_REGION,
    listen: hostAndPort(read.KEYTURN_GATEWAY_LISTEN),
    opsListen: read.KEYTURN_GATEWAY_OPS_LISTEN === undefined ? undefined : hostAndPort(read.KEYTURN_GATEWAY_OPS_LISTEN),
    upstream:
      read.KEYTURN_GATEWAY_MODE === 'auth' || read.KEYTURN_GATEWAY_UPSTREAM === undefined
        ? undefined
        : new URL(read.KEYTURN_GATEWAY_UPSTREAM),
    askers: readAskers(read),
    badTokensPerSecond: Number(read.KEYTURN_GATEWAY_BAD_TOKENS),
    upstreamTimeoutMs: parseDuration(read.KEYTURN_GATEWAY_UPSTREAM_TIMEOUT),
    clientTimeoutMs: parseDuration(read.KEYTURN_GATEWAY_CLIENT_TIMEOUT),
    drainNoticeMs: parseDuration(read.KEYTURN_GATEWAY_DRAIN_NOTICE),
    environments: list(read.KEYTURN_GATEWAY_ENVIRONMENT) as Environment[],
    scopes: list(read.KEYTURN_GATEWAY_SCOPES),
    routes: readRoutes(read),
    failClosed: list(read.KEYTURN_GATEWAY_FAIL_CLOSED),
    stalenessMs: parseDuration(read.KEYTURN_GATEWAY_STALENESS),
    heartbeatMs: parseDuration(read.KEYTURN_GATEWAY_HEARTBEAT),
    usageWindowMs: parseDuration(read.KEYTURN_GATEWAY_USAGE_WINDOW),
    trustedProxies: hops === 'true' ? 1 : hops === 'false' ? 0 : Number(hops),
    fallback: readFallback(read),
    jwksUrl: read.KEYTURN_JWKS_URL,
    replay: readReplay(read),
    signing: readSigning(read),
    logLevel: read.KEYTURN_LOG_LEVEL,
  }
  const more = [...secondLook(config)]
  if (more.length > 0) throw new ConfigError(more.join('\n'))
  return config
}

/** What of a process's configuration its gateway is made of. */
export const gatewayOptionsOf = (config: GatewayConfig): Omit<GatewayOptions, 'log'> => ({
  kafka: { brokers: config.kafkaBrokers, topics: config.topics },
  gatewayId: config.gatewayId,
  region: config.region,
  environments: config.environments,
  failClosed: config.failClosed,
  stalenessMs: config.stalenessMs,
  heartbeatMs: config.heartbeatMs,
  usageWindowMs: config.usageWindowMs,
  badTokensPerSecond: config.badTokensPerSecond,
  fallback: config.fallback,
  jwksUrl: config.jwksUrl,
  replay: config.replay,
  signing: config.signing,
})

/**
 * For a gateway inside a program: what the variables of the process say, but for those of a server of its own.
 * @throws ConfigError; TransitError where the key-encryption keys can not be unwrapped
 */
export async function optionsFromEnvironment(
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<Omit<GatewayOptions, 'log'>> {
  // As in mode auth there is no API behind.
  return gatewayOptionsOf(loadConfig({ ...(await withUnwrappedKeks(env)), KEYTURN_GATEWAY_MODE: 'auth' }))
}
