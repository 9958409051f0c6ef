/** What people have to know of the use of a rotation's keys, and hear once. */
import type { CredentialId, RotationId } from '@keyturn/contract'
import type { Database } from './database.ts'

interface Due {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
  /** What is remembered, so that nobody hears of it again. */
  readonly marks: readonly string[]
}

export interface Straggling extends Due {
  /** How much of the overlap window has passed, in percent. */
  readonly percent: number
  readonly lastUsedAt: Date
  readonly deadline: Date
}

export interface HeldBack extends Due {
  readonly gatewayIds: readonly string[]
}

/** Rotations whose old key is still used after half of the overlap window, after three quarters, and near its end. Index rotations_open. */
export const stragglersToAlert = (db: Database): Promise<Straggling[]> =>
  db.query(
    `select e.rotation_id as "rotationId", e.credential_id as "credentialId", e.old_last_used_at as "lastUsedAt", e.deadline,
       array_agg('straggler/' || m.percent) as marks, max(m.percent) as percent
     from rotation_evidence e
     cross join (values (50), (75), (90)) as m (percent)
     where e.ended_at is null and e.stage = 'monitoring' and 'straggler/' || m.percent <> all (e.alerted)
       and e.old_last_used_at >= e.deadline - (100 - m.percent) / 100.0 * (e.policy ->> 'overlapMs')::bigint * interval '1 millisecond'
     group by 1, 2, 3, 4`,
  )

/** Rotations that only silent gateways hold back: as far as is known the old key has been quiet for long enough. Index rotations_open. */
export const heldBackBySilence = (db: Database, now: Date): Promise<HeldBack[]> =>
  db.query(
    `select e.rotation_id as "rotationId", e.credential_id as "credentialId",
       array_agg(g.id order by g.id) as "gatewayIds", array_agg('gateway-silent/' || g.id) as marks
     from rotation_evidence e
     cross join lateral unnest(e.silent_gateways) as g (id)
     where e.ended_at is null and e.stage = 'monitoring' and not e.sufficient
       and e.new_first_used_at is not null and $1::timestamptz - e.quiet_since >= e.quiet_period
       and 'gateway-silent/' || g.id <> all (e.alerted)
     group by 1, 2`,
    [now],
  )

/** Raises an alert and remembers that, with the rotation's row locked. Whoever finds it locked comes again later. */
export async function alertOnce(db: Database, { rotationId, marks }: Due, raise: () => Promise<unknown>): Promise<void> {
  await db.tx(async (tx) => {
    const { rowCount } = await tx.query(
      'select from rotations where rotation_id = $1 and not alerted && $2 for no key update skip locked',
      [rotationId, marks],
    )
    if (rowCount === 0) return
    await raise()
    await tx.query('update rotations set alerted = alerted || $2 where rotation_id = $1', [rotationId, marks])
  })
}
