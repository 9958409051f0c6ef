/** What the agent is told: which key, where it is kept, and what has to be done so that a program takes a new one. */
import { KEY_KINDS, type KeyKind } from '@keyturn/contract/key-kind'

/** A path, its fields named by their words: `store.file`. */
export class AgentConfigError extends Error {
  override readonly name = 'AgentConfigError'
}

export type StoreConfig =
  | { readonly file: string }
  | { readonly env: string; readonly variable: string }
  | {
      readonly vault: FieldsConfig & {
        readonly address?: string
        readonly namespace?: string
        readonly mount?: string
        readonly path: string
        readonly tokenFile?: string
      }
    }
  | { readonly aws: FieldsConfig & { readonly secretId: string; readonly region?: string; readonly endpoint?: string } }
  | { readonly kubernetes: FieldsConfig & { readonly name: string; readonly namespace?: string } }

interface FieldsConfig {
  readonly field?: string
}

export interface ProgramConfig {
  /** Run when there is another key: a program and its arguments, no shell. */
  readonly run?: readonly string[]
  readonly signal?: { readonly name: NodeJS.Signals; readonly pidFile: string }
  readonly timeoutMs: number
}

export interface CheckConfig {
  /** How long gateways may take to see the new key in use; undefined: they are not asked. */
  readonly usedWithinMs?: number
  /** Has to end with 0: a program and its arguments, no shell. */
  readonly run?: readonly string[]
  /** How long `run` may fail until it does. */
  readonly withinMs: number
}

export interface AgentConfig {
  /** Of the control plane, without a slash at the end. */
  readonly api: string
  readonly credentialId?: string
  readonly store: StoreConfig
  /** Of the credential. A token does not say whether it is sent or signs. */
  readonly kind: KeyKind
  /** A file with the first key, read while the store is empty. */
  readonly firstKeyFile?: string
  /** A file with the claim of the first key, instead. */
  readonly firstClaimFile?: string
  /** Files that hold the key and nothing else. */
  readonly files: readonly { readonly path: string; readonly mode: number }[]
  readonly program: ProgramConfig
  readonly check: CheckConfig
  readonly intervalMs: number
}

type Fields = Readonly<Record<string, unknown>>

const SIGNALS = ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGTERM', 'SIGINT'] as const
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

const wrong = (path: string, what: string): AgentConfigError => new AgentConfigError(`${path}: ${what}`)

function fieldsOf(value: unknown, path: string, known: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(path, 'is missing, or has no fields')
  const unknown = Object.keys(value).find((name) => !known.includes(name))
  if (unknown !== undefined)
    throw wrong(path === '' ? unknown : `${path}.${unknown}`, `is not known here; ${known.join(', ')} are`)
  return value as Fields
}

function text(value: unknown, path: string): string {
  if (typeof value === 'string' && value !== '' && !/[\0\r\n]/.test(value)) return value
  throw wrong(path, 'is a text of one line')
}

const maybe = <T>(value: unknown, read: (value: unknown) => T): T | undefined => (value === undefined ? undefined : read(value))

/** Only what is there. */
const given = <K extends string, T>(name: K, value: T | undefined): { readonly [P in K]?: T } =>
  (value === undefined ? {} : { [name]: value }) as { readonly [P in K]?: T }

function duration(value: unknown, path: string): number {
  const [, count, unit = ''] = /^(\d{1,6})(ms|s|m|h)$/.exec(String(value)) ?? []
  const ms = Number(count) * (UNITS[unit] ?? Number.NaN)
  if (ms > 0) return ms
  throw wrong(path, 'is a time like 30s, 5m or 1h')
}

function commandOf(value: unknown, path: string): readonly string[] {
  if (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((word) => typeof word === 'string' && !word.includes('\0')) &&
    value[0] !== ''
  )
    return value
  throw wrong(path, 'is a list: the program and its arguments, as in [systemctl, reload, shop]')
}

function address(value: unknown, path: string): string {
  const url = text(value, path)
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw wrong(path, 'is an address like https://keys.example.com')
  if (new URL(url).username !== '' || new URL(url).password !== '') throw wrong(path, 'holds a password, which has no place here')
  return url.replace(/\/+$/, '')
}

function modeOf(value: unknown, path: string): number {
  const digits = /^0?([0-7]{3})$/.exec(String(value))?.[1]
  if (digits === undefined || typeof value !== 'string') throw wrong(path, 'is a text of octal digits like "0640"')
  const mode = Number.parseInt(digits, 8)
  if ((mode & 0o007) !== 0) throw wrong(path, 'would let everybody on the machine read the key')
  return mode
}

const KINDS = ['file', 'env', 'vault', 'aws', 'kubernetes'] as const

