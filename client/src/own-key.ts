/** What the API says of a key to whoever holds it. */
import { shownBy } from './signing.ts'
import type { StoredKey } from './store.ts'
import type { Asking } from './successor.ts'

export interface OwnKey {
  readonly keyId: string
  readonly credentialId?: string
  readonly version: number
  /** The version of the key that replaces it, which can be claimed. */
  readonly successor?: number
  /** ISO 8601; of the latest request that gateways have reported. */
  readonly lastUsedAt?: string
  readonly sunsetAt?: string
}

/** The API does not answer, or not as it should. */
export class ApiAway extends Error {
  override readonly name = 'ApiAway'
}

/** @returns undefined when the key is not accepted. @throws ApiAway, or the signal's reason */
export async function askOwnKey(
  { api, fetch, timeoutMs, now }: Asking,
  key: StoredKey,
  signal: AbortSignal,
): Promise<OwnKey | undefined> {
  const url = `${api}/v1/keys/self`
  let response: Response
  let said: unknown
  try {
    response = await fetch(url, {
      headers: await shownBy(key, { method: 'GET', url, body: undefined, now: now() }),
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    })
    said = await response.json().catch(() => undefined)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    throw new ApiAway('the API does not answer', { cause: error })
  }
  const fields = (typeof said === 'object' && said !== null ? said : {}) as Readonly<Record<string, unknown>>
  if (response.status === 401 && fields['code'] === 'invalid-key') return undefined
  const { keyId, credentialId, version, successor, lastUsedAt, sunsetAt } = fields
  if (response.status !== 200 || typeof keyId !== 'string' || typeof version !== 'number')
    throw new ApiAway(`the API answers ${typeof fields['code'] === 'string' ? fields['code'] : response.status}`)
  return {
    keyId,
    version,
    ...(typeof credentialId === 'string' ? { credentialId } : {}),
    ...(typeof successor === 'number' ? { successor } : {}),
    ...(typeof lastUsedAt === 'string' ? { lastUsedAt } : {}),
    ...(typeof sunsetAt === 'string' ? { sunsetAt } : {}),
  }
}
