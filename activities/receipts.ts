import {
  type GatewayReceipt,
  type KeyEventType,
  type KeyId,
  LONGEST_RECEIPT_WAIT_MS,
  type Receipt,
  type RotationId,
} from '@keyturn/contract'
import { cancellationSignal, heartbeat } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import { confirmedOverFallback, endOfKey } from '../registry/fallback.ts'
import { recordReceipt } from '../registry/rotations.ts'
import type { Confirmation, Propagation, Publication } from './propagation.ts'

const SLICE_MS = { first: 5_000, longest: 40_000 } as const
/**
 * One slice of a long wait; what has come in is recorded after each. The longer it takes, the longer they are; spread, so that a fleet of held
 * rotations is not in step.
 * @param before how many there were
 */
export const sliceMs = (before: number): number =>
  Math.floor(Math.min(SLICE_MS.first * 2 ** before, SLICE_MS.longest) * (1 + Math.random() / 2))
const HEARTBEAT_MS = 2_000
/** While watermarks are waited for, this often it is looked at what gateways have said over the fallback. */
export const FALLBACK_LOOK_MS = 10_000
/** What the fallback tells of. */
const ENDS: readonly KeyEventType[] = ['keyturn.key.suspended', 'keyturn.key.deactivated', 'keyturn.key.compromised']

/** A publication as it passes through the workflow. */
export type PublicationRecord = Omit<Publication, 'publishedAt'> & { readonly publishedAt: string }

export const toPublicationRecord = (publication: Publication): PublicationRecord => ({
  ...publication,
  publishedAt: publication.publishedAt.toISOString(),
})

export interface Propagated {
  readonly receipt: Receipt
  /** Nothing when Kafka is away, and only where the rotation may go on without it. */
  readonly publication?: PublicationRecord
}

interface PropagateInput {
  readonly rotationId: RotationId
  readonly keyId: KeyId
  readonly waitMs: number
  /** When Kafka is away and the key has ended, gateways hear of it over the fallback: that is enough to go on, not to be done. */
  readonly mayGoOn?: boolean
}

export interface ReceiptDeps {
  readonly db: Database
  readonly propagation: Propagation
}

/** Publishing a key and waiting for the receipt. Each receipt is recorded, complete or not. */
export function createReceiptActivities(deps: ReceiptDeps) {
  const { db, propagation } = deps
  /** Publishes, and then waits for the receipt for `waitMs` at most. */
  const propagate = (input: PropagateInput): Promise<Propagated> =>
    beating(async () => {
      let publication: Publication
      try {
        publication = await propagation.publish(input.keyId)
      } catch (error) {
        const receipt = error instanceof RegistryError ? undefined : await overFallback(input.keyId)
        if (receipt === undefined) throw error
        await recordReceipt(db, { rotationId: input.rotationId, receipt })
        // Gateways that start when Kafka is back must find the event there: before that nothing is done.
        if (input.mayGoOn !== true) throw error
        return { receipt }
      }
      // A policy that was stored before there was a limit may say more than the activity may take.
      const receipt = await waitFor(deps, publication, Math.min(input.waitMs, LONGEST_RECEIPT_WAIT_MS))
      await recordReceipt(db, { rotationId: input.rotationId, receipt })
      return { receipt, publication: toPublicationRecord(publication) }
    })

  /** Waits as long as it takes: for gateways to come back, or to be declared gone. */
  const awaitReceipt = ({
    rotationId,
    publication,
  }: {
    rotationId: RotationId
    publication: PublicationRecord
  }): Promise<Receipt> =>
    beating(() => completeReceipt(deps, publication, (receipt) => recordReceipt(db, { rotationId, receipt })))

  /**
   * The receipt while Kafka is away, of a key that has ended. The gateways are those that were known last: without Kafka none can
   * begin to serve.
   */
  async function overFallback(keyId: KeyId): Promise<Receipt | undefined> {
    const end = await endOfKey(db, keyId)
    if (end === undefined) return undefined
    const known = [...propagation.watch.known().keys()].sort()
    const { at, ...what } = end
    const receipt = { ...what, keyId, publishedAt: at.toISOString(), gateways: [], unconfirmed: known }
    return withFallback(db, receipt, { keyId, revision: end.revision, publishedAt: at })
  }

  return { propagate, awaitReceipt }
}

/** Waits for watermarks; of a key that has ended, what a gateway says over the fallback is as good. */
async function waitFor({ db, propagation }: ReceiptDeps, publication: Publication, timeoutMs: number): Promise<Receipt> {
  const isEnd = ENDS.includes(publication.event)
  const until = performance.now() + timeoutMs
  for (;;) {
    const left = Math.max(0, Math.ceil(until - performance.now()))
    const slice = { timeoutMs: isEnd ? Math.min(left, FALLBACK_LOOK_MS) : left, signal: cancellationSignal() }
    const receipt = await propagation.waitForReceipt(publication, slice)
    const whole = isEnd && receipt.unconfirmed.length > 0 ? await withFallback(db, receipt, publication) : receipt
    if (whole.unconfirmed.length === 0 || performance.now() >= until) return whole
  }
}

async function withFallback(
  db: Database,
  receipt: Receipt,
  { keyId, revision, publishedAt }: Pick<Publication, 'keyId' | 'revision' | 'publishedAt'>,
): Promise<Receipt> {
  return { ...receipt, ...joined(receipt, await confirmedOverFallback(db, { keyId, revision, since: publishedAt })) }
}

/** What watermarks say, and what gateways have said over the fallback. */
export const joined = ({ gateways, unconfirmed }: Confirmation, said: readonly GatewayReceipt[]): Confirmation => ({
  gateways: [...gateways, ...said.filter(({ gatewayId }) => unconfirmed.includes(gatewayId))],
  unconfirmed: unconfirmed.filter((gatewayId) => !said.some((line) => line.gatewayId === gatewayId)),
})

/**
 * Waits until every gateway has confirmed; what has come in is recorded after each slice. Every slice but the first publishes again:
 * meanwhile the keys topic may have been lost and made anew, and an offset of the old one would be waited for in vain. It stays the receipt of
 * what was published first, whatever has changed of the key since: who is past a later event is past that one.
 */
export async function completeReceipt(
  deps: ReceiptDeps,
  published: PublicationRecord,
  record: (receipt: Receipt) => Promise<void>,
): Promise<Receipt> {
  const of = { event: published.event, revision: published.revision, publishedAt: new Date(published.publishedAt) }
  let publication: Publication = { ...published, ...of }
  const lines = new Map<string, GatewayReceipt>()
  for (let slices = 0; ; slices++) {
    const slice = await waitFor(deps, publication, sliceMs(slices))
    for (const line of slice.gateways) if (!lines.has(line.gatewayId)) lines.set(line.gatewayId, line)
    const gateways = slice.gateways.map((line) => lines.get(line.gatewayId) ?? line)
    const receipt = { ...slice, gateways }
    await record(receipt)
    if (receipt.unconfirmed.length === 0) return receipt
    publication = { ...(await deps.propagation.publish(publication.keyId)), ...of }
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
