/** The token by which Keyturn shows a client's store who it is, and that it may write the keys of this one credential (RFC 7519). */
import { randomUUID } from 'node:crypto'
import { IDENTITY_ALG, identityOf } from '@keyturn/contract'
import { SignJWT } from 'jose'
import { identityKeys } from '../../registry/identity-keys.ts'
import type { Sealer } from '../../registry/sealing.ts'

/** It is shown at once, and to the login alone. */
const LIFETIME_S = 300
/** The clocks of others may be behind ours. */
const EARLIER_S = 30

export interface Identity {
  readonly credentialId: string
  readonly clientId: string
}

/** @param options.issuer where the client's store fetches the public keys: the API's public address */
export function createIdentityTokens({ sealer, issuer }: { readonly sealer: Sealer; readonly issuer: string }) {
  const keys = identityKeys(sealer)
  keys.catch(() => {})
  return async ({ credentialId, clientId }: Identity, audience: string): Promise<string> => {
    const [key] = await keys
    if (key === undefined) throw new Error('there is no key to sign with')
    const now = Math.floor(Date.now() / 1_000)
    return new SignJWT({
      iss: issuer,
      sub: identityOf(credentialId),
      aud: audience,
      client_id: clientId,
      credential_id: credentialId,
      jti: randomUUID(),
      iat: now - EARLIER_S,
      nbf: now - EARLIER_S,
      exp: now + LIFETIME_S,
    })
      .setProtectedHeader({ alg: IDENTITY_ALG, typ: 'JWT', kid: key.publicKey.kid })
      .sign(key.privateKey)
  }
}
