import type { IssuedKey } from '../../activities/keys.ts'
import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'

/** Issues the new key and waits until every live gateway accepts it: only then may the client hear of it. */
export async function introduce(rotation: Rotation): Promise<IssuedKey> {
  // The registry notes the stage together with the key, and has done so already when this is walked again.
  if (rotation.newKey !== undefined) await rotation.enter('introducing')
  const newKey = await keys.introduceKey({ ...rotation.by, claimUntil: rotation.claimUntil })
  rotation.introduced(newKey)
  rotation.entered('introducing')
  await rotation.propagated(newKey.keyId)
  rotation.newKeyEverywhere = true
  await rotation.holdIfAsked()
  return newKey
}
