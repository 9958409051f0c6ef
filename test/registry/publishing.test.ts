import { setImmediate as nextTurn } from 'node:timers/promises'
import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { compromiseKey, deactivateKey } from '../../registry/keys.ts'
import { keyIdPages, publishKey, publishKeys, publishUnpublished, unpublishedKeyIds } from '../../registry/publishing.ts'
import { makeFleet } from '../support/fleet.ts'
import { at, keyOf, makeCredential, monitored, openTestDatabase, untilWaiting } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase({ max: 20 })
})
afterAll(() => db.close())

test('G4: what two publishers and a change do at once lies in the log in the order of revisions', async () => {
  const { keyId, by } = await monitored(db)
  const log: number[] = []
  let sending = 0
  const send = (revision: number, meanwhile?: () => Promise<void>) => async (): Promise<void> => {
    sending += 1
    expect(sending).toBe(1)
    await meanwhile?.()
    log.push(revision)
    sending -= 1
  }
  let others: Promise<unknown>[] = []
  await publishKey(db, keyId, (row) =>
    send(row.revision, async () => {
      others = [
        deactivateKey(db, { ...by, keyId, unless: 'never' }),
        publishKey(db, keyId, (later) => send(later.revision)()),
        publishKey(db, keyId, (later) => send(later.revision)()),
      ]
      await untilWaiting(db, 3)
      expect(await keyOf(db, keyId)).toMatchObject({ revision: 2, state: 'active' })
    })(),
  )
  await Promise.all(others)
  expect(log).toHaveLength(3)
  expect(log[0]).toBe(2)
  expect(log).toEqual([...log].sort())
  await publishKey(db, keyId, (row) => send(row.revision)())
  expect(log.at(-1)).toBe(3)
})

test('G4: under a storm of changes and publishers revisions never go back in the log, and the last one is in it', async () => {
  const { keyId } = await makeCredential(db)
  const log: number[] = []
  const suspend = (state: string) =>
    db.tx(async (tx) => {
      const { rows } = await tx.query<{ revision: number }>('select revision from keys where key_id = $1 for no key update', [
        keyId,
      ])
      const revision = (rows[0]?.revision ?? 0) + 1
      await tx.query(
        `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash) values (0, now(), 'sql', 'x', $1, $2, '{}', '', '')`,
        [keyId, revision],
      )
      await tx.query('update keys set state = $2, sunset_at = null, revision = $3 where key_id = $1', [keyId, state, revision])
    })
  const publish = () => publishKey(db, keyId, async ({ revision }) => void log.push(revision))
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      await (i % 2 === 0 ? suspend(i % 4 === 0 ? 'suspended' : 'active').catch(() => undefined) : undefined)
      await publish()
    }),
  )
  expect(log).toEqual([...log].sort((a, b) => a - b))
  expect(log.at(-1)).toBe((await keyOf(db, keyId)).revision)
  expect((await keyOf(db, keyId)).revision).toBeGreaterThan(3)
})

test('G8: a key whose publishing failed counts as unpublished until it succeeds', async () => {
  const { keyId } = await makeCredential(db)
  const fail = publishKey(db, keyId, async () => {
    throw new Error('Kafka is away')
  })
  await expect(fail).rejects.toThrow('Kafka is away')
  expect(await unpublishedKeyIds(db, 1_000)).toContain(keyId)
  expect(await publishKey(db, keyId, async (row) => row.revision)).toBe(1)
  expect(await keyOf(db, keyId)).toMatchObject({ publishedRevision: 1, revision: 1 })
  expect(await unpublishedKeyIds(db, 1_000)).not.toContain(keyId)
  await compromiseKey(db, { keyId, at: at(0), actor: 'test', reason: 'leak' })
  expect(await unpublishedKeyIds(db, 1_000)).toContain(keyId)
})

test('publishing a key that is not there is refused before anything is sent', async () => {
  let sent = 0
  const nobody = publishKey(db, '0000000000000000' as KeyId, async () => {
    sent += 1
  })
  await expect(nobody).rejects.toMatchObject({ code: 'not-found' })
  expect(sent).toBe(0)
})

test('all keys are visited, each once, in pages; and publishing a page counts for all of it', async () => {
  const keys = await db.query<{ key_id: KeyId }>('select key_id from keys')
  const seen: KeyId[] = []
  for await (const page of keyIdPages(db, 3)) {
    expect(page.length).toBeLessThanOrEqual(3)
    seen.push(...page)
    expect(await publishKeys(db, page, async (rows) => rows.map(({ keyId }) => keyId).sort())).toEqual([...page].sort())
  }
  expect(seen.sort()).toEqual(keys.map(({ key_id }) => key_id).sort())
  expect(await unpublishedKeyIds(db, 10)).toEqual([])
})

test('of many that are published, each is sent once, in the order of credentials; and none counts when sending failed', async () => {
  const members = await makeFleet(db, 1_200, ['parts'])
  const given = members.toSorted((a, b) => (a.credentialId < b.credentialId ? -1 : 1)).map(({ keyId }) => keyId)
  const parts: number[] = []
  const fail = publishUnpublished(db, given, async ({ length }) => {
    parts.push(length)
    if (parts.length === 2) throw new Error('Kafka is away')
  })
  await expect(fail).rejects.toThrow('Kafka is away')
  expect(parts).toHaveLength(2)
  const unpublished = 'select from keys where key_id = any($1) and published_revision < revision'
  expect(await db.query(unpublished, [given])).toHaveLength(1_200)
  const sent: KeyId[] = []
  let sending = 0
  await publishUnpublished(db, given, async (rows) => {
    expect(++sending).toBe(1)
    sent.push(...rows.map(({ keyId }) => keyId))
    await nextTurn()
    sending -= 1
  })
  expect(sent).toEqual(given)
  expect(await db.query(unpublished, [given])).toEqual([])
  await publishUnpublished(db, given, () => Promise.reject(new Error('sent again')))
})

test('keys of one credential, published as a page, and a change of both do not wait for each other for ever', async () => {
  const { keyId, newKeyId, by } = await monitored(db)
  const deadlocks = async (): Promise<number> =>
    (await db.query<{ n: number }>('select deadlocks as n from pg_stat_database where datname = current_database()'))[0]?.n ?? 0
  const before = await deadlocks()
  await Promise.all([
    ...Array.from({ length: 10 }, () => publishKeys(db, [newKeyId, keyId], async () => undefined)),
    deactivateKey(db, { ...by, keyId, unless: 'never' }),
  ])
  expect(await deadlocks()).toBe(before)
})
