/**
 * Configuration of the orchestrator's processes, read here and nowhere else, from the environment. `VARIABLES` documents every
 * variable. The gateway, a package of its own, has its own.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import {
  type AddressBlock,
  BRAND_PATTERN,
  DEFAULT_BRAND,
  DURATION_PATTERN,
  isScope,
  KEK_SOURCES,
  othersCanRead,
  parseAddressBlock,
  parseDuration,
  parseKeks,
  type TopicNames,
  topicNames,
} from '@keyturn/contract'
import Type from 'typebox'
import { Compile } from 'typebox/compile'

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
const HOST_PORT = '^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9._-]+):\\d{1,5}$'

/** Every variable, with what it means and what it looks like. An empty one counts as not set. */
export const VARIABLES = Type.Object({
  KEYTURN_POSTGRES_URL: Type.Optional(
    Type.String({ pattern: '^postgres(ql)?://', description: 'the registry: postgres://user:password@host:5432/keyturn' }),
  ),
  KEYTURN_KAFKA_BROKERS: Type.Optional(
    Type.String({ pattern: '^[^,\\s]+:\\d{1,5}(,[^,\\s]+:\\d{1,5})*$', description: 'host:port, more than one with commas' }),
  ),
  KEYTURN_TOPIC_PREFIX: Type.Optional(
    Type.String({ pattern: '^[A-Za-z0-9._-]{0,100}$', description: 'before every topic name, on a cluster that others use too' }),
  ),
  KEYTURN_TEMPORAL_ADDRESS: Type.Optional(Type.String({ pattern: HOST_PORT, description: 'host:port' })),
  KEYTURN_TEMPORAL_NAMESPACE: Type.Optional(Type.String({ description: '"default" unless set' })),
  KEYTURN_TASK_QUEUE: Type.Optional(Type.String({ maxLength: 200, description: 'Temporal task queue; "keyturn" unless set' })),
  KEYTURN_BRAND: Type.Optional(
    Type.String({
      pattern: BRAND_PATTERN,
      description: 'first part of every token: 2 to 10 of a–z and 0–9, a letter first; "kt"',
    }),
  ),
  KEYTURN_KEK: Type.Optional(
    Type.String({
      description:
        'key-encryption key: 32 random bytes in base64; two with a comma while one is being replaced, the one that seals first',
    }),
  ),
  ...KEK_SOURCES,
  KEYTURN_OPERATOR_TOKEN: Type.Optional(Type.String({ description: "the operators' bearer token, 16 characters or more" })),
  KEYTURN_OPERATOR_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_REPORTER_TOKEN: Type.Optional(
    Type.String({ description: 'a bearer token that can report leaks and do nothing else, 16 characters or more' }),
  ),
  KEYTURN_REPORTER_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_GITHUB_KEYS: Type.Optional(
    Type.String({
      pattern: '^(https://[^\\s]+|http://(127[.]0[.]0[.]1|localhost|\\[::1\\])[:/][^\\s]*|(?!https?:)[^\\s][^]*)$',
      description:
        "a file, or an https URL, with GitHub's public keys for secret scanning; without it GitHub's reports are not taken",
    }),
  ),
  KEYTURN_GITGUARDIAN_TOKEN: Type.Optional(
    Type.String({ description: "the signature token of GitGuardian's custom webhook; without it its reports are not taken" }),
  ),
  KEYTURN_GITGUARDIAN_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_LEAK_AT_ONCE: Type.Optional(
    Type.String({
      description: 'scope patterns with commas: a leaked key that can do any of this is compromised at once; trade:*,withdraw:*',
    }),
  ),
  KEYTURN_LEAK_OVERLAP: Type.Optional(
    Type.String({ pattern: DURATION_PATTERN, description: 'how long any other leaked key goes on beside its successor; 60m' }),
  ),
  KEYTURN_GATEWAY_TOKEN: Type.Optional(
    Type.String({
      description:
        'the bearer token that gateways show when Kafka is away, 16 characters or more; without it there is no fallback',
    }),
  ),
  KEYTURN_GATEWAY_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_SIGNING_KEY: Type.Optional(
    Type.String({
      description:
        'the Ed25519 private key (PEM) that the answers to gateways are signed with; needed with KEYTURN_GATEWAY_TOKEN',
    }),
  ),
  KEYTURN_SIGNING_KEY_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_SESSION_KEY_PERIOD: Type.Optional(
    Type.String({ pattern: DURATION_PATTERN, description: 'how long each key signs session tokens, 1h or more; 30d unless set' }),
  ),
  KEYTURN_LISTEN: Type.Optional(
    Type.String({
      pattern: HOST_PORT,
      description: 'where the API listens: host:port; 127.0.0.1:8080 unless set; port 0 takes a free one',
    }),
  ),
  KEYTURN_PUBLIC_URL: Type.Optional(
    Type.String({
      pattern: '^https?://[^\\s?#]+$',
      description: 'how clients reach the API; claim URLs begin with it, and by it their stores know who writes a key',
    }),
  ),
  KEYTURN_TRUST_PROXY: Type.Optional(
    Type.String({
      pattern: '^(true|false|\\d{1,2})$',
      description: 'how many proxies before the API are believed on X-Forwarded-For; true means 1, none unless set',
    }),
  ),
  KEYTURN_SMTP_URL: Type.Optional(
    Type.String({
      description: 'the mail server: smtp://user:password@host:587 or smtps://…; without it nobody is told by e-mail',
    }),
  ),
  KEYTURN_SMTP_URL_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
  KEYTURN_SMTP_FROM: Type.Optional(
    Type.String({
      maxLength: 320,
      description: 'from whom e-mails come: keys@example.com, or "Example API" <keys@example.com>; needed with KEYTURN_SMTP_URL',
    }),
  ),
  KEYTURN_WEBHOOK_ALLOW: Type.Optional(
    Type.String({
      description:
        'addresses and blocks with commas that webhooks, and keys for the stores of clients, may go to though they are not public, and by http: 127.0.0.0/8,10.1.0.0/16; none unless set',
    }),
  ),
  KEYTURN_MESSAGES_FILE: Type.Optional(
    Type.String({ description: 'a YAML file with texts of your own for e-mail and Slack: docs/notifications.md' }),
  ),
  KEYTURN_SIGN_IN_URL: Type.Optional(
    Type.String({
      maxLength: 2_000,
      pattern: '^https://[^\\s/?#{}]+([/?#]([^\\s{}]|\\{rotationId\\})*)?$',
      description:
        'where clients sign in at yours to fetch a new key, with {rotationId} where that belongs: https://portal.example.com/keys/{rotationId}; what stands there gets the claim from POST /v1/rotations/{rotationId}/claim',
    }),
  ),
  KEYTURN_LOG_LEVEL: Type.Optional(Type.Enum([...LOG_LEVELS], { description: '"info" unless set' })),
  KEYTURN_STARTUP_WAIT: Type.Optional(
    Type.String({
      pattern: DURATION_PATTERN,
      description: 'how long to wait for servers that are not there yet; 60s unless set',
    }),
  ),
  KEYTURN_COLLECTOR_INTERVAL: Type.Optional(
    Type.String({
      pattern: DURATION_PATTERN,
      description: 'how often the usage collector brings the evidence up to date; 1s unless set',
    }),
  ),
  KEYTURN_WORKFLOW_BUNDLE: Type.Optional(
    Type.String({
      description: 'a file with the bundled workflows; without it the worker bundles them at its start, which takes seconds',
    }),
  ),
})
type Variable = keyof Type.Static<typeof VARIABLES>
type Secret =
  | 'KEYTURN_KEK'
  | 'KEYTURN_OPERATOR_TOKEN'
  | 'KEYTURN_REPORTER_TOKEN'
  | 'KEYTURN_GITGUARDIAN_TOKEN'
  | 'KEYTURN_GATEWAY_TOKEN'
  | 'KEYTURN_SIGNING_KEY'
  | 'KEYTURN_SMTP_URL'

