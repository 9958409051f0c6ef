import { ActivityFailure } from '@temporalio/common'
import {
  CancellationScope,
  condition,
  defineSignal,
  getExternalWorkflowHandle,
  log,
  sleep,
  workflowInfo,
} from '@temporalio/workflow'
import type { Delivery, Waiting } from '../activities/notification.ts'
import { lastCause } from './last-cause.ts'
import { alerts, deliveries, givenUp, MOST_ATTEMPTS } from './proxies.ts'

/** What becomes of a message: sent to the workflow that waits for it, at once when it is known, and again when it changes for the better. */
export interface DeliveryNews {
  readonly messageId: string
  readonly told: boolean
  /** Of every contact that was not reached, why. */
  readonly why: string
}
export const deliverySignal = defineSignal<[DeliveryNews]>('delivery')

/** So long a contact has for its first attempts before the next one is tried beside it. */
const QUICKLY_MS = 60_000
/** After this whoever waits hears that nobody was reached yet; a mail server that has a new sender wait lets it in before that. */
const PATIENCE_MS = 15 * 60_000
const LONGEST_DETAIL = 500

/** What came of all attempts at a contact. */
type Outcome = 'reached' | 'moot' | { readonly why: string }

/** Quiet hours that have begun while a message was under way end then. */
interface Quiet {
  until: number
}

/**
 * Goes on with a message that the first attempt has left: tries each contact for a day, the next one as soon as one fails or takes
 * long, and tells whoever has begun it. Its workflow id is `message/<messageId>`.
 */
export async function deliverMessage(delivery: Delivery): Promise<void> {
  const { waiting, tell, notBefore } = delivery
  let told = delivery.told
  // There is nothing any more that the client has to hear.
  let moot = false
  const quiet: Quiet = { until: 0 }
  const failures = new Map(
    waiting.flatMap(({ contactId, to, why }) => (why === undefined ? [] : [[contactId, `${to}: ${why}`] as const])),
  )
  const open = new Set(waiting.map(({ contactId }) => contactId))
  if (notBefore !== undefined) await sleep(Math.max(1, notBefore - Date.now()))

  const why = (): string => [...failures.values()].join('; ') || 'none of its contacts is used any more'
  const settled = (): boolean => told || moot || open.size === 0
  /** Waits so long at most; quiet hours do not count. */
  const soon = async (holds: () => boolean, ms: number): Promise<void> => {
    await condition(holds, ms)
    while (!holds() && quiet.until > Date.now()) await condition(holds, quiet.until - Date.now() + ms)
  }
  const report = async (): Promise<void> => {
    if (delivery.told) return
    const news = () => tellParent({ messageId: delivery.messageId, told, why: why() })
    await soon(settled, PATIENCE_MS)
    if (moot && !told) return
    await news()
    if (told) return
    await alert(delivery, why())
    await condition(settled)
    if (told) await news()
  }

  const reporting = report()
  const tries: Promise<void>[] = []
  for (const contact of waiting) {
    if (tell === 'first' && (told || moot)) break
    tries.push(
      tryFor(delivery, contact, quiet).then((outcome) => {
        if (outcome === 'reached') told = true
        else if (outcome === 'moot') moot = true
        else failures.set(contact.contactId, `${contact.to}: ${outcome.why}`)
        open.delete(contact.contactId)
      }),
    )
    if (tell === 'first') await soon(() => told || moot || !open.has(contact.contactId), QUICKLY_MS)
  }
  // Those whose turn does not come.
  if (told || moot) for (const { contactId } of waiting.slice(tries.length)) open.delete(contactId)
  await Promise.all([...tries, reporting])
}

async function tryFor(delivery: Delivery, { contactId, to, why: first, refused }: Waiting, quiet: Quiet): Promise<Outcome> {
  let why = first ?? ''
  if (refused !== true) {
    try {
      const came = await attempts(delivery, contactId, quiet)
      if (came === 'moot') return 'moot'
      return came ? 'reached' : { why: 'no longer to be told' }
    } catch (error) {
      if (!(error instanceof ActivityFailure)) throw error
      why = lastCause(error)
    }
  }
  try {
    await givenUp.giveUpOn({ delivery, contactId, to, why, at: Date.now() })
  } catch (error) {
    if (!(error instanceof ActivityFailure)) throw error
    log.warn('a message that was given up could not be noted', { messageId: delivery.messageId, contactId })
  }
  return { why }
}

/** Those of a day, without the quiet hours that begin meanwhile. */
async function attempts(delivery: Delivery, contactId: string, quiet: Quiet): Promise<boolean | 'moot'> {
  for (let left = MOST_ATTEMPTS; ; ) {
    const came = await deliveries(left).deliver({ delivery, contactId, at: Date.now() })
    if (typeof came !== 'object') return came
    // None at all would stand for as many as one likes.
    left = Math.max(1, left - came.attempts)
    quiet.until = came.quietUntil
    await sleep(Math.max(1, came.quietUntil - Date.now()))
  }
}

async function tellParent(news: DeliveryNews): Promise<void> {
  const { parent } = workflowInfo()
  if (parent === undefined) return
  // One that has ended needs no news.
  await getExternalWorkflowHandle(parent.workflowId, parent.runId)
    .signal(deliverySignal, news)
    .catch(() => undefined)
}

/** That nobody could be told is no reason to stop. */
async function alert({ credentialId, rotationId, message }: Delivery, why: string): Promise<void> {
  const detail = `the client was not told "${message}": ${why}`.slice(0, LONGEST_DETAIL)
  const whose = { credentialId, ...(rotationId === undefined ? {} : { rotationId }) }
  await CancellationScope.nonCancellable(() => alerts.raiseAlert({ kind: 'notification-failed', ...whose, detail })).catch(
    () => undefined,
  )
}
