/** A client's own Vault, set up with what docs/delivery.md gives the client. */
import { readFileSync } from 'node:fs'
import { type KeyDelivery, randomBase62, type VaultDelivery } from '@keyturn/contract'
import type { StoredCredential } from '../../client/src/store.ts'
import { vaultStore } from '../../client/src/vault.ts'
import type { Bao } from './openbao.ts'

const DOCUMENT = readFileSync(new URL('../../docs/delivery.md', import.meta.url), 'utf8')

/** What a command of the document is given on its standard input. */
function inputOf(command: string): string {
  const [, input] = new RegExp(`^${command}[^\\n]*<<'END'\\n([\\s\\S]*?)\\nEND$`, 'm').exec(DOCUMENT) ?? []
  if (input === undefined) throw new Error(`docs/delivery.md has no ${command}`)
  return input
}

const POLICY = inputOf('vault policy write')
const ROLE = inputOf('vault write auth/jwt/role/')
const [CONFIGURE = ''] = /^vault write auth\/jwt\/config (?:.|\\\n)*$/m.exec(DOCUMENT) ?? []

interface KeyturnAddress {
  /** Where the public keys are. */
  readonly api: string
  readonly issuer: string
}

/** Once for each Vault. */
export async function trustKeyturn(bao: Bao, { api, issuer }: KeyturnAddress): Promise<void> {
  const settings = Object.fromEntries([...CONFIGURE.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name, value]))
  const { jwks_url = '', bound_issuer = '', ...rest } = settings as Record<string, string>
  await bao.call('sys/auth/jwt', { type: 'jwt' })
  await bao.call('auth/jwt/config', {
    ...rest,
    jwks_url: jwks_url.replace('https://keys.example.com', api),
    bound_issuer: bound_issuer.replace('https://keys.example.com', issuer),
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
      await bao.call(`sys/policies/acl/${name}`, { policy: POLICY.replace('shop/provider-key', path) })
      const role = ROLE.replaceAll('keyturn-shop', name)
        .replace(/crd_\w+/, credentialId)
        .replace('https://vault.example.com:8200', bao.address)
      await bao.call(`auth/jwt/role/${name}`, JSON.parse(role) as object)
    },
    /** What the client has put there, before the first rotation. */
    async fill(value: StoredCredential, others: object = {}): Promise<void> {
      if (Object.keys(others).length > 0) await bao.call(`secret/data/${path}`, { data: others })
      await store.replace(value, (await store.read())?.version)
    },
    /** What programs see that know nothing of Keyturn; or have seen, of a former version. */
    async fields(of?: number): Promise<{ data: Readonly<Record<string, string>>; version: number }> {
      const response = await fetch(`${bao.address}/v1/secret/data/${path}${of === undefined ? '' : `?version=${of}`}`, {
        headers: { 'x-vault-token': bao.token },
      })
      const { data } = (await response.json()) as {
        data: { data: Record<string, string>; metadata: { version: number } }
      }
      return { data: data.data, version: data.metadata.version }
    },
  }
}
