/**
 * Is this session token accepted? Its signature says who it is for and what it may do; the key that it was traded for must be accepted
 * itself, at this moment.
 */
import { verify as verifySignature } from 'node:crypto'
import { type Environment, SESSION_TYPE, SessionClaims, sessionAudience, uncovered } from '@keyturn/contract'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import { Compile } from 'typebox/compile'
import { type KeyCache, type KeyEntry, narrowed } from './key-cache.ts'
import type { SessionKeys } from './session-keys.ts'
import { judge, UNKNOWN, type Verify } from './verify.ts'

const LONGEST_SESSION = 8_192
const SIGNATURE_BYTES = 64
/** How far the control plane's clock may be ahead of ours. */
const CLOCK_SPREAD_S = 300
const isClaims = Compile(SessionClaims)

export interface SessionOptions {
  readonly keys: Pick<SessionKeys, 'get' | 'missing' | 'isStale'>
  readonly cache: Pick<KeyCache, 'get'>
  readonly environments: readonly Environment[]
  readonly failClosed: (key: KeyEntry) => boolean
  /** Tokens whose signatures were right, so that one that comes often is not verified each time. */
  readonly mostRemembered?: number
}

export interface Sessions {
  readonly verify: Verify
  /** Its signature was right; it is not checked anew. */
  remembers(token: string): boolean
  /** How many tokens are remembered. */
  readonly remembered: number
}

export function createSessions(options: SessionOptions): Sessions {
  const { keys, cache, environments, failClosed, mostRemembered = 10_000 } = options
  const audiences = new Set(environments.map(sessionAudience))
  const remembered = new Map<string, { readonly kid: string; readonly claims: SessionClaims }>()

  const recall = (token: string): SessionClaims | undefined => {
    const known = remembered.get(token)
    return known !== undefined && keys.get(known.kid) !== undefined ? known.claims : undefined
  }
  /** What the token claims, when it is signed by the control plane; `missing` when the key that signed it is not known. */
  const read = (token: string): SessionClaims | 'missing' | undefined => {
    const known = recall(token)
    if (known !== undefined) return known
    let header: ReturnType<typeof decodeProtectedHeader>
    let claims: unknown
    try {
      header = decodeProtectedHeader(token)
      claims = decodeJwt(token)
    } catch {
      return undefined
    }
    const { alg, typ, kid, crit } = header
    // Decided by us and not by the token: one algorithm, one type, and a key that the control plane has published.
    if (alg !== 'EdDSA' || typ !== SESSION_TYPE || crit !== undefined || typeof kid !== 'string') return undefined
    const key = keys.get(kid)
    if (key === undefined) return 'missing'
    const end = token.lastIndexOf('.')
    const written = token.slice(end + 1)
    const signature = Buffer.from(written, 'base64url')
    // One way to write it: Node passes over what is no base64, and each of these would be another token to remember.
    if (signature.length !== SIGNATURE_BYTES || signature.toString('base64url') !== written) return undefined
    if (!verifySignature(null, Buffer.from(token.slice(0, end)), key, signature)) return undefined
    if (!isClaims.Check(claims)) return undefined
    if (remembered.size >= mostRemembered) remembered.clear()
    remembered.set(token, { kid, claims })
    return claims
  }

  const verify: Verify = (token, now) => {
    if (token.length > LONGEST_SESSION) return UNKNOWN
    const claims = read(token)
    if (claims === 'missing') return keys.missing(now) ? { outcome: 'undecided', key: undefined } : UNKNOWN
    if (claims === undefined || !audiences.has(claims.aud)) return UNKNOWN
    const key = cache.get(claims.key_id)
    if (key === undefined || key.clientId !== claims.sub || claims.aud !== sessionAudience(key.environment)) return UNKNOWN
    if (now >= claims.exp * 1_000) return { outcome: 'refused', key, reason: 'expired' }
    if (now < (claims.iat - CLOCK_SPREAD_S) * 1_000) return { outcome: 'refused', key, reason: 'not-yet-valid' }
    const decision = judge(key, now, environments)
    if (decision.outcome !== 'accepted') return decision
    const scopes = claims.scope.split(' ').filter((scope) => scope !== '')
    // What the key has lost since, its sessions have lost.
    if (uncovered(key.scopes, scopes) !== undefined) return { outcome: 'refused', key, reason: 'scope' }
    if (keys.isStale(now) && failClosed(key)) return { outcome: 'undecided', key }
    return { outcome: 'accepted', key: narrowed(key, scopes, claims.exp * 1_000) }
  }
  return {
    verify,
    remembers: (token) => recall(token) !== undefined,
    get remembered() {
      return remembered.size
    },
  }
}
