import { ActivityFailure, CancellationScope, sleep } from '@temporalio/workflow'
import { keys, records } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { deliverAtOnce } from './deliver.ts'
import { killTakenBack } from './kill-new-key.ts'

/**
 * An emergency for a client that must not stop: it has its new key, and is told of it, before the old one dies. Ends when it has
 * switched over (the new key is used, and the old one has been quiet for a moment), or with the grace, whatever is waited for then.
 */
export async function grace(rotation: Rotation, graceMs: number): Promise<void> {
  const reason = rotation.turns.last?.reason ?? rotation.request.reason
  // A run that takes over after another one finds the end that was announced; or one of before the emergency, which is later.
  const announced = rotation.request.trigger === 'emergency' ? rotation.deadline : undefined
  rotation.graceEndsAt ??= Math.min(announced ?? Number.POSITIVE_INFINITY, Date.now() + graceMs)
  const endsAt = rotation.graceEndsAt
  const timer = new CancellationScope()
  timer
    .run(() => sleep(Math.max(1, endsAt - Date.now())))
    .then(() => rotation.takeOver(`the grace is over: ${reason}`, rotation.by.actor))
    // Cancelled below: the client was faster.
    .catch(() => {})
  try {
    await switchOver(rotation, { reason, graceMs, endsAt })
  } catch (error) {
    // Whatever can not be done for the client, the exposed key dies.
    if (!(error instanceof ActivityFailure)) throw error
  } finally {
    timer.cancel()
  }
}

async function switchOver(
  rotation: Rotation,
  { reason, graceMs, endsAt }: { reason: string; graceMs: number; endsAt: number },
): Promise<void> {
  const { oldKey, facts } = rotation
  if (rotation.request.trigger !== 'emergency') await records.takeOver({ ...rotation.by, reason, graceMs })
  if (rotation.stage === 'rolling-back') await rotation.enter('introducing', reason)
  const gone = await killTakenBack(rotation)
  const newKey = await keys.introduceKey({ ...rotation.by, claimUntil: rotation.claimUntil })
  rotation.introduced(newKey)
  rotation.entered('introducing')
  await rotation.published(newKey.keyId)

  await keys.deprecateKey({ ...rotation.by, keyId: oldKey.keyId, sunsetAt: endsAt, successor: newKey.version })
  rotation.deadline = endsAt
  rotation.entered('notifying')
  await rotation.published(oldKey.keyId)
  await deliverAtOnce(rotation, newKey)
  await rotation.tell('emergency')
  rotation.graced = true
  if (gone !== undefined) await rotation.published(gone.keyId)

  facts.delete('old-key-quiet')
  const evidence = await records.startMonitoring(rotation.by)
  rotation.entered('monitoring')
  if (!evidence.sufficient) await rotation.turns.wait(() => facts.has('old-key-quiet'))
}