export interface LeakConfig {
  readonly reporterToken?: string
  readonly githubKeys?: string
  readonly gitguardianToken?: string
  /** Scope patterns: a leaked key that can do any of this is compromised at once. */
  readonly atOnce: readonly string[]
  readonly overlapMs: number
}

export interface DeliveryConfig {
  readonly smtp?: { readonly url: string; readonly from: string }
  readonly webhookAllow: readonly AddressBlock[]
  readonly messagesFile?: string
  /** Where clients sign in at their provider; holds `{rotationId}` where that belongs. */
  readonly signInUrl?: string
}

interface Sections {
  postgres: { readonly postgresUrl: string }
  kafka: { readonly kafkaBrokers: string[] }
  temporal: { readonly temporalAddress: string }
  /** `kek` seals; what `previousKek` has sealed opens, too. */
  kek: { readonly kek: Buffer; readonly previousKek?: Buffer }
  operator: { readonly operatorToken: string }
  leaks: { readonly leaks: LeakConfig }
  /** Optional: nothing when neither of its variables is set. */
  fallback: { readonly fallback?: { readonly gatewayToken: string; readonly signingKey: KeyObject } }
  /** `publicUrl` has no slash at its end; so many proxies before us say who calls. */
  listen: {
    readonly listen: { readonly host: string; readonly port: number }
    readonly publicUrl: string
    readonly trustedProxies: number
  }
  delivery: { readonly delivery: DeliveryConfig }
}
export type ConfigSection = keyof Sections
export const CONFIG_SECTIONS: readonly ConfigSection[] = [
  'postgres',
  'kafka',
  'temporal',
  'kek',
  'operator',
  'leaks',
  'listen',
  'fallback',
  'delivery',
]

