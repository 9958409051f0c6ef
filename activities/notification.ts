import { createHash } from 'node:crypto'
import type { KeyKind, LeakId, NotificationKind, RotationId } from '@keyturn/contract'
import { activityInfo, cancellationSignal } from '@temporalio/activity'
import { Webhook } from 'standardwebhooks'
import { fetch } from 'undici'
import { appendAudit } from '../registry/audit.ts'
import { claimCodeOf, claimOfKey } from '../registry/claims.ts'
import { type Client, type Contact, getClient } from '../registry/clients.ts'
import { getCredential } from '../registry/credentials.ts'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import { getKey } from '../registry/keys.ts'
import { factsOfLeak, type LeakFacts, leaksOfRotation } from '../registry/leaks.ts'
import { getRotation, type Rotation } from '../registry/rotations.ts'
import type { Sealer } from '../registry/sealing.ts'
import { readEvidence } from '../registry/usage.ts'

const REQUEST_TIMEOUT_MS = 10_000

export interface NotificationDeps {
  readonly db: Database
  readonly sealer: Sealer
  /** Where clients reach the API; a claim's address begins with it. */
  readonly publicUrl: string
}

/**
 * What a client's webhook receives, signed as Standard Webhooks has it. A POST to `claimUrl` hands out the new token once; of an `ed25519`
 * credential, it enrols the public key in it.
 */
export interface Notification {
  readonly type: `keyturn.rotation.${NotificationKind}`
  readonly timestamp: string
  readonly data: {
    readonly rotationId: RotationId
    readonly credentialId: string
    readonly credential: string
    readonly environment: string
    readonly kind: KeyKind
    readonly oldKey?: { readonly keyId: string; readonly state: string }
    readonly newKey?: { readonly keyId: string; readonly state: string }
    readonly sunsetAt?: string
    readonly claimUrl?: string
    readonly stragglers: readonly { readonly address: string; readonly userAgent: string; readonly lastAt: string }[]
    /** Why, when a leak is the reason. */
    readonly leaks?: readonly ToldLeak[]
  }
}

interface ToldLeak {
  readonly leakId: LeakId
  readonly keyId: string
  readonly reportedAt: string
  readonly sources: readonly { readonly source: string; readonly url: string }[]
}

/** What a client hears of a leak that needs no rotation: the key was dead already. */
export interface LeakNotification {
  readonly type: 'keyturn.leak.reported'
  readonly timestamp: string
  readonly data: ToldLeak & {
    readonly credentialId: string
    readonly credential: string
    readonly environment: string
    readonly key: { readonly keyId: string; readonly version: number; readonly state: string }
  }
}

