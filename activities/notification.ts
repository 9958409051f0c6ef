/**
 * Telling a client. Each message is tried at once; what is left then (contacts that were not reached, reminders in quiet hours) a
 * workflow of its own goes on with, for a day.
 */
import { createHash } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import type { ClientId, CredentialId, KeyId, LeakId, NotificationKind, RotationId, Tell } from '@keyturn/contract'
import { ApplicationFailure, activityInfo, cancellationSignal } from '@temporalio/activity'
import { quietUntil } from '../planning/quiet-hours.ts'
import { appendAudit } from '../registry/audit.ts'
import { addClientEvent } from '../registry/client-events.ts'
import { endTrouble, noteTrouble, troublesOf } from '../registry/contact-troubles.ts'
import { type Contact, contactIdOf, contactText } from '../registry/contacts.ts'
import type { Database } from '../registry/database.ts'
import type { Sealer } from '../registry/sealing.ts'
import type { Alerts } from './alerts.ts'
import type { Courier } from './channels/courier.ts'
import { Undelivered } from './channels/undelivered.ts'
import { type Facts, factsOf, type Told } from './messages/facts.ts'
import { webhookBody } from './messages/webhook.ts'

export interface NotificationDeps {
  readonly db: Database
  readonly sealer: Sealer
  readonly courier: Courier
  readonly alerts: Pick<Alerts, 'raise' | 'raiseInTheEnd'>
  /** Where clients sign in at their provider. */
  readonly signInUrl?: string | undefined
}

/** A contact that a message has yet to reach. */
export interface Waiting {
  readonly contactId: string
  /** Channel and host: what alerts may say. */
  readonly to: string
  /** Why the first attempt came to nothing; nothing when there was none. */
  readonly why?: string
  readonly refused?: true
}

/** A message of which something is left to be done. It holds nothing of what the message says: that is looked up for every attempt (G5). */
export interface Delivery extends Told {
  readonly messageId: string
  readonly clientId: ClientId
  readonly credentialId: CredentialId
  readonly rotationId?: RotationId
  /** When it was first tried, or would have been. */
  readonly since: number
  readonly told: boolean
  readonly tell: Tell
  readonly waiting: readonly Waiting[]
  /** Quiet hours end then. */
  readonly notBefore?: number
}

export interface FirstTry {
  readonly told: number
  readonly left?: Delivery
}

/**
 * What came of an attempt: the contact was reached; or it is no longer used (false); or there is nothing any more that the client has to
 * hear; or quiet hours have begun, so that nothing was sent, and so many attempts were before that.
 */
export type Attempted = boolean | 'moot' | { readonly quietUntil: number; readonly attempts: number }

/** What can't wait goes to everybody, at any hour. */
const URGENT: ReadonlySet<NotificationKind> = new Set(['emergency', 'leak', 'second-claim'])
/** What waits for the end of quiet hours. */
const PATIENT: ReadonlySet<NotificationKind> = new Set(['reminder'])
/** So long an alert that is raised beside a message may keep it waiting. */
const ALERT_MS = 2_000
/** How a contact's answer that is final is called where it ends the attempts. */
const REFUSED = 'refused'

