import type { KeyId, Receipt, RotationId } from '@keyturn/contract'
import { cancellationSignal, heartbeat } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import { recordReceipt } from '../registry/rotations.ts'
import type { Propagation, Publication } from './propagation.ts'

/** One slice of a long wait; what has come in is recorded after each. */
const SLICE_MS = 60_000
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
  const awaitReceipt = (input: { rotationId: RotationId; publication: PublicationRecord }): Promise<Receipt> =>
    beating(async () => {
      const publication = { ...input.publication, publishedAt: new Date(input.publication.publishedAt) }
      for (;;) {
        const receipt = await propagation.waitForReceipt(publication, { timeoutMs: SLICE_MS, signal: cancellationSignal() })
        await recordReceipt(db, { rotationId: input.rotationId, receipt })
        if (receipt.unconfirmed.length === 0) return receipt
      }
    })

  return { propagate, awaitReceipt }
}

/** Heartbeats while work goes on, so that a dead worker is noticed and a cancellation arrives. */
async function beating<T>(work: () => Promise<T>): Promise<T> {
  heartbeat()
  const timer = setInterval(() => heartbeat(), HEARTBEAT_MS)
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}
