/** What is known of the thing that a client is told of: all channels say the same. */
import type { Evidence, KeyId, LeakId, NotificationKind, RotationId, Switchover } from '@keyturn/contract'
import { type ByOldKey, byOldKey } from '../../registry/by-old-key.ts'
import { claimCodeOf, claimOfKey } from '../../registry/claims.ts'
import { type Client, getClient } from '../../registry/clients.ts'
import { type Credential, getCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import { RegistryError } from '../../registry/errors.ts'
import { getKey, type KeyRow } from '../../registry/keys.ts'
import { factsOfLeak, type LeakFacts, leaksOfRotation } from '../../registry/leaks.ts'
import { getRotation, type Rotation } from '../../registry/rotations.ts'
import type { Sealer } from '../../registry/sealing.ts'
import { switchoverOf } from '../../registry/switchover.ts'
import { readEvidence } from '../../registry/usage.ts'

/** What a message is about. */
export type About =
  | { readonly rotationId: RotationId }
  | { readonly leakId: LeakId }
  /** A key whose claim was used twice. */
  | { readonly keyId: KeyId }

export interface Told {
  readonly message: NotificationKind
  readonly about: About
}

export interface Facts {
  readonly message: NotificationKind
  readonly at: Date
  readonly client: Client
  readonly credential: Credential
  readonly rotation?: Rotation
  readonly oldKey?: KeyRow
  readonly newKey?: KeyRow
  /** Of a claim that can be used; for messages that are to hold it. */
  readonly claimCode?: string
  /** Where the old key opens the way to the new one. */
  readonly byOldKey?: ByOldKey
  /** Where the new key has been written. */
  readonly place?: string
  readonly evidence?: Evidence
  readonly switchover?: Switchover
  readonly leaks: readonly LeakFacts[]
}

/** In the place of a claim where nobody is to read it. */
export const CLAIM_NOT_SHOWN = '(the claim)'

interface Sources {
  readonly db: Database
  /** Without it, no claim is in the facts. */
  readonly sealer?: Sealer
}

/** Before the client has switched over, there is something to be done; after that these are old news. */
const OF_AN_OPEN_WINDOW: ReadonlySet<NotificationKind> = new Set(['introduced', 'reminder', 'deadline-near'])

/**
 * @param at now, for the workflow that asks
 * @returns nothing when there is no need any more to tell it
 * @throws RegistryError unknown-rotation, unknown-leak, unknown-key
 */
export async function factsOf(sources: Sources, { message, about }: Told, at: Date): Promise<Facts | undefined> {
  if ('rotationId' in about) return factsOfRotation(sources, message, about.rotationId, at)
  if ('leakId' in about) return factsOfOneLeak(sources, message, about.leakId, at)
  const key = await getKey(sources.db, about.keyId)
  if (key === undefined) throw new RegistryError('not-found', `there is no key ${about.keyId}`)
  return { message, at, leaks: [], ...(await ownerOf(sources, key)) }
}

async function ownerOf(
  { db }: Sources,
  { credentialId }: { credentialId: string },
): Promise<Pick<Facts, 'client' | 'credential'>> {
  const credential = await getCredential(db, credentialId)
  const client = credential === undefined ? undefined : await getClient(db, credential.clientId)
  if (credential === undefined || client === undefined)
    throw new RegistryError('unknown-credential', `there is no credential ${credentialId}`)
  return { client, credential }
}

async function factsOfOneLeak(sources: Sources, message: NotificationKind, leakId: LeakId, at: Date): Promise<Facts> {
  const leak = await factsOfLeak(sources.db, leakId)
  const oldKey = leak === undefined ? undefined : await getKey(sources.db, leak.keyId)
  if (leak === undefined || oldKey === undefined)
    throw new RegistryError('unknown-leak', `there is no leak ${leakId} of one of our keys`)
  return { message, at, oldKey, leaks: [leak], ...(await ownerOf(sources, oldKey)) }
}

async function factsOfRotation(
  sources: Sources,
  message: NotificationKind,
  rotationId: RotationId,
  at: Date,
): Promise<Facts | undefined> {
  const { db, sealer } = sources
  const rotation = await getRotation(db, rotationId)
  if (rotation === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${rotationId}`)
  if (OF_AN_OPEN_WINDOW.has(message) && rotation.endedAt !== undefined) return undefined
  const evidence = await readEvidence(db, rotationId)
  // Between the timer and now the client may have switched over: then it is not nagged.
  if (message === 'reminder' && evidence.newKeyFirstUsedAt !== undefined) return undefined
  if (message === 'deadline-near' && evidence.sufficient) return undefined
  const [owner, oldKey, newKey, leaks, switchover, shownAs] = await Promise.all([
    ownerOf(sources, rotation),
    rotation.oldKeyId === undefined ? undefined : getKey(db, rotation.oldKeyId),
    rotation.newKeyId === undefined ? undefined : getKey(db, rotation.newKeyId),
    leaksOfRotation(db, rotationId),
    switchoverOf(db, rotationId),
    byOldKey(db, rotationId),
  ])
  const claim = newKey === undefined ? undefined : await claimOfKey(db, newKey.keyId)
  return {
    message,
    at,
    ...owner,
    rotation,
    evidence,
    leaks,
    ...(oldKey === undefined ? {} : { oldKey }),
    ...(newKey === undefined ? {} : { newKey }),
    ...(switchover === undefined ? {} : { switchover }),
    ...(shownAs === undefined ? {} : { byOldKey: shownAs }),
    ...(claim?.written === 'done' && claim.claimedFrom !== undefined && message !== 'rolled-back'
      ? { place: claim.claimedFrom }
      : {}),
    ...(claim?.state === 'open' && claim.written !== 'due'
      ? { claimCode: sealer === undefined ? CLAIM_NOT_SHOWN : claimCodeOf(sealer, claim) }
      : {}),
  }
}