export function createNotificationActivities(deps: NotificationDeps) {
  const { db } = deps

  /** `at` is the time of the workflow; one that was begun before it was asked for has none. */
  const notifyClient = (input: { rotationId: RotationId; message: NotificationKind; at?: number }): Promise<FirstTry> =>
    tell(deps, { message: input.message, about: { rotationId: input.rotationId } }, input.at)

  const notifyOfLeak = (input: { leakId: LeakId; at?: number }): Promise<FirstTry> =>
    tell(deps, { message: 'leak', about: { leakId: input.leakId } }, input.at)

  const notifyOfClaim = (input: { keyId: KeyId; at: number }): Promise<FirstTry> =>
    tell(deps, { message: 'second-claim', about: { keyId: input.keyId } }, input.at)

  /**
   * One attempt at one contact. Its failures are Temporal's to try again, unless the contact refuses.
   */
  const deliver = async (input: { delivery: Delivery; contactId: string; at: number }): Promise<Attempted> => {
    const { delivery, contactId } = input
    const { scheduledTimestampMs, currentAttemptScheduledTimestampMs, attempt: count } = activityInfo()
    // The attempts of one call may go on for a day.
    const at = new Date(input.at + currentAttemptScheduledTimestampMs - scheduledTimestampMs)
    const facts = await factsOf(deps, delivery, at)
    if (facts === undefined) return 'moot'
    const contact = facts.client.contacts.find((each) => contactIdOf(facts.client.clientId, each) === contactId)
    if (contact === undefined) return false
    if ((await troublesOf(db, facts.client.clientId)).get(contactId)?.disabledAt !== undefined) return false
    const quiet = quietEndOf(facts)
    if (quiet !== undefined) return { quietUntil: quiet, attempts: count - 1 }
    try {
      await attempt(deps, facts, contact, delivery.messageId)
    } catch (error) {
      if (!(error instanceof Undelivered)) throw error
      throw ApplicationFailure.create({
        message: error.message,
        type: error.refused ? REFUSED : 'undelivered',
        nonRetryable: error.refused,
        ...(error.retryAfterMs === undefined ? {} : { nextRetryDelay: error.retryAfterMs }),
      })
    }
    await noteTold(deps, facts, [contact])
    return true
  }

  /** A message was given up for a contact. One that is no longer used from then on is told to people. */
  const giveUpOn = async (input: {
    delivery: Delivery
    contactId: string
    to: string
    why: string
    at: number
  }): Promise<void> => {
    const { delivery, contactId, to, why } = input
    const { clientId, credentialId, rotationId } = delivery
    const times = { since: new Date(delivery.since), at: new Date(input.at) }
    if (!(await noteTrouble(db, { clientId, contactId, contact: to, why, ...times }))) return
    const detail = `${to} of client ${clientId} is no longer used: ${why}. Give its contacts anew when it works (PUT /v1/clients/${clientId})`
    await deps.alerts.raise({
      kind: 'delivery-failed',
      credentialId,
      ...(rotationId === undefined ? {} : { rotationId }),
      detail: detail.slice(0, 500),
    })
  }

  return { notifyClient, notifyOfLeak, notifyOfClaim, deliver, giveUpOn }
}

/** The first attempt at a message, and what is left after it. */
async function tell(deps: NotificationDeps, told: Told, now = Date.now()): Promise<FirstTry> {
  const facts = await factsOf(deps, told, new Date(now))
  if (facts === undefined) return { told: 0 }
  const { client, credential, rotation, at } = facts
  const messageId = messageIdHere()
  const { type, data } = webhookBody(facts)
  await addClientEvent(deps.db, { clientId: client.clientId, messageId, at, type, data })
  const troubles = await troublesOf(deps.db, client.clientId)
  const contacts = client.contacts
    .map((contact) => ({ contact, contactId: contactIdOf(client.clientId, contact), to: contactText(contact) }))
    .filter(({ contactId }) => troubles.get(contactId)?.disabledAt === undefined)
  await alertIfStranded(
    deps,
    facts,
    contacts.map(({ contact }) => contact),
  )
  if (client.contacts.length === 0) return { told: 0 }

  const howTold = URGENT.has(told.message) ? 'all' : client.tell
  const left = (waiting: readonly Waiting[], more: Partial<Delivery> = {}): Delivery => ({
    ...told,
    messageId,
    clientId: client.clientId,
    credentialId: credential.credentialId,
    ...(rotation === undefined ? {} : { rotationId: rotation.rotationId }),
    since: at.getTime(),
    told: false,
    tell: howTold,
    waiting,
    ...more,
  })
  const names = contacts.map(({ contactId, to }) => ({ contactId, to }))
  if (contacts.length === 0) return { told: 0, left: left([]) }
  const notBefore = quietEndOf(facts)
  if (notBefore !== undefined) return { told: 0, left: left(names, { notBefore }) }

  const atOnce = howTold === 'all' ? contacts : contacts.slice(0, 1)
  const tried = await Promise.all(
    atOnce.map(async ({ contact, contactId, to }): Promise<{ contact?: Contact; waiting?: Waiting }> => {
      try {
        await attempt(deps, facts, contact, messageId)
        return { contact }
      } catch (error) {
        if (!(error instanceof Undelivered)) throw error
        return { waiting: { contactId, to, why: error.message, ...(error.refused ? { refused: true } : {}) } }
      }
    }),
  )
  const reached = tried.flatMap(({ contact }) => contact ?? [])
  const waiting = tried.flatMap(({ waiting: each }) => each ?? [])
  if (reached.length > 0) await noteTold(deps, facts, reached)
  if (waiting.length === 0) return { told: reached.length }
  const rest = howTold === 'all' ? [] : names.slice(1)
  return { told: reached.length, left: left([...waiting, ...rest], { told: reached.length > 0 }) }
}

