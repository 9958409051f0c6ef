/** Changes of what a credential's keys may do: which keys get a revision, and what each of them keeps. */
import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { appendAudit, listAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { endOfKey } from '../../registry/fallback.ts'
import { compromiseKey, deactivateKey, reinstateKey, toKeyRecord } from '../../registry/keys.ts'
import { changePermissions } from '../../registry/permissions.ts'
import { publishKey } from '../../registry/publishing.ts'
import { at, DAY, keyOf, makeCredential, monitored, openTestDatabase } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const BY = { at: at(DAY), actor: 'ann' }
const ADDRESSES = ['192.0.2.0/24']

test('what changes nothing is no news: no revision, no audit entry', async () => {
  const { credentialId, keyId } = await makeCredential(db)
  const change = { ...BY, credentialId, scopes: ['read:prices'], allow: { addresses: null, methods: null } }
  expect(await changePermissions(db, change)).toEqual({ credentialId, scopes: ['read:prices'], changed: [] })
  expect((await keyOf(db, keyId)).revision).toBe(1)
  expect((await listAudit(db, { subject: credentialId, limit: 10 })).map(({ action }) => action)).toEqual(['credential.created'])
})

test('each list stays, goes or is replaced by itself; null for both takes the restriction away', async () => {
  const { credentialId } = await makeCredential(db)
  const allowed = async (allow: Parameters<typeof changePermissions>[1]['allow']) =>
    (await changePermissions(db, { ...BY, credentialId, allow })).allow
  expect(await allowed({ addresses: ADDRESSES, methods: ['GET'] })).toEqual({ addresses: ADDRESSES, methods: ['GET'] })
  expect(await allowed({ methods: ['PUT'] })).toEqual({ addresses: ADDRESSES, methods: ['PUT'] })
  expect(await allowed({ addresses: ['::1'] })).toEqual({ addresses: ['::1'], methods: ['PUT'] })
  expect(await allowed(undefined)).toEqual({ addresses: ['::1'], methods: ['PUT'] })
  expect(await allowed({ methods: null, sequence: 'required' })).toEqual({ addresses: ['::1'], sequence: 'required' })
  expect(await allowed({ addresses: null })).toEqual({ sequence: 'required' })
  expect(await allowed({ sequence: null })).toBeUndefined()
  await allowed({ addresses: ADDRESSES, methods: ['GET'] })
  expect(await allowed(null)).toBeUndefined()
  const entries = await listAudit(db, { subject: credentialId, limit: 20 })
  expect(entries.at(-1)?.detail).toMatchObject({ allow: null, before: { allow: { addresses: ADDRESSES, methods: ['GET'] } } })
})

test('G3: a key that has ended before is published for its end, whatever it may do since; one that has not, for the change', async () => {
  const { credentialId, keyId, newKeyId, by } = await monitored(db)
  const told = (id: KeyId) => publishKey(db, id, async (_, of) => of)
  await deactivateKey(db, { ...by, keyId, unless: 'never' })
  const { revision } = await keyOf(db, keyId)
  for (const scopes of [['read:depth'], ['read:trades']]) await changePermissions(db, { ...BY, credentialId, scopes })
  expect(await told(keyId)).toMatchObject({ event: 'keyturn.key.deactivated', revision })
  expect(await endOfKey(db, keyId)).toEqual({ event: 'keyturn.key.deactivated', revision, at: at(0) })
  expect(await told(newKeyId)).toMatchObject({ event: 'keyturn.key.updated', revision: 3 })
  expect(await endOfKey(db, newKeyId)).toBeUndefined()
  // Once it has come back and ended again, it is of that end.
  await reinstateKey(db, { ...by, keyId })
  await deactivateKey(db, { ...by, at: at(1), keyId, unless: 'never' })
  await changePermissions(db, { ...BY, credentialId, scopes: ['read:prices'] })
  expect(await endOfKey(db, keyId)).toEqual({ event: 'keyturn.key.deactivated', revision: revision + 4, at: at(1) })
  await compromiseKey(db, { keyId, at: at(2), actor: 'test', reason: 'test' })
  expect(await told(keyId)).toMatchObject({ event: 'keyturn.key.compromised', revision: revision + 6 })
})

test('with the delivery it changes as a whole, or not at all', async () => {
  const { credentialId } = await makeCredential(db)
  const delivery = { method: 'vault', address: 'https://vault.example', mount: 'a', path: 'b', role: 'c' } as const
  const seen = async () => {
    const [row] = await db.query('select scopes, delivery from credentials where credential_id = $1', [credentialId])
    return row
  }
  const before = await seen()
  const change = { ...BY, credentialId, delivery, scopes: ['read:depth'] }
  // The second half is refused.
  await db.query(`alter table credentials add constraint refused check (scopes <> '{read:depth}')`)
  await expect(changePermissions(db, change)).rejects.toThrow('refused')
  expect(await seen()).toEqual(before)
  await db.query('alter table credentials drop constraint refused')
  await changePermissions(db, change)
  expect(await seen()).toEqual({ scopes: ['read:depth'], delivery })
  const entries = (await listAudit(db, { subject: credentialId, limit: 10 })).filter(
    ({ action }) => action === 'credential.updated',
  )
  expect(entries.map(({ detail }) => Object.keys(detail).sort())).toEqual([
    ['before', 'delivery'],
    ['allow', 'before', 'scopes'],
  ])
})

test('every key that is not destroyed gets it, a suspended one too, and keeps what was said of its end', async () => {
  const { credentialId, keyId, newKeyId } = await monitored(db)
  await db.tx(async (tx) => {
    await appendAudit(tx, { ...BY, action: 'key.suspended', subject: newKeyId, revision: 2, detail: {} })
    await tx.query(`update keys set state = 'suspended', event = 'keyturn.key.suspended', revision = 2 where key_id = $1`, [
      newKeyId,
    ])
  })
  const before = await Promise.all([keyOf(db, keyId), keyOf(db, newKeyId)])
  expect(before.map(({ sunsetAt }) => sunsetAt)).toEqual([at(14 * DAY), undefined])
  const { changed } = await changePermissions(db, { ...BY, credentialId, scopes: ['read:depth'], allow: { methods: ['GET'] } })
  expect(changed).toEqual([keyId, newKeyId])
  const after = await Promise.all([keyOf(db, keyId), keyOf(db, newKeyId)])
  for (const [i, key] of after.entries()) {
    const was = before[i]
    expect(key).toMatchObject({ state: was?.state, revision: (was?.revision ?? 0) + 1, event: 'keyturn.key.updated' })
    expect([key.sunsetAt, key.successor]).toEqual([was?.sunsetAt, was?.successor])
    expect(toKeyRecord(key)).toMatchObject({ scopes: ['read:depth'], allow: { methods: ['GET'] } })
  }
  await expect(changePermissions(db, { ...BY, credentialId: 'crd_0000000000000000', scopes: [] })).rejects.toMatchObject({
    code: 'unknown-credential',
  })
})
