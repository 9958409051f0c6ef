/** How the keys of a credential are to reach their client, as a request says it. */
import type { KeyDelivery, KeyKind } from '@keyturn/contract'
import type Type from 'typebox'
import { readDelivery } from '../registry/delivery-input.ts'
import type { DeliveryInput } from './delivery-schemas.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'

/** @throws ApiError that names each field that is wrong, and repeats none of what was sent */
export async function deliveryOf(
  input: Type.Static<typeof DeliveryInput>,
  kind: KeyKind,
  { config }: Pick<ApiDeps, 'config'>,
): Promise<KeyDelivery> {
  const read = await readDelivery(input, { kind, allow: config.webhookAllow })
  if ('delivery' in read) return read.delivery
  throw new ApiError('invalid-request', 'Keys can not be delivered like this.', read.flaws)
}
