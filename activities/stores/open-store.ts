/** Opens a client's own store, in Keyturn's name, for one delivery. Nothing of ours is taken from the environment: the client's stores would. */
import type { Store } from '@keyturn/client'
import { awsStore } from '@keyturn/client/aws'
import { vaultStore } from '@keyturn/client/vault'
import { type AwsDelivery, identityOf, type KeyKind, type StoreDelivery, type VaultDelivery } from '@keyturn/contract'
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

/** A credential, as its store has to know it. */
interface Owner extends Identity {
  readonly kind: KeyKind
}

/** @throws Undeposited, Undelivered */
export const openStore = (delivery: StoreDelivery, identity: Owner, opening: StoreOpening): Promise<OpenedStore> =>
  delivery.method === 'vault' ? openVault(delivery, identity, opening) : openAws(delivery, identity, opening)

async function openVault(delivery: VaultDelivery, identity: Owner, opening: StoreOpening): Promise<OpenedStore> {
  const { address, mount, path, namespace = '', field, audience = address.replace(/\/+$/, '') } = delivery
  const { fetch, signal } = opening
  const { token, end } = await logInAtVault(delivery, await opening.identityToken(identity, audience), { fetch, signal })
  const options = { address, namespace, mount, path, token: () => token, ...fieldsOf(identity, field), fetch }
  return { store: vaultStore(options), close: end }
}

/** A token that a person has put there says nothing of its kind, and one that signs must never be shown. */
const fieldsOf = ({ credentialId, kind }: Owner, field: string | undefined) => ({
  credentialId,
  ...(kind === 'ed25519' ? {} : { kind }),
  ...(field === undefined ? {} : { field }),
})

const AWS_AUDIENCE = 'sts.amazonaws.com'

async function openAws(delivery: AwsDelivery, identity: Owner, opening: StoreOpening): Promise<OpenedStore> {
  const { region, secretId, field, audience = AWS_AUDIENCE, endpoint = awsEndpoint('secretsmanager', region) } = delivery
  const { fetch, signal } = opening
  const { credentialId } = identity
  const jwt = await opening.identityToken(identity, audience)
  // What CloudTrail calls it; STS takes no colon there.
  const session = identityOf(credentialId).replace(':', '-')
  const credentials = await takeOnRole(delivery, { jwt, session }, { fetch, signal })
  const options = { secretId, region, endpoint, credentials: async () => credentials, ...fieldsOf(identity, field), fetch }
  return { store: awsStore(options), close: async () => undefined }
}
