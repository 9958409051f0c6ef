/** Opens a client's own store, in Keyturn's name, for one delivery. Nothing of ours is taken from the environment: the client's stores would. */
import type { Store } from '@keyturn/client'
import { awsStore } from '@keyturn/client/aws'
import { vaultStore } from '@keyturn/client/vault'
import { type AwsDelivery, identityOf, type StoreDelivery, type VaultDelivery } from '@keyturn/contract'
import { awsEndpoint, takeOnRole } from './aws-role.ts'
import type { Identity } from './identity.ts'
import { logInAtVault } from './vault-login.ts'

export interface StoreOpening {
  readonly identityToken: (identity: Identity, audience: string) => Promise<string>
  readonly fetch: typeof globalThis.fetch
  readonly signal: AbortSignal
}

export interface OpenedStore {
  readonly store: Store
  close(): Promise<void>
}

/** @throws Undeposited, Undelivered */
export const openStore = (delivery: StoreDelivery, identity: Identity, opening: StoreOpening): Promise<OpenedStore> =>
  delivery.method === 'vault' ? openVault(delivery, identity, opening) : openAws(delivery, identity, opening)

async function openVault(delivery: VaultDelivery, identity: Identity, opening: StoreOpening): Promise<OpenedStore> {
  const { address, mount, path, namespace = '', field, audience = address.replace(/\/+$/, '') } = delivery
  const { fetch, signal } = opening
  const { token, end } = await logInAtVault(delivery, await opening.identityToken(identity, audience), { fetch, signal })
  const { credentialId } = identity
  const options = { address, namespace, mount, path, token: () => token, credentialId, fetch }
  return { store: vaultStore(field === undefined ? options : { ...options, field }), close: end }
}

const AWS_AUDIENCE = 'sts.amazonaws.com'

async function openAws(delivery: AwsDelivery, identity: Identity, opening: StoreOpening): Promise<OpenedStore> {
  const { region, secretId, field, audience = AWS_AUDIENCE, endpoint = awsEndpoint('secretsmanager', region) } = delivery
  const { fetch, signal } = opening
  const { credentialId } = identity
  const jwt = await opening.identityToken(identity, audience)
  // What CloudTrail calls it; STS takes no colon there.
  const session = identityOf(credentialId).replace(':', '-')
  const credentials = await takeOnRole(delivery, { jwt, session }, { fetch, signal })
  const options = { secretId, region, endpoint, credentials: async () => credentials, credentialId, fetch }
  return { store: awsStore(field === undefined ? options : { ...options, field }), close: async () => undefined }
}