/** Telling a client on its channels. The claim code is derived here and goes to the client alone (G5). */
export function createNotificationActivities(deps: NotificationDeps) {
  const notifyClient = async (input: { rotationId: RotationId; message: NotificationKind }): Promise<{ told: number }> => {
    const rotation = await getRotation(deps.db, input.rotationId)
    if (rotation === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${input.rotationId}`)
    const client = await getClient(deps.db, rotation.clientId)
    if (client === undefined || client.contacts.length === 0) return { told: 0 }
    const body = await compose(deps, rotation, input.message)
    if (body === undefined) return { told: 0 }
    await tell(deps, client, body, { subject: rotation.rotationId, rotationId: rotation.rotationId, message: input.message })
    return { told: client.contacts.length }
  }

  const notifyOfLeak = async ({ leakId }: { leakId: LeakId }): Promise<{ told: number }> => {
    const facts = await factsOfLeak(deps.db, leakId)
    const key = facts === undefined ? undefined : await getKey(deps.db, facts.keyId)
    if (facts === undefined || key === undefined)
      throw new RegistryError('unknown-leak', `there is no leak ${leakId} of one of our keys`)
    const client = await getClient(deps.db, key.clientId)
    if (client === undefined || client.contacts.length === 0) return { told: 0 }
    const notification: LeakNotification = {
      type: 'keyturn.leak.reported',
      timestamp: new Date().toISOString(),
      data: {
        ...toldLeak(facts),
        credentialId: key.credentialId,
        credential: (await getCredential(deps.db, key.credentialId))?.name ?? key.credentialId,
        environment: key.environment,
        key: { keyId: key.keyId, version: key.version, state: key.state },
      },
    }
    await tell(deps, client, JSON.stringify(notification), { subject: leakId, message: 'leak' })
    return { told: client.contacts.length }
  }
  return { notifyClient, notifyOfLeak }
}

/** Sends one message on all of a client's channels, and writes down that it was told. */
async function tell(
  { db, sealer }: NotificationDeps,
  client: Client,
  body: string,
  { message, ...about }: { subject: string; rotationId?: RotationId; message: NotificationKind },
): Promise<void> {
  // The same id over retries of one message, so that the receiver can tell a repetition.
  const id = `msg_${createHash('sha256').update(`${activityInfo().workflowExecution?.runId}/${activityInfo().activityId}`).digest('hex').slice(0, 32)}`
  const webhooks = webhookSecrets(sealer, client.clientId).map((secret) => new Webhook(secret))
  await Promise.all(client.contacts.map((contact) => post(contact, id, body, webhooks)))
  const detail = {
    message,
    clientId: client.clientId,
    to: client.contacts.map(({ channel, url }) => `${channel} ${new URL(url).host}`),
  }
  await db.tx((tx) => appendAudit(tx, { ...about, at: new Date(), actor: 'keyturn', action: 'client.told', detail }))
}

const toldLeak = ({ leakId, keyId, reportedAt, sources }: LeakFacts): ToldLeak => ({
  leakId,
  keyId,
  reportedAt: reportedAt.toISOString(),
  sources,
})

/**
 * The secrets that a client may verify our webhooks with: derived, so that they are stored nowhere. While the key-encryption key
 * is being replaced there are two, and what we send is signed with both.
 */
export const webhookSecrets = (sealer: Sealer, clientId: string): string[] =>
  sealer.derivations('webhook', clientId).map((secret) => `whsec_${Buffer.from(secret, 'utf8').toString('base64')}`)

async function compose(
  { db, sealer, publicUrl }: NotificationDeps,
  rotation: Rotation,
  kind: NotificationKind,
): Promise<string | undefined> {
  const evidence = await readEvidence(db, rotation.rotationId)
  // Between the timer and now the client may have switched over: then it is not nagged.
  if (kind === 'reminder' && evidence.newKeyFirstUsedAt !== undefined) return undefined
  const credential = await getCredential(db, rotation.credentialId)
  const oldKey = rotation.oldKeyId === undefined ? undefined : await getKey(db, rotation.oldKeyId)
  const newKey = rotation.newKeyId === undefined ? undefined : await getKey(db, rotation.newKeyId)
  const claim = newKey === undefined ? undefined : await claimOfKey(db, newKey.keyId)
  const leaks = await leaksOfRotation(db, rotation.rotationId)
  const notification: Notification = {
    type: `keyturn.rotation.${kind}`,
    timestamp: new Date().toISOString(),
    data: {
      rotationId: rotation.rotationId,
      credentialId: rotation.credentialId,
      credential: credential?.name ?? rotation.credentialId,
      environment: rotation.environment,
      kind: credential?.kind ?? 'bearer',
      ...(oldKey === undefined ? {} : { oldKey: { keyId: oldKey.keyId, state: oldKey.state } }),
      ...(newKey === undefined ? {} : { newKey: { keyId: newKey.keyId, state: newKey.state } }),
      ...(oldKey?.sunsetAt === undefined ? {} : { sunsetAt: oldKey.sunsetAt.toISOString() }),
      ...(claim?.state === 'open' ? { claimUrl: `${publicUrl}/v1/claims/${claimCodeOf(sealer, claim)}` } : {}),
      stragglers: evidence.stragglers.map(({ address, userAgent, lastAt }) => ({ address, userAgent, lastAt })),
      ...(leaks.length === 0 ? {} : { leaks: leaks.map(toldLeak) }),
    },
  }
  return JSON.stringify(notification)
}

/** One webhook. Neither the address nor the answer's body is repeated in an error: both may hold what is not ours to log. */
async function post(contact: Contact, id: string, body: string, webhooks: readonly Webhook[]): Promise<void> {
  const at = new Date()
  let status: number
  try {
    const response = await fetch(contact.url, {
      method: 'POST',
      redirect: 'manual',
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
        'webhook-signature': webhooks.map((webhook) => webhook.sign(id, at, body)).join(' '),
      },
      body,
      signal: AbortSignal.any([AbortSignal.timeout(REQUEST_TIMEOUT_MS), cancellationSignal()]),
    })
    await response.body?.cancel()
    status = response.status
  } catch (error) {
    throw new Error(
      `the client's webhook at ${new URL(contact.url).host} could not be reached (${error instanceof Error ? error.name : 'error'})`,
    )
  }
  if (status < 200 || status > 299) throw new Error(`the client's webhook at ${new URL(contact.url).host} answered ${status}`)
}
