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
import { alerts, deliveries, givenUp } from './proxies.ts'

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

/**
 * Goes on with a message that the first attempt has left: tries each contact for a day, the next one as soon as one fails or takes
 * long, and tells whoever has begun it. Its workflow id is `message/<messageId>`.
 */
export async function deliverMessage(delivery: Delivery): Promise<void> {
  const { waiting, tell, notBefore } = delivery
  let told = delivery.told
  const failures = new Map(
    waiting.flatMap(({ contactId, to, why }) => (why === undefined ? [] : [[contactId, `${to}: ${why}`] as const])),
  )
  const open = new Set(waiting.map(({ contactId }) => contactId))
  if (notBefore !== undefined) await sleep(Math.max(1, notBefore - Date.now()))

  const why = (): string => [...failures.values()].join('; ') || 'none of its contacts is used any more'
  const report = async (): Promise<void> => {
    if (delivery.told) return
    const news = () => tellParent({ messageId: delivery.messageId, told, why: why() })
    await condition(() => told || open.size === 0, PATIENCE_MS)
    await news()
    if (told) return
    await alert(delivery, why())
    await condition(() => told || open.size === 0)
    if (told) await news()
  }

  const reporting = report()
  const tries: Promise<void>[] = []
  for (const contact of waiting) {
    if (tell === 'first' && told) break
    tries.push(
      tryFor(delivery, contact).then((outcome) => {
        if (outcome === undefined) told = true
        else failures.set(contact.contactId, `${contact.to}: ${outcome}`)
        open.delete(contact.contactId)
      }),
    )
    if (tell === 'first') await condition(() => told || !open.has(contact.contactId), QUICKLY_MS)
  }
  // Those whose turn does not come.
  if (told) for (const { contactId } of waiting.slice(tries.length)) open.delete(contactId)
  await Promise.all([...tries, reporting])
}

/** @returns why it came to nothing; nothing when the contact was reached, or there is no need any more */
async function tryFor(delivery: Delivery, { contactId, to, why: first, refused }: Waiting): Promise<string | undefined> {
  let why = first ?? ''
  if (refused !== true) {
    try {
      if (await deliveries.deliver({ delivery, contactId, at: Date.now() })) return undefined
      return 'no longer to be told'
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
  return why
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
