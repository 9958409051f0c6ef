import type { GatewayReceipt, KeyId, Receipt, RotationId } from '@keyturn/contract'
import { cancellationSignal, heartbeat } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import { recordReceipt } from '../registry/rotations.ts'
import type { Propagation, Publication } from './propagation.ts'

/** One slice of a long wait; what has come in is recorded after each. Spread, so that a fleet of held rotations is not in step. */
export const sliceMs = (): number => 40_000 + Math.floor(Math.random() * 20_000)
const HEARTBEAT_MS = 2_000

/** A publication as it passes through the workflow. */
export type PublicationRecord = Omit<Publication, 'publishedAt'> & { readonly publishedAt: string }

export interface Propagated {
  readonly receipt: Receipt
  readonly publication: PublicationRecord
}

/** Publishing a key and waiting for the receipt. Each receipt is recorded, complete or not. */
export function createReceiptActivities({ db, propagation }: { db: Database; propagation: Propagation }) {
  /** Publishes, and then waits for the receipt for `waitMs` at most. */
  const propagate = (input: { rotationId: RotationId; keyId: KeyId; waitMs: number }): Promise<Propagated> =>
    beating(async () => {
      const publication = await propagation.publish(input.keyId)
      const receipt = await propagation.waitForReceipt(publication, { timeoutMs: input.waitMs, signal: cancellationSignal() })
      await recordReceipt(db, { rotationId: input.rotationId, receipt })
      return { receipt, publication: { ...publication, publishedAt: publication.publishedAt.toISOString() } }
    })

  /** Waits as long as it takes: for gateways to come back, or to be declared gone. */
  const awaitReceipt = ({
    rotationId,
    publication,
  }: {
    rotationId: RotationId
    publication: PublicationRecord
  }): Promise<Receipt> =>
    beating(() => completeReceipt(propagation, publication, (receipt) => recordReceipt(db, { rotationId, receipt })))

  return { propagate, awaitReceipt }
}

/**
 * Waits until every gateway has confirmed; what has come in is recorded after each slice. Every slice but the first publishes again:
 * meanwhile the keys topic may have been lost and made anew, and an offset of the old one would be waited for in vain.
 */
export async function completeReceipt(
  propagation: Propagation,
  published: PublicationRecord,
  record: (receipt: Receipt) => Promise<void>,
): Promise<Receipt> {
  let publication: Publication = { ...published, publishedAt: new Date(published.publishedAt) }
  const lines = new Map<string, GatewayReceipt>()
  for (;;) {
    const slice = await propagation.waitForReceipt(publication, { timeoutMs: sliceMs(), signal: cancellationSignal() })
    for (const line of slice.gateways) if (!lines.has(line.gatewayId)) lines.set(line.gatewayId, line)
    const gateways = slice.gateways.map((line) => lines.get(line.gatewayId) ?? line)
    const receipt = { ...slice, gateways }
    await record(receipt)
    if (receipt.unconfirmed.length === 0) return receipt
    publication = { ...(await propagation.publish(publication.keyId)), publishedAt: publication.publishedAt }
  }
}

/** Heartbeats while work goes on, so that a dead worker is noticed and a cancellation arrives. */
export async function beating<T>(work: () => Promise<T>): Promise<T> {
  heartbeat()
  const timer = setInterval(() => heartbeat(), HEARTBEAT_MS)
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}
