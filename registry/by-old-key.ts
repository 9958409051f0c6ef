/** The old key of a rotation as the way to the new one. */
import type { KeyKind, RotationId } from '@keyturn/contract'
import type { Database } from './database.ts'

/** How it is shown: sent as a bearer, or by a request that it signs. */
export type ByOldKey = 'sent' | 'signed'

/**
 * Whether the old key `key` may open the way in its rotation `r`. Whoever shows a key that has leaked need not be its client. Index leaks_by_key.
 */
export const mayOpen = (key: string): string =>
  `(r.policy ->> 'successorByOldKey')::boolean and not exists (select from leaks l where l.key_id = ${key}.key_id)`

/**
 * How a client can fetch the new key of a rotation by its old one now: what `redeemSuccessor` goes by. Nothing when it can not.
 * Primary keys; indexes claims_by_key, leaks_by_key.
 */
export async function byOldKey(db: Database, rotationId: RotationId): Promise<ByOldKey | undefined> {
  const [row] = await db.query<{ kind: KeyKind }>(
    `select o.verifier ->> 'kind' as kind
     from rotations r join keys o on o.key_id = r.old_key_id join keys n on n.key_id = r.new_key_id join claims m on m.key_id = n.key_id
     where r.rotation_id = $1 and r.ended_at is null and ${mayOpen('o')}
       and o.state = 'active' and o.standing = 'current' and o.sunset_at is not null and n.standing = 'successor'
       and m.state = 'open' and m.delivery is distinct from 'due'`,
    [rotationId],
  )
  if (row === undefined) return undefined
  return row.kind === 'bearer' ? 'sent' : 'signed'
}