interface CommonConfig {
  readonly temporalNamespace: string
  readonly taskQueue: string
  readonly topics: TopicNames
  readonly brand: string
  readonly logLevel: string
  readonly startupWaitMs: number
  readonly collectorIntervalMs: number
  readonly sessionKeyPeriodMs: number
  readonly workflowBundle?: string
}

type Intersection<U> = (U extends unknown ? (u: U) => void : never) extends (i: infer I) => void ? I : never
export type ConfigOf<S extends ConfigSection> = CommonConfig & Intersection<Sections[S]>
export type Config = ConfigOf<ConfigSection>

/** Says every wrong variable at once, one sentence each. Values are not repeated: some are secrets. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly flaws: readonly string[]
  constructor(flaws: readonly string[]) {
    super(`The configuration is not usable:\n${flaws.map((flaw) => `  ${flaw}`).join('\n')}`)
    this.flaws = flaws
  }
}

const VALIDATOR = Compile(VARIABLES)
const DEFAULT_LEAK_AT_ONCE = 'trade:*,withdraw:*'
const DEFAULT_LEAK_OVERLAP = '60m'

const expected = (name: Variable): string =>
  (VARIABLES.properties[name] as { description?: string }).description ?? 'something else'

function readVariables(env: NodeJS.ProcessEnv, flaws: string[]): Partial<Record<Variable, string>> {
  const names = Object.keys(VARIABLES.properties) as Variable[]
  const set = Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : []))) as Partial<
    Record<Variable, string>
  >
  for (const error of VALIDATOR.Errors(set)) {
    const name = error.instancePath.slice(1) as Variable
    flaws.push(`${name}: not usable; expected ${expected(name)}`)
    delete set[name]
  }
  return set
}

/**
 * Reads and validates what a process needs.
 * @param sections what this process needs; the variables of the others are not required
 * @throws ConfigError
 */
