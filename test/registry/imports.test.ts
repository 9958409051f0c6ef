/** What the registry itself has against a batch of keys from elsewhere, whoever sends it. */
import { createHash, randomBytes } from 'node:crypto'
import type { ImportedKey } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { importKeys } from '../../registry/imports.ts'
import { at, DAY, keyOf, openTestDatabase, START, untilWaiting } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

let made = 0
const key = (more: Partial<ImportedKey> = {}): ImportedKey => ({
  sha256: createHash('sha256').update(randomBytes(16)).digest('base64'),
  client: `Client ${made++}`,
  name: 'feed',
  environment: 'prod',
  scopes: ['read:prices'],
  bits: 192,
  ...more,
})
const batch = (keys: readonly ImportedKey[], more: { acceptWeak?: boolean; dryRun?: boolean } = {}) =>
  importKeys(db, { keys, acceptWeak: false, dryRun: false, at: at(0), actor: 'ann', ...more })
const count = async () => (await db.query<{ n: number }>('select count(*) as n from keys'))[0]?.n

test('each row that can not be imported is named, and then nothing is', async () => {
  const before = await count()
  const twin = key()
  const rows = [
    key(),
    twin,
    key({ sha256: twin.sha256 }),
    key({ client: twin.client }),
    key({ expiresAt: at(0).toISOString() }),
    key({ bits: 127 }),
    key({ client: 'cli_0000000000000000' }),
  ]
  const { problems, keyIds, imported } = await batch(rows)
  expect(problems).toEqual([
    { index: 2, message: 'sha256: the same key as in an earlier row' },
    { index: 3, message: 'name: the same credential as in an earlier row, with another key' },
    { index: 4, message: 'expiresAt: the key has expired already' },
    { index: 5, message: 'a token of at most 127 bits, fewer than 128' },
    { index: 6, message: 'client: there is none of this id' },
  ])
  expect([imported, keyIds]).toEqual([2, []])
  expect(await count()).toBe(before)
})

test('a weak one is taken when somebody says so; a dry run takes nothing', async () => {
  const before = await count()
  const weak = key({ bits: 64 })
  expect(await batch([weak], { acceptWeak: true, dryRun: true })).toMatchObject({ imported: 1, problems: [], keyIds: [] })
  expect(await count()).toBe(before)
  expect((await batch([weak], { acceptWeak: true })).keyIds).toHaveLength(1)
  expect(await batch([weak], { acceptWeak: true })).toMatchObject({ imported: 0, there: 1, keyIds: [] })
})

test('a key is good at once at gateways whose clocks are behind, is as old as its row says, and ends when it says', async () => {
  const createdAt = new Date(START - 100 * DAY).toISOString()
  const { keyIds } = await batch([key({ createdAt, expiresAt: at(DAY).toISOString() })])
  const row = await keyOf(db, keyIds[0] ?? ('' as never))
  expect(row).toMatchObject({ state: 'active', standing: 'current', version: 1, expiresAt: at(DAY) })
  expect(row.notBefore).toEqual(at(-5 * 60_000))
  expect(row.createdAt.toISOString()).toBe(createdAt)
})

test('two batches at one moment that name the same new client make it once', async () => {
  const blocked = await db.pool.connect()
  await blocked.query('begin')
  await blocked.query('lock table clients in access exclusive mode')
  const both = Promise.all([batch([key({ client: 'Both', name: 'a' })]), batch([key({ client: 'Both', name: 'b' })])])
  await untilWaiting(db, 2)
  await blocked.query('commit')
  blocked.release()
  const answers = await both
  expect(answers.map(({ newClients }) => newClients.length).sort()).toEqual([0, 1])
  expect(await db.query(`select from clients where name = 'Both'`)).toHaveLength(1)
})

test('a credential of the name that is made at the same moment: refused, to be imported again', async () => {
  const { keyIds } = await batch([key({ client: 'Busy' })])
  const { credentialId } = await keyOf(db, keyIds[0] ?? ('' as never))
  const maker = await db.pool.connect()
  await maker.query('begin')
  await maker.query(
    `insert into credentials (credential_id, client_id, name, environment, scopes, created_at, current_since)
     select 'crd_0000000000000001', client_id, 'late', environment, scopes, created_at, current_since from credentials where credential_id = $1`,
    [credentialId],
  )
  const late = batch([key({ client: 'Busy', name: 'late' })])
  const refused = expect(late).rejects.toMatchObject({ code: 'import-refused' })
  await untilWaiting(db, 1)
  await maker.query('commit')
  maker.release()
  await refused
})
