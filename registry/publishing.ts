/** What has been published of the keys, and what has not. */
import type { KeyId } from '@keyturn/contract'
import type { Database, Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { confirmable, type KeyEnd } from './fallback.ts'
import { type KeyRow, selectKeysIn } from './key-rows.ts'
import { refuseUnchecked } from './restore.ts'

/**
 * Publishes keys under the locks of their rows, so that the order in the log is the order of revisions. `publish` gets the
 * rows as they stand; when it resolves, they count as published.
 * @throws RegistryError registry-restored when the registry may be older than the topic: it is to be compared first
 */
export async function publishKeys<T>(
  db: Database,
  keyIds: readonly KeyId[],
  publish: (rows: readonly KeyRow[], tx: Tx) => Promise<T>,
): Promise<T> {
  return db.tx(async (tx) => {
    await refuseUnchecked(tx)
    const rows = await selectKeysIn(tx, `where k.key_id = any($1) order by k.credential_id, k.version for no key update of k`, [
      keyIds,
    ])
    const published = await publish(rows, tx)
    await tx.query('update keys set published_revision = revision, published_at = clock_timestamp() where key_id = any($1)', [
      keyIds,
    ])
    return published
  })
}

/** So many keys are sent, in one request, while the next ones are read. */
const PART = 1_000

/**
 * The same for those keys alone whose last change has not been published: of two that publish the same ones, each publishes some. Part
 * by part, in the order of credentials when that is how they are given.
 * @throws RegistryError registry-restored
 */
export async function publishUnpublished(
  db: Database,
  keyIds: readonly KeyId[],
  publish: (rows: readonly KeyRow[]) => Promise<void>,
): Promise<void> {
  await db.tx(async (tx) => {
    await refuseUnchecked(tx)
    const published: KeyId[] = []
    let sending: Promise<void> = Promise.resolve()
    try {
      for (let from = 0; from < keyIds.length; from += PART) {
        const rows = await selectKeysIn(
          tx,
          `where k.key_id = any($1) and k.published_revision < k.revision order by k.credential_id, k.version for no key update of k`,
          [keyIds.slice(from, from + PART)],
        )
        await sending
        if (rows.length > 0) sending = publish(rows)
        // It is awaited, but perhaps only after it has failed.
        sending.catch(() => {})
        published.push(...rows.map(({ keyId }) => keyId))
      }
    } finally {
      // Whatever goes wrong: nothing is sent any more when the rows are locked no longer.
      await sending
    }
    if (published.length === 0) return
    await tx.query('update keys set published_revision = revision, published_at = clock_timestamp() where key_id = any($1)', [
      published,
    ])
  })
}

/**
 * The same for one key. `publish` also gets what a receipt of it will be a receipt of.
 * @throws RegistryError not-found, registry-restored
 */
export const publishKey = <T>(
  db: Database,
  keyId: KeyId,
  publish: (row: KeyRow, told: Omit<KeyEnd, 'at'>) => Promise<T>,
): Promise<T> =>
  publishKeys(db, [keyId], async ([row], tx) => {
    if (row === undefined) throw new RegistryError('not-found', `there is no key ${keyId}`)
    return publish(row, await confirmable(tx, row))
  })

/** Keys whose last change nobody has published. Index keys_unpublished. */
export async function unpublishedKeyIds(db: Database, limit: number): Promise<KeyId[]> {
  const rows = await db.query<{ key_id: KeyId }>(
    'select key_id from keys where published_revision < revision order by key_id limit $1',
    [limit],
  )
  return rows.map(({ key_id }) => key_id)
}

/** All key ids, by pages. Primary key. */
export async function* keyIdPages(db: Database, size: number): AsyncGenerator<KeyId[]> {
  let after = ''
  for (;;) {
    const rows = await db.query<{ key_id: KeyId }>('select key_id from keys where key_id > $1 order by key_id limit $2', [
      after,
      size,
    ])
    const last = rows.at(-1)
    if (last === undefined) return
    yield rows.map(({ key_id }) => key_id)
    after = last.key_id
  }
}