export function loadConfig(env?: NodeJS.ProcessEnv): Config
export function loadConfig<S extends ConfigSection>(env: NodeJS.ProcessEnv, sections: readonly S[]): ConfigOf<S>
export function loadConfig(env: NodeJS.ProcessEnv = process.env, sections: readonly ConfigSection[] = CONFIG_SECTIONS): unknown {
  const flaws: string[] = []
  const set = readVariables(env, flaws)
  const unsound = new Set(flaws.map((flaw) => flaw.slice(0, flaw.indexOf(':'))))
  const required = (name: Variable): string => {
    const value = set[name]
    if (value === undefined && !unsound.has(name)) {
      flaws.push(`${name}: not set; expected ${expected(name)}`)
    }
    return value ?? ''
  }
  const secret = (name: Secret): string => optionalSecret(name) ?? required(name)
  const optionalSecret = (name: Secret): string | undefined => {
    const file = set[`${name}_FILE`]
    if (file === undefined) return set[name]
    if (set[name] !== undefined) flaws.push(`${name} and ${name}_FILE: both are set; keep one`)
    try {
      const text = readFileSync(file, 'utf8').trim()
      if (text === '') flaws.push(`${name}_FILE: the file is empty`)
      return text
    } catch (error) {
      flaws.push(`${name}_FILE: can not be read (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
      return ''
    }
  }
  const read: { readonly [S in ConfigSection]: () => Sections[S] } = {
    postgres: () => ({ postgresUrl: required('KEYTURN_POSTGRES_URL') }),
    kafka: () => ({ kafkaBrokers: required('KEYTURN_KAFKA_BROKERS').split(',') }),
    temporal: () => ({ temporalAddress: required('KEYTURN_TEMPORAL_ADDRESS') }),
    kek: () => {
      refuseOpenFile('KEYTURN_KEK_FILE', set.KEYTURN_KEK_FILE, flaws)
      return readKeks(secret('KEYTURN_KEK'), flaws)
    },
    operator: () => {
      const operatorToken = secret('KEYTURN_OPERATOR_TOKEN')
      refuseShort('KEYTURN_OPERATOR_TOKEN', operatorToken, flaws)
      return { operatorToken }
    },
    leaks: () => {
      const reporterToken = optionalSecret('KEYTURN_REPORTER_TOKEN')
      const gitguardianToken = optionalSecret('KEYTURN_GITGUARDIAN_TOKEN')
      if (reporterToken !== undefined) refuseShort('KEYTURN_REPORTER_TOKEN', reporterToken, flaws)
      const atOnce = (set.KEYTURN_LEAK_AT_ONCE ?? DEFAULT_LEAK_AT_ONCE).split(',').map((pattern) => pattern.trim())
      if (!atOnce.every((pattern) => pattern === '*' || isScope(pattern)))
        flaws.push(`KEYTURN_LEAK_AT_ONCE: not usable; expected ${expected('KEYTURN_LEAK_AT_ONCE')}`)
      const leaks: LeakConfig = {
        atOnce,
        overlapMs: parseDuration(set.KEYTURN_LEAK_OVERLAP ?? DEFAULT_LEAK_OVERLAP),
        ...(reporterToken === undefined ? {} : { reporterToken }),
        ...(gitguardianToken === undefined ? {} : { gitguardianToken }),
        ...(set.KEYTURN_GITHUB_KEYS === undefined ? {} : { githubKeys: set.KEYTURN_GITHUB_KEYS }),
      }
      return { leaks }
    },
    fallback: () => {
      const isSet = (name: Secret): boolean => set[name] !== undefined || set[`${name}_FILE`] !== undefined
      if (!isSet('KEYTURN_GATEWAY_TOKEN') && !isSet('KEYTURN_SIGNING_KEY')) return {}
      const gatewayToken = secret('KEYTURN_GATEWAY_TOKEN')
      refuseShort('KEYTURN_GATEWAY_TOKEN', gatewayToken, flaws)
      const signingKey = readSigningKey(secret('KEYTURN_SIGNING_KEY'), flaws)
      return signingKey === undefined ? {} : { fallback: { gatewayToken, signingKey } }
    },
    listen: () => readListen(set, flaws),
    delivery: () => ({ delivery: readDelivery(set, optionalSecret('KEYTURN_SMTP_URL'), flaws) }),
  }
  const config: CommonConfig = {
    temporalNamespace: set.KEYTURN_TEMPORAL_NAMESPACE ?? 'default',
    taskQueue: set.KEYTURN_TASK_QUEUE ?? 'keyturn',
    topics: topicNames(set.KEYTURN_TOPIC_PREFIX),
    brand: set.KEYTURN_BRAND ?? DEFAULT_BRAND,
    logLevel: set.KEYTURN_LOG_LEVEL ?? 'info',
    startupWaitMs: parseDuration(set.KEYTURN_STARTUP_WAIT ?? '60s'),
    collectorIntervalMs: parseDuration(set.KEYTURN_COLLECTOR_INTERVAL ?? '1s'),
    sessionKeyPeriodMs: parseDuration(set.KEYTURN_SESSION_KEY_PERIOD ?? '30d'),
    ...(set.KEYTURN_WORKFLOW_BUNDLE === undefined ? {} : { workflowBundle: set.KEYTURN_WORKFLOW_BUNDLE }),
  }
  if (config.sessionKeyPeriodMs < 3_600_000) flaws.push('KEYTURN_SESSION_KEY_PERIOD: at least 1h')
  for (const section of sections) Object.assign(config, read[section]())
  if (flaws.length > 0) throw new ConfigError(flaws)
  return config
}

function refuseShort(name: Secret, token: string, flaws: string[]): void {
  if (token !== '' && !/^[\x21-\x7e]{16,}$/.test(token))
    flaws.push(`${name}: too short; take 16 or more random characters without spaces`)
}

function readKeks(text: string, flaws: string[]): Sections['kek'] {
  const { keks, flaws: wrong } = parseKeks(text, 'KEYTURN_KEK')
  flaws.push(...wrong)
  const [kek = Buffer.alloc(0), previousKek] = keks
  return previousKek === undefined ? { kek } : { kek, previousKek }
}

function refuseOpenFile(name: Variable, file: string | undefined, flaws: string[]): void {
  if (file !== undefined && othersCanRead(file)) flaws.push(`${name}: others than its owner can read the file; \`chmod 600\` it`)
}

function readSigningKey(pem: string, flaws: string[]): KeyObject | undefined {
  if (pem === '') return undefined
  try {
    const key = createPrivateKey(pem)
    if (key.asymmetricKeyType === 'ed25519') return key
  } catch {
    // What it says may quote the key.
  }
  flaws.push('KEYTURN_SIGNING_KEY: no Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519` makes one')
  return undefined
}

function readListen(set: Partial<Record<Variable, string>>, flaws: string[]): Sections['listen'] {
  const text = set.KEYTURN_LISTEN ?? '127.0.0.1:8080'
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, '$1')
  const port = Number(text.slice(colon + 1))
  if (port > 65_535) flaws.push('KEYTURN_LISTEN: a port is at most 65535')
  const everywhere = host === '0.0.0.0' || host === '::'
  const publicUrl = (set.KEYTURN_PUBLIC_URL ?? `http://${everywhere ? 'localhost' : text.slice(0, colon)}:${port}`).replace(
    /\/+$/,
    '',
  )
  const hops = set.KEYTURN_TRUST_PROXY ?? 'false'
  const trustedProxies = hops === 'true' ? 1 : hops === 'false' ? 0 : Number(hops)
  return { listen: { host, port }, publicUrl, trustedProxies }
}

function readDelivery(set: Partial<Record<Variable, string>>, url: string | undefined, flaws: string[]): DeliveryConfig {
  const from = set.KEYTURN_SMTP_FROM
  if (url !== undefined && !/^smtps?:\/\/[^\s]+$/.test(url))
    flaws.push(`KEYTURN_SMTP_URL: not usable; expected ${expected('KEYTURN_SMTP_URL')}`)
  if (from !== undefined && !/^(?:[^<>\p{C}]*<[^<>@\s\p{C}]+@[^<>@\s\p{C}]+>|[^<>@\s\p{C}]+@[^<>@\s\p{C}]+)$/u.test(from))
    flaws.push(`KEYTURN_SMTP_FROM: not usable; expected ${expected('KEYTURN_SMTP_FROM')}`)
  if ((url === undefined) !== (from === undefined))
    flaws.push('KEYTURN_SMTP_URL and KEYTURN_SMTP_FROM: one is set and the other is not; set both or neither')
  const webhookAllow = (set.KEYTURN_WEBHOOK_ALLOW ?? '').split(',').flatMap((part) => {
    const text = part.trim()
    if (text === '') return []
    const block = parseAddressBlock(text)
    if (block === undefined) flaws.push(`KEYTURN_WEBHOOK_ALLOW: not usable; expected ${expected('KEYTURN_WEBHOOK_ALLOW')}`)
    return block ?? []
  })
  return {
    webhookAllow,
    ...(url === undefined || from === undefined ? {} : { smtp: { url, from } }),
    ...(set.KEYTURN_MESSAGES_FILE === undefined ? {} : { messagesFile: set.KEYTURN_MESSAGES_FILE }),
    ...(set.KEYTURN_SIGN_IN_URL === undefined ? {} : { signInUrl: set.KEYTURN_SIGN_IN_URL }),
  }
}
