import type { KeyId } from '@keyturn/contract'
import { goOnWith } from './deliveries.ts'
import { notifications } from './proxies.ts'

/** Tells a client that a claim of its own was used a second time. Its workflow id is `second-claim/<keyId>`: of one claim it is told once. */
export async function tellOfSecondClaim({ keyId }: { readonly keyId: KeyId }): Promise<void> {
  const { left } = await notifications.notifyOfClaim({ keyId, at: Date.now() })
  if (left !== undefined) await goOnWith(left)
}
