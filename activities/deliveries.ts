/**
 * Writes a new key into its client's own store. The store is read first, so that a key that was written before a crash is not written again;
 * that it is there is noted with the proof, in the transaction that wipes the sealed secret.
 */
import { identityOf, type KeyId, type StoreDelivery } from '@keyturn/contract'
import { ApplicationFailure, cancellationSignal } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import { beginWriting, giveUpWriting, noteWritten, readStandings, readWriting, type Writing } from '../registry/deliveries.ts'
import { isStored, placeText } from '../registry/delivery-rows.ts'
import type { Sealer } from '../registry/sealing.ts'
import type { Outbound } from './channels/outbound.ts'
import { type By, dated } from './keys.ts'
import { beating } from './receipts.ts'
import { deposit, settle } from './stores/deposit.ts'
import { createIdentityTokens } from './stores/identity.ts'
import { type OpenedStore, openStore } from './stores/open-store.ts'
import { undeposited } from './stores/undeposited.ts'

/** How a failure is called that the next try would meet again. */
const REFUSED = 'refused'

export interface DeliveryDeps {
  readonly db: Database
  readonly sealer: Sealer
  /** To the stores of clients. */
  readonly outbound: Pick<Outbound, 'fetch'>
  /** Where the public keys are, by which clients' stores know us. */
  readonly publicUrl: string
}

export function createDeliveryActivities({ db, sealer, outbound, publicUrl }: DeliveryDeps) {
  const identityToken = createIdentityTokens({ sealer, issuer: publicUrl })

  /** @throws ApplicationFailure that names the place, and nothing of what was to be written */
  async function inStore<T>(
    delivery: StoreDelivery,
    { credentialId, clientId, kind }: Pick<Writing, 'credentialId' | 'clientId' | 'kind'>,
    work: (store: OpenedStore['store'], signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signal = cancellationSignal()
    try {
      const opened = await openStore(delivery, { credentialId, clientId, kind }, { identityToken, fetch: outbound.fetch, signal })
      try {
        return await beating(() => work(opened.store, signal))
      } finally {
        await opened.close()
      }
    } catch (error) {
      signal.throwIfAborted()
      const { message, refused } = undeposited(error, placeText(delivery))
      throw ApplicationFailure.create({ message, type: refused ? REFUSED : 'undelivered', nonRetryable: refused })
    }
  }

  /** Until it returns, the key can not be claimed. It has nothing to do where the key is there already, or is to be claimed after all. */
  const deliverKey = async ({ keyId, rotationId }: By & { keyId: KeyId }): Promise<void> => {
    const writing = await readWriting(db, keyId, sealer)
    if (writing?.secret === undefined || !isStored(writing.delivery) || writing.kind === 'ed25519') return
    const { delivery, credentialId, kind, version, secret: token } = writing
    const standings = () => readStandings(db, credentialId)
    const ask = async () => ((await beginWriting(db, keyId, delivery)) ? standings() : undefined)
    await inStore(delivery, writing, async (store, signal) => {
      const at = await deposit(store, credentialId, { keyId, version, kind, token }, ask, signal)
      if (at === undefined) return
      const noted = { keyId, rotationId, delivery, version: at, identity: identityOf(credentialId), at: new Date() }
      // Rolled back, or killed, while it was being written.
      if ((await noteWritten(db, noted)) === 'destroyed') await settle(store, credentialId, keyId, standings, signal)
    })
  }

  /** The key could not be written, and its client can not wait: it is to be claimed. @returns whether it was waiting to be written */
  const giveUpDelivery = async (input: By & { keyId: KeyId; why: string }): Promise<boolean> => giveUpWriting(db, dated(input))

  /** A new key is going, or gone: wherever it may have been written, the store is to have one that lives, as the registry has it. */
  const takeBackKey = async ({ keyId }: By & { keyId: KeyId }): Promise<void> => {
    const writing = await readWriting(db, keyId, sealer)
    if (writing === undefined) return
    const { credentialId, places, lostPlace } = writing
    const standings = () => readStandings(db, credentialId)
    const settleAt = async (place: StoreDelivery): Promise<void> => {
      const sound = await inStore(place, writing, (store, signal) => settle(store, credentialId, keyId, standings, signal))
      if (!sound) throw ApplicationFailure.nonRetryable(`${placeText(place)}: it has no key that is accepted`, REFUSED)
    }
    const failures = (await Promise.allSettled(places.map(settleAt))).flatMap((end) =>
      end.status === 'rejected' ? [end.reason] : [],
    )
    // One that another try may overcome goes first.
    const failure: unknown =
      failures.find((reason) => !(reason instanceof ApplicationFailure && reason.nonRetryable)) ?? failures[0]
    if (failure !== undefined) throw failure
    if (lostPlace !== undefined)
      throw ApplicationFailure.nonRetryable(`${lostPlace}: it was written there, and the delivery is another now`, REFUSED)
  }

  return { deliverKey, giveUpDelivery, takeBackKey }
}
