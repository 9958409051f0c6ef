/** How the keys of a credential are delivered, as its row has it. */
import type { KeyDelivery, StoreDelivery } from '@keyturn/contract'

/** `due` until the key is in the store; `given-up` when it could not be written, so that it can be claimed. */
export type DeliveryState = 'due' | 'done' | 'given-up'

export const isStored = (delivery: KeyDelivery | null): delivery is StoreDelivery =>
  delivery?.method === 'vault' || delivery?.method === 'aws-secrets-manager'

/** Where a key is, for the client, the audit log and alerts: nothing in it is a secret. */
export const placeText = (delivery: StoreDelivery): string =>
  delivery.method === 'vault'
    ? `vault ${new URL(delivery.address).host} ${delivery.mount}/${delivery.path}`
    : `aws-secrets-manager ${delivery.region} ${delivery.secretId}`

export const CLAIM: KeyDelivery = { method: 'claim' }

/** As the column has it. */
export const stored = (delivery: KeyDelivery | undefined): KeyDelivery | null =>
  delivery === undefined || delivery.method === 'claim' ? null : delivery