function storeOf(value: unknown): StoreConfig {
  const store = fieldsOf(value, 'store', [...KINDS, 'variable'])
  const kinds = KINDS.filter((kind) => store[kind] !== undefined)
  const [kind] = kinds
  if (kind === undefined || kinds.length > 1) throw wrong('store', `is one of ${KINDS.join(', ')}`)
  if (kind !== 'env' && store['variable'] !== undefined) throw wrong('store.variable', 'has a place beside env alone')
  if (kind === 'file') return { file: text(store['file'], 'store.file') }
  if (kind === 'env') return { env: text(store['env'], 'store.env'), variable: text(store['variable'], 'store.variable') }
  const names = {
    vault: ['address', 'namespace', 'mount', 'path', 'tokenFile', 'field'],
    aws: ['secretId', 'region', 'endpoint', 'field'],
    kubernetes: ['name', 'namespace', 'field'],
  }[kind]
  const fields = fieldsOf(store[kind], `store.${kind}`, names)
  const read = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, text(field, `store.${kind}.${name}`)]))
  const needed = { vault: 'path', aws: 'secretId', kubernetes: 'name' }[kind]
  if (read[needed] === undefined) throw wrong(`store.${kind}.${needed}`, 'is missing')
  return { [kind]: read } as unknown as StoreConfig
}

function fileOf(value: unknown, path: string): AgentConfig['files'][number] {
  const file = fieldsOf(value, path, ['path', 'mode'])
  return { path: text(file['path'], `${path}.path`), mode: maybe(file['mode'], (mode) => modeOf(mode, `${path}.mode`)) ?? 0o600 }
}

function programOf(value: unknown): ProgramConfig {
  const program = fieldsOf(value ?? {}, 'program', ['run', 'signal', 'pidFile', 'timeout'])
  const name = maybe(program['signal'], (signal) => {
    const found = SIGNALS.find((known) => known === signal)
    if (found === undefined) throw wrong('program.signal', `is one of ${SIGNALS.join(', ')}`)
    return found
  })
  const pidFile = maybe(program['pidFile'], (file) => text(file, 'program.pidFile'))
  if ((name === undefined) !== (pidFile === undefined)) throw wrong('program', 'signal and pidFile go together')
  const run = maybe(program['run'], (command) => commandOf(command, 'program.run'))
  if (run !== undefined && name !== undefined) throw wrong('program', 'either runs a command or sends a signal')
  return {
    ...given('run', run),
    ...(name === undefined || pidFile === undefined ? {} : { signal: { name, pidFile } }),
    timeoutMs: maybe(program['timeout'], (time) => duration(time, 'program.timeout')) ?? 60_000,
  }
}

function checkOf(value: unknown): CheckConfig {
  const check = fieldsOf(value ?? {}, 'check', ['used', 'run', 'within'])
  const used = check['used'] ?? '5m'
  return {
    ...(used === false ? {} : { usedWithinMs: duration(used, 'check.used') }),
    ...given(
      'run',
      maybe(check['run'], (command) => commandOf(command, 'check.run')),
    ),
    withinMs: maybe(check['within'], (time) => duration(time, 'check.within')) ?? 60_000,
  }
}

function kindOf(value: unknown): KeyKind {
  const kind = KEY_KINDS.find((known) => known === (value ?? 'bearer'))
  if (kind === undefined) throw wrong('kind', `is one of ${KEY_KINDS.join(', ')}`)
  return kind
}

/** @throws AgentConfigError, which names the field */
export function readAgentConfig(value: unknown): AgentConfig {
  const known = [
    'api',
    'credentialId',
    'kind',
    'store',
    'firstKeyFile',
    'firstClaimFile',
    'files',
    'program',
    'check',
    'interval',
  ]
  const config = fieldsOf(value, '', known)
  const files = config['files'] ?? []
  if (!Array.isArray(files)) throw wrong('files', 'is a list')
  const pathIn = (name: string) => maybe(config[name], (file) => text(file, name))
  const [firstKeyFile, firstClaimFile] = [pathIn('firstKeyFile'), pathIn('firstClaimFile')]
  if (firstKeyFile !== undefined && firstClaimFile !== undefined)
    throw wrong('firstClaimFile', 'has no place beside firstKeyFile')
  const kind = kindOf(config['kind'])
  const store = storeOf(config['store'])
  if (kind === 'ed25519' && 'env' in store) throw wrong('store.env', 'holds tokens, and no ed25519 key')
  return {
    api: address(config['api'], 'api'),
    ...given(
      'credentialId',
      maybe(config['credentialId'], (id) => text(id, 'credentialId')),
    ),
    kind,
    store,
    ...given('firstKeyFile', firstKeyFile),
    ...given('firstClaimFile', firstClaimFile),
    files: files.map((file, i) => fileOf(file, `files[${i}]`)),
    program: programOf(config['program']),
    check: checkOf(config['check']),
    intervalMs: maybe(config['interval'], (time) => duration(time, 'interval')) ?? 60_000,
  }
}
