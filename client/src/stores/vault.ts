/** A secret of Vault or OpenBao: KV version 2, whose check-and-set is ours. */
import { type Store, StoreConflict, StoreError } from '../store.ts'
import { credentialOf, type FieldOptions, type Fields, withCredential } from './fields.ts'
import { isObject, noAnswer, parseJson, provided, within } from './remote.ts'

export interface VaultOptions extends FieldOptions {
  /** VAULT_ADDR or BAO_ADDR unless given. */
  readonly address?: string
  /** Asked before each request, so that a token may be renewed; VAULT_TOKEN or BAO_TOKEN unless given. */
  readonly token?: () => string | Promise<string>
  /** VAULT_NAMESPACE or BAO_NAMESPACE unless given; the empty one is the root. */
  readonly namespace?: string
  /** Where the engine is mounted; `secret` unless given. */
  readonly mount?: string
  /** Of the secret, within the mount. */
  readonly path: string
  readonly fetch?: typeof fetch
}

interface Secret {
  readonly fields: Fields
  /** What check-and-set wants to hear: 0 before the first version. A deleted secret has one, too. */
  readonly version: number
}

interface Answer {
  readonly status: number
  readonly body: unknown
}

const setting = (name: string): string | undefined =>
  globalThis.process?.env[`VAULT_${name}`] || globalThis.process?.env[`BAO_${name}`] || undefined

const CONFLICT = 'check-and-set parameter did not match'

/** The policy needs `read`, `create` and `update` on `<mount>/data/<path>`. Former versions keep former keys: see `max_versions`. */
export function vaultStore(options: VaultOptions): Store {
  const { mount = 'secret', path, namespace = setting('NAMESPACE') } = options
  const address = options.address ?? setting('ADDR')
  if (address === undefined) throw new TypeError('Where is Vault? Give `address`, or set VAULT_ADDR.')
  const token = options.token ?? (() => setting('TOKEN') ?? '')
  const send = options.fetch ?? fetch
  const steps = [...mount.split('/'), 'data', ...path.split('/')].filter((step) => step !== '').map(encodeURIComponent)
  const url = `${address.replace(/\/+$/, '')}/v1/${steps.join('/')}`
  const where = `the secret ${mount}/${path} at ${address}`

  async function call(signal: AbortSignal | undefined, body?: object): Promise<Answer> {
    const headers: Record<string, string> = { 'x-vault-token': await provided(token, where), 'x-vault-request': 'true' }
    if (namespace) headers['x-vault-namespace'] = namespace
    try {
      // A redirect would take the token along.
      const shared = { headers, redirect: 'error', signal: within(signal) } as const
      const response = await send(url, body === undefined ? shared : { ...shared, method: 'POST', body: JSON.stringify(body) })
      return { status: response.status, body: parseJson(await response.text()) }
    } catch (error) {
      throw noAnswer(error, signal, where)
    }
  }

  function refusal({ status, body }: Answer): StoreError {
    const said = errorsOf(body)
    if (status === 403) {
      const message = `${where} is not for this token: it may have expired, or its policy lacks read, create and update there.`
      return new StoreError('not-allowed', message)
    }
    if (status === 413) return new StoreError('no-space', `${where} has no room for it: the server takes no entry of this size.`)
    if (status === 429 || status >= 500)
      return new StoreError('unreachable', `${where} can not be reached now: the server answered ${status}${said}.`)
    if (status === 404) return new StoreError('failed', `${where}: no engine of KV version 2 is mounted at ${mount}${said}.`)
    return new StoreError('failed', `${where}: the server answered ${status}${said}.`)
  }

  async function look(signal: AbortSignal | undefined): Promise<Secret> {
    const answer = await call(signal)
    const data = isObject(answer.body) ? answer.body['data'] : undefined
    const metadata = isObject(data) && isObject(data['metadata']) ? data['metadata'] : {}
    const version = typeof metadata['version'] === 'number' ? metadata['version'] : 0
    if (answer.status === 404 && errorsOf(answer.body) === '') return { fields: {}, version }
    if (answer.status !== 200) throw refusal(answer)
    if (!isObject(data) || !isObject(data['data']) || version === 0) {
      throw new StoreError('failed', `${where}: this is not KV version 2. Mount one, or name another mount.`)
    }
    return { fields: data['data'], version }
  }

  return {
    async read(signal) {
      const { fields, version } = await look(signal)
      const value = credentialOf(fields, where, options)
      return value === undefined ? undefined : { value, version: String(version) }
    },

    async replace(next, after, signal) {
      const { fields, version } = await look(signal)
      const seen = credentialOf(fields, where, options) === undefined ? undefined : String(version)
      if (seen !== after) throw new StoreConflict()
      const answer = await call(signal, { options: { cas: version }, data: withCredential(next, fields, options) })
      if (answer.status === 400 && errorsOf(answer.body).includes(CONFLICT)) throw new StoreConflict()
      const data = isObject(answer.body) ? answer.body['data'] : undefined
      if (answer.status !== 200 || !isObject(data)) throw refusal(answer)
      return String(data['version'])
    },
  }
}

/** What Vault says of an error; it quotes nothing of what it stores. */
function errorsOf(body: unknown): string {
  const errors = isObject(body) && Array.isArray(body['errors']) ? body['errors'] : []
  const said = errors.filter((error) => typeof error === 'string').join('; ')
  return said === '' ? '' : ` (${said.slice(0, 300)})`
}
