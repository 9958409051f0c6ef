/** Logging in at a Vault or OpenBao by its auth method `jwt`, for as long as one delivery takes. */
import type { VaultDelivery } from '@keyturn/contract'
import { Undeposited } from './undeposited.ts'

const TIMEOUT_MS = 10_000
/** What is no answer to what was asked. */
const LATER = new Set([408, 425, 429])

export interface VaultLogin {
  readonly token: string
  /** Ends the token. That it could not be ended is no failure: it ends by itself. */
  end(): Promise<void>
}

/** @throws Undeposited, Undelivered */
export async function logInAtVault(
  { address, namespace, role, authMount = 'jwt' }: VaultDelivery,
  jwt: string,
  { fetch, signal }: { readonly fetch: typeof globalThis.fetch; readonly signal: AbortSignal },
): Promise<VaultLogin> {
  const base = `${address.replace(/\/+$/, '')}/v1`
  const common = { 'content-type': 'application/json', 'x-vault-request': 'true' }
  const headers = namespace === undefined ? common : { ...common, 'x-vault-namespace': namespace }
  const post = (path: string, body: object, more: object = {}): Promise<Response> =>
    fetch(`${base}/${path}`, {
      method: 'POST',
      headers: { ...headers, ...more },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    })
  const where = `the login of role ${role} at auth/${authMount}`
  const mount = authMount.split('/').map(encodeURIComponent).join('/')
  const response = await post(`auth/${mount}/login`, { role, jwt })
  const { status } = response
  if (status !== 200) {
    const refused = status >= 400 && status <= 499 && !LATER.has(status)
    throw new Undeposited(`${where} was answered ${status}`, { refused })
  }
  const { auth } = (await response.json().catch(() => ({}))) as { auth?: { client_token?: unknown } | null }
  const token = auth?.client_token
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
    throw new Undeposited(`${where} was answered without a token: is this a Vault?`, { refused: true })
  return {
    token,
    async end() {
      await post('auth/token/revoke-self', {}, { 'x-vault-token': token }).catch(() => undefined)
    },
  }
}
