/** What an agent begins with, as its files hold it. */
import { readClaimCode } from '../claim-code.ts'
import { type Given, readGiven } from '../given.ts'
import { type AgentConfig, AgentConfigError } from './config.ts'

export interface First {
  readonly firstKey?: Given
  /** The code of a claim. */
  readonly firstClaim?: string
}

/**
 * @param texts.key a token; of Ed25519 the private key as a JWK, with the key's id as `kid`: as the agent writes it into `files`
 * @param texts.claim a code, or an address with it
 * @throws AgentConfigError, which quotes neither
 */
export function readFirst(
  { kind }: Pick<AgentConfig, 'kind'>,
  { key, claim }: { readonly key?: string | undefined; readonly claim?: string | undefined },
): First {
  if (key !== undefined) return { firstKey: say('the first key', () => keyOf(kind, key.trim())) }
  if (claim !== undefined) return { firstClaim: say('the first claim', () => readClaimCode(claim.trim())) }
  return {}
}

function keyOf(kind: AgentConfig['kind'], text: string): Given {
  const given = kind === 'ed25519' ? pairOf(text) : { kind, token: text }
  readGiven(given)
  return given
}

function pairOf(text: string): Given {
  const { kty, crv, x, d, kid } = fieldsOf(text)
  if (kty !== 'OKP' || crv !== 'Ed25519' || typeof x !== 'string' || typeof d !== 'string' || typeof kid !== 'string')
    throw new TypeError('it is no private JWK of Ed25519 with the id of the key as "kid"')
  return { kind: 'ed25519', keyId: kid, privateKey: { kty, crv, x, d } }
}

function fieldsOf(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {}
  } catch {
    return {}
  }
}

function say<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw error instanceof TypeError ? new AgentConfigError(`${what}: ${error.message}`) : error
  }
}
