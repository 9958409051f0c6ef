/** A client's own Vault, as docs/delivery.md has the client set it up. */
import { IDENTITY_ALG, IDENTITY_KEYS_PATH, type KeyDelivery, randomBase62, type VaultDelivery } from '@keyturn/contract'
import type { StoredCredential } from '../../client/src/store.ts'
import { vaultStore } from '../../client/src/vault.ts'
import type { Bao } from './openbao.ts'

interface KeyturnAddress {
  /** Where the public keys are. */
  readonly api: string
  readonly issuer: string
}

/** Once for each Vault. */
export async function trustKeyturn(bao: Bao, { api, issuer }: KeyturnAddress, authMount = 'jwt'): Promise<void> {
  await bao.call(`sys/auth/${authMount}`, { type: 'jwt' })
  await bao.call(`auth/${authMount}/config`, {
    jwks_url: api + IDENTITY_KEYS_PATH,
    jwt_supported_algs: [IDENTITY_ALG],
    bound_issuer: issuer,
  })
}

/** A place for one key, which nobody may write to yet. */
export function placeIn(bao: Bao) {
  const name = `shop-${randomBase62(8)}`
  const path = `${name}/provider-key`
  const store = vaultStore({ address: bao.address, namespace: '', token: () => bao.token, path })
  return {
    name,
    delivery: {
      method: 'vault',
      address: bao.address,
      mount: 'secret',
      path,
      role: name,
    } satisfies VaultDelivery as VaultDelivery & KeyDelivery,
    store,
    /** Lets Keyturn write the keys of a credential there. */
    async allow(credentialId: string): Promise<void> {
      const policy = `path "secret/data/${path}" { capabilities = ["create", "read", "update"] }`
      await bao.call(`sys/policies/acl/${name}`, { policy })
      await bao.call(`auth/jwt/role/${name}`, {
        role_type: 'jwt',
        user_claim: 'sub',
        bound_audiences: [bao.address],
        bound_subject: `credential:${credentialId}`,
        token_policies: [name],
        token_ttl: '5m',
      })
    },
    /** What the client has put there, before the first rotation. */
    async fill(value: StoredCredential, others: object = {}): Promise<void> {
      if (Object.keys(others).length > 0) await bao.call(`secret/data/${path}`, { data: others })
      await store.replace(value, (await store.read())?.version)
    },
    /** What programs see that know nothing of Keyturn. */
    async fields(): Promise<{ data: Readonly<Record<string, string>>; version: number }> {
      const response = await fetch(`${bao.address}/v1/secret/data/${path}`, { headers: { 'x-vault-token': bao.token } })
      const { data } = (await response.json()) as {
        data: { data: Record<string, string>; metadata: { version: number } }
      }
      return { data: data.data, version: data.metadata.version }
    },
  }
}
