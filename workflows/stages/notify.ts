import type { KeyOfRotation } from '../../activities/rotations.ts'
import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'

/** Opens the overlap window: gateways announce the sunset in-band, and the client is told on its channels. */
export async function notify(rotation: Rotation, newKey: KeyOfRotation): Promise<void> {
  const sunsetAt = rotation.openWindow()
  await keys.deprecateKey({
    ...rotation.by,
    keyId: rotation.oldKey.keyId,
    sunsetAt,
    successor: newKey.version,
  })
  rotation.entered('notifying')
  await rotation.published(rotation.oldKey.keyId)
  await rotation.tell(rotation.leaks.areWhy ? 'leak' : 'introduced')
}
