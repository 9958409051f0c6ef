import { patched } from '@temporalio/workflow'
import type { OldKey } from '../../activities/keys.ts'
import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { takeBack } from './deliver.ts'

/** Goes back to the old key. It is accepted again everywhere before the new one is refused anywhere; one that has expired would not be. */
export async function rollBack(rotation: Rotation): Promise<void> {
  const { oldKey, newKey } = rotation
  const reason = rotation.turns.last?.reason ?? 'rolled back'
  const { reinstated, expired } = await keys.reinstateKey({ ...rotation.by, keyId: oldKey.keyId, reason })
  if (expired === true) await rotation.goForward()
  if (!reinstated) {
    rotation.takeOver('the old key was compromised meanwhile: the rotation rolls forward', 'keyturn')
    rotation.turns.breakOff()
  }
  rotation.oldKeyIs = 'accepted'
  rotation.entered('rolling-back', reason)
  await rotation.appliedEverywhere(oldKey.keyId)
  if (newKey !== undefined) {
    // It may have been waited for long.
    if (rotation.oldKeyExpired) await rotation.goForward()
    const back = await takeBack(rotation, newKey)
    // A history from before keys were asked when they expire has no answer here.
    const retired: { expired?: true } | undefined = await keys.retireNewKey({ ...rotation.by, oldKeyId: oldKey.keyId, reason })
    if (retired?.expired === true) await rotation.goForward()
    rotation.newKeyRetired = true
    // A write that this has broken off may have come after all; from here nobody writes the new key any more, and it need not stay beside the old.
    if (newKey.written === true && patched('store-after-the-end')) await takeBack(rotation, newKey, { told: !back })
    await rotation.appliedEverywhere(newKey.keyId)
  }
  const end = `${reason}${untilWhen(oldKey)}`
  await rotation.alert('rolled-back', end)
  await rotation.tell('rolled-back')
  await rotation.end('rolled-back', end)
}

/** Whoever reads it has so long to rotate the credential again. */
const untilWhen = ({ expiresAt }: OldKey): string =>
  expiresAt === undefined ? '' : `; the old key expires at ${new Date(expiresAt).toISOString()}`
