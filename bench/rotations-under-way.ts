/** Rotations as a provider has them: made over the API, each of a client and a credential of its own. */
import { setTimeout as pause } from 'node:timers/promises'
import type { CredentialId, Receipt, RotationId, RotationStage, TimelineEntry } from '@keyturn/contract'
import type { BenchHouse } from './house.ts'

export interface HeldCredential {
  readonly credentialId: CredentialId
  /** Of its first key. */
  readonly token: string
}

export interface UnderWay extends HeldCredential {
  readonly rotationId: RotationId
}

interface RotationBody {
  readonly stage: RotationStage
  readonly receipts: readonly Receipt[]
  readonly timeline: readonly TimelineEntry[]
}

const LOOK_AGAIN_MS = 25
const WITHIN_MS = 60_000

/** A credential whose first key its client holds, who is told of rotations at the webhook. */
export async function createCredential(
  house: BenchHouse,
  { webhook, scopes = ['orders:read'] }: { webhook?: string; scopes?: readonly string[] } = {},
): Promise<HeldCredential> {
  const contacts = webhook === undefined ? [] : [{ channel: 'webhook', url: webhook }]
  const { clientId } = await house.call<{ clientId: string }>('POST', '/v1/clients', { name: 'Bench', contacts })
  const { credentialId, claim } = await house.call<{ credentialId: CredentialId; claim: string }>(
    'POST',
    `/v1/clients/${clientId}/credentials`,
    { name: 'bench', environment: 'prod', scopes },
  )
  const { token } = await house.call<{ token: string }>('POST', `/v1/claims/${claim}`, {})
  return { credentialId, token }
}

export async function rotate(house: BenchHouse, credential: HeldCredential, terms: object): Promise<UnderWay> {
  const { rotationId } = await house.call<{ rotationId: RotationId }>(
    'POST',
    `/v1/credentials/${credential.credentialId}/rotations`,
    { trigger: 'manual', reason: 'bench', regretWindow: '0s', ...terms },
  )
  return { ...credential, rotationId }
}

/** Waits until a rotation is in a stage. */
export async function reached(house: BenchHouse, { rotationId }: UnderWay, stage: RotationStage): Promise<RotationBody> {
  for (const giveUp = Date.now() + WITHIN_MS; ; ) {
    const rotation = await house.call<RotationBody>('GET', `/v1/rotations/${rotationId}`)
    if (rotation.stage === stage) return rotation
    if (Date.now() > giveUp) throw new Error(`rotation ${rotationId} is ${rotation.stage}, not ${stage}, after ${WITHIN_MS} ms`)
    await pause(LOOK_AGAIN_MS)
  }
}

/** Does `work` for 0 to `count - 1`, so many at once. */
export async function inParallel<T>(count: number, atOnce: number, work: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = []
  let next = 0
  const lane = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) results[i] = await work(i)
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, lane))
  return results
}
