/** Telling the gateways of a change within the request that makes it, as far as that goes. */
import type { KeyId, Receipt } from '@keyturn/contract'
import { withinTime } from './dependencies.ts'
import type { ApiDeps } from './ports.ts'

/** How long an answer waits for the gateways. */
const PROPAGATION_WAIT_MS = 5_000

export interface Told {
  /** Of those keys that were published in time. */
  readonly receipts: readonly Receipt[]
  /** Every live gateway has applied all of it. */
  readonly everywhere: boolean
}

/**
 * Publishes keys and waits for the receipts. What can not be published now, the worker's sweep publishes later.
 * @param what it is, for the log: "a new key"
 */
export async function tellGateways({ propagation, log }: ApiDeps, keyIds: readonly KeyId[], what: string): Promise<Told> {
  const deadline = Date.now() + PROPAGATION_WAIT_MS
  const gaveUp = new AbortController()
  const receipts: Receipt[] = []
  const work = (async () => {
    const published = await Promise.all(keyIds.map((keyId) => propagation.publish(keyId)))
    for (const publication of published) {
      const timeoutMs = Math.max(0, deadline - Date.now())
      receipts.push(await propagation.waitForReceipt(publication, { timeoutMs, signal: gaveUp.signal }))
    }
  })()
  // What comes after we have given up is nobody's failure.
  work.catch(() => undefined)
  try {
    await withinTime('Kafka', PROPAGATION_WAIT_MS + 500, work)
  } catch (error) {
    log.warn({ err: error, keyIds }, `${what} could not be published; the sweep will`)
  } finally {
    gaveUp.abort()
  }
  const unconfirmed = [...new Set(receipts.flatMap((receipt) => receipt.unconfirmed))]
  if (unconfirmed.length > 0) log.warn({ keyIds, unconfirmed }, `${what} has not reached every gateway yet`)
  return { receipts: [...receipts], everywhere: receipts.length === keyIds.length && unconfirmed.length === 0 }
}
