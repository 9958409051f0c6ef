import type { IssuedKey } from '../../activities/keys.ts'
import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { deliver, deliverAtOnce } from './deliver.ts'

/** Opens the overlap window: gateways announce the sunset in-band, and the client is told on its channels. */
export async function notify(rotation: Rotation, newKey: IssuedKey): Promise<void> {
  const sunsetAt = rotation.openWindow()
  await keys.deprecateKey({
    ...rotation.by,
    keyId: rotation.oldKey.keyId,
    sunsetAt,
    successor: newKey.version,
  })
  rotation.entered('notifying')
  await rotation.published(rotation.oldKey.keyId)
  // A leaked key dies at its time, whatever becomes of this.
  await (rotation.leaks.areWhy ? deliverAtOnce : deliver)(rotation, newKey)
  await rotation.tell(rotation.leaks.areWhy ? 'leak' : 'introduced')
}