/**
 * Of an exposed key whose client has no way to the new one: not by the old one, and by nothing that it is told. Somebody has to give it the
 * claim, and hears that here.
 */
async function alertIfStranded(
  { alerts, signInUrl }: NotificationDeps,
  facts: Facts,
  contacts: readonly Contact[],
): Promise<void> {
  const { message, credential, rotation, claimCode, byOldKey } = facts
  if ((message !== 'emergency' && message !== 'leak') || rotation === undefined || claimCode === undefined) return
  if (byOldKey !== undefined || signInUrl !== undefined || contacts.some(({ channel }) => channel === 'webhook')) return
  if (rotation.policy.claimInMessages === true && contacts.length > 0) return
  const { rotationId } = rotation
  const detail = `the client can not fetch its new key: its old one opens nothing any more, and no message leads there. Once you know that it is the client, give it what this prints: keyturn claim ${rotationId} --reason "…" (POST /v1/rotations/${rotationId}/claim)`
  const raised = alerts.raiseInTheEnd({ kind: 'notification-failed', credentialId: credential.credentialId, rotationId, detail })
  // An urgent message does not wait for Kafka; the worker may be stopping.
  await Promise.race([raised.catch(() => {}), setTimeout(ALERT_MS, undefined, { ref: false })])
}

/** When the quiet hours end that a message has to wait for. */
function quietEndOf({ message, client: { quietHours, timeZone }, at }: Facts): number | undefined {
  return quietHours === undefined || !PATIENT.has(message) ? undefined : quietUntil(quietHours, timeZone, at.getTime())
}

const attempt = ({ courier }: NotificationDeps, facts: Facts, contact: Contact, id: string): Promise<void> =>
  courier.send(contact, facts, { id, signal: cancellationSignal() })

/** Of this activity, however often it is tried. */
function messageIdHere(): string {
  const { workflowExecution, activityId } = activityInfo()
  return `msg_${createHash('sha256').update(`${workflowExecution?.runId}/${activityId}`).digest('hex').slice(0, 32)}`
}

async function noteTold(
  { db }: NotificationDeps,
  { message, client, rotation, leaks }: Facts,
  contacts: readonly Contact[],
): Promise<void> {
  const subject = rotation?.rotationId ?? leaks[0]?.leakId ?? client.clientId
  const detail = { message, clientId: client.clientId, to: contacts.map(contactText) }
  await db.tx(async (tx) => {
    for (const contact of contacts) await endTrouble(tx, client.clientId, contactIdOf(client.clientId, contact))
    await appendAudit(tx, {
      at: new Date(),
      actor: 'keyturn',
      action: 'client.told',
      subject,
      detail,
      ...(rotation === undefined ? {} : { rotationId: rotation.rotationId }),
    })
  })
}
