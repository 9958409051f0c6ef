import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit, verifyAudit } from '../../registry/audit.ts'
import { claimOfKey } from '../../registry/claims.ts'
import { createCredential, getCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import {
  compromiseKey,
  deactivateKey,
  deprecateKey,
  introduceSuccessor,
  keysOfCredential,
  reinstateKey,
  retireNewKey,
  toKeyRecord,
} from '../../registry/keys.ts'
import { enterStage, getRotation } from '../../registry/rotations.ts'
import { letExpire } from '../support/expiry.ts'
import { at, DAY, introduce, keyOf, makeCredential, monitored, open, openTestDatabase, sealer } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(async () => {
  expect((await verifyAudit(db)).ok).toBe(true)
  await db.close()
})

const standings = async (credentialId: Parameters<typeof keysOfCredential>[1]) =>
  (await keysOfCredential(db, credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)
const auditOf = async (subject: string) => (await listAudit(db, { subject, limit: 100 })).map(({ action }) => action)

describe('a credential', () => {
  test('begins with one active, current key of version 1, and a claim', async () => {
    const { credentialId, keyId, clientId } = await makeCredential(db)
    expect(await getCredential(db, credentialId)).toMatchObject({ clientId, name: 'feed', environment: 'prod', kind: 'bearer' })
    const row = await keyOf(db, keyId)
    expect(row).toMatchObject({ version: 1, state: 'active', standing: 'current', revision: 1, publishedRevision: 0 })
    expect(toKeyRecord(row)).toEqual({
      keyId,
      credentialId,
      clientId,
      environment: 'prod',
      scopes: ['read:prices'],
      version: 1,
      state: 'active',
      revision: 1,
      verifier: { kind: 'bearer', sha256: expect.stringMatching(/^[A-Za-z0-9+/]{43}=$/) },
      notBefore: row.notBefore.toISOString(),
    })
    expect(row.notBefore.getTime()).toBeLessThanOrEqual(at(0).getTime())
    expect(await claimOfKey(db, keyId)).toMatchObject({ state: 'open', expiresAt: at(DAY) })
  })

  test('needs a client, and a name that the client does not have there yet', async () => {
    const { clientId } = await makeCredential(db)
    const input = {
      clientId,
      name: 'feed',
      environment: 'prod',
      scopes: [],
      brand: 'kt',
      sealer,
      claimExpiresAt: at(DAY),
      at: at(0),
      actor: 'test',
    } as const
    await expect(createCredential(db, input)).rejects.toMatchObject({ name: 'RegistryError', code: 'name-taken' })
    await expect(createCredential(db, { ...input, environment: 'dev' })).resolves.toMatchObject({ version: 1 })
    const nobody = { ...input, clientId: 'cli_0000000000000000' }
    await expect(createCredential(db, nobody)).rejects.toMatchObject({ code: 'unknown-client' })
  })
})

describe('the way of a rotation', () => {
  test('G7: each step changes what it should, once, with one revision and one audit entry', async () => {
    const { rotationId, keyId, newKeyId, credentialId, by } = await monitored(db)
    expect(await standings(credentialId)).toEqual(['1 active current', '2 active successor'])
    expect(await keyOf(db, keyId)).toMatchObject({ revision: 2, sunsetAt: at(14 * DAY), successor: 2 })
    expect(await claimOfKey(db, newKeyId)).toMatchObject({ expiresAt: at(14 * DAY) })

    await deactivateKey(db, { ...by, keyId, unless: 'never', stage: { stage: 'deactivating' } })
    await enterStage(db, { ...by, stage: 'completed' })
    expect(await standings(credentialId)).toEqual(['1 deactivated retired', '2 active current'])
    expect(await auditOf(keyId)).toEqual(['key.introduced', 'key.deprecated', 'key.deactivated'])
    expect(await auditOf(newKeyId)).toEqual(['key.introduced'])
    const rotation = await getRotation(db, rotationId)
    expect(rotation?.timeline.map(({ stage }) => stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
      'completed',
    ])
    expect(rotation).toMatchObject({ oldKeyId: keyId, newKeyId, endedAt: at(0) })
  })

  test('G8: each step done twice is done once', async () => {
    const credential = await makeCredential(db)
    const { keyId, credentialId } = credential
    const rotationId = await open(db, credential)
    const by = { rotationId, actor: 'test', reason: 'test', at: at(0) }
    const twice = async <T>(step: () => Promise<T>): Promise<T> => {
      const first = await step()
      const entries = await listAudit(db, { limit: 100_000 })
      const keys = await keysOfCredential(db, credentialId)
      expect(await step()).toEqual(first)
      expect(await keysOfCredential(db, credentialId)).toEqual(keys)
      expect(await listAudit(db, { limit: 100_000 })).toEqual(entries)
      return first
    }
    const { keyId: newKeyId } = await twice(() => introduce(db, rotationId))
    await twice(() =>
      deprecateKey(db, { ...by, keyId, sunsetAt: at(DAY), successor: 2, stage: { stage: 'notifying', deadline: at(DAY) } }),
    )
    await twice(() => enterStage(db, { ...by, stage: 'monitoring' }))
    await twice(() => enterStage(db, { ...by, stage: 'held', heldFor: 'operator' }))
    await twice(() => deactivateKey(db, { ...by, keyId, unless: 'never', stage: { stage: 'deactivating' } }))
    await twice(() => reinstateKey(db, { ...by, keyId, stage: { stage: 'rolling-back' } }))
    await twice(() => retireNewKey(db, by))
    await twice(() => compromiseKey(db, { ...by, keyId: newKeyId }))
    await twice(() => enterStage(db, { ...by, stage: 'rolled-back' }))
    expect(await standings(credentialId)).toEqual(['1 active current', '2 compromised retired'])
  })

  test('G8: tries of one step that run at the same time issue one key', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential)
    const issued = await Promise.all(Array.from({ length: 8 }, () => introduce(db, rotationId)))
    expect(new Set(issued.map(({ keyId }) => keyId)).size).toBe(1)
    expect(await standings(credential.credentialId)).toEqual(['1 active current', '2 active successor'])
  })

  test('a roll-back after the deactivation: the old key is current again before the new one goes', async () => {
    const { keyId, newKeyId, credentialId, by } = await monitored(db)
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await reinstateKey(db, { ...by, keyId, stage: { stage: 'rolling-back' } })
    expect(await standings(credentialId)).toEqual(['1 active current', '2 active successor'])
    const old = await keyOf(db, keyId)
    expect([old.sunsetAt, old.successor, old.event]).toEqual([undefined, undefined, 'keyturn.key.reinstated'])
    await retireNewKey(db, by)
    expect(await standings(credentialId)).toEqual(['1 active current', '2 deactivated retired'])
    expect(await claimOfKey(db, newKeyId)).toMatchObject({ state: 'destroyed' })
  })

  test('a roll-back before the deactivation takes the sunset back, as a change that gateways hear of', async () => {
    const { keyId, credentialId, by } = await monitored(db)
    await reinstateKey(db, { ...by, keyId })
    expect(await keyOf(db, keyId)).toMatchObject({ revision: 3, state: 'active', event: 'keyturn.key.reinstated' })
    expect((await keyOf(db, keyId)).sunsetAt).toBeUndefined()
    await retireNewKey(db, by)
    expect(await standings(credentialId)).toEqual(['1 active current', '2 deactivated retired'])
  })

  test('an emergency: the old key dies first, the new one is current from the start', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential, { trigger: 'emergency' })
    await compromiseKey(db, { rotationId, keyId: credential.keyId, at: at(0), actor: 'test', reason: 'leak' })
    await introduce(db, rotationId)
    expect(await standings(credential.credentialId)).toEqual(['1 compromised retired', '2 active current'])
  })

  test('an emergency in the middle of a rotation: the new key takes the place of the old one', async () => {
    const { keyId, newKeyId, rotationId, credentialId, by } = await monitored(db)
    await compromiseKey(db, { ...by, keyId, stage: { stage: 'deactivating' } })
    expect(await standings(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect((await introduce(db, rotationId)).keyId).toBe(newKeyId)
  })

  test('an emergency in the middle of a roll-back issues another key', async () => {
    const { keyId, rotationId, credentialId, by } = await monitored(db)
    await reinstateKey(db, { ...by, keyId, stage: { stage: 'rolling-back' } })
    await retireNewKey(db, by)
    await compromiseKey(db, { ...by, keyId, stage: { stage: 'deactivating' } })
    await introduce(db, rotationId)
    expect(await standings(credentialId)).toEqual(['1 compromised retired', '2 deactivated retired', '3 active current'])
  })

  test('G5: compromising a key destroys its own claim', async () => {
    const { keyId } = await makeCredential(db)
    await compromiseKey(db, { keyId, at: at(0), actor: 'test', reason: 'leak' })
    expect(await claimOfKey(db, keyId)).toMatchObject({ state: 'destroyed' })
    const [claim] = await db.query<{ ciphertext: Buffer | null }>('select ciphertext from claims where key_id = $1', [keyId])
    expect(claim?.ciphertext).toBeNull()
  })
})

describe('what is refused', () => {
  const illegal = { name: 'RegistryError', code: 'illegal-transition' }

  test('G9: a compromised key is not reinstated, deprecated or deactivated, by any function', async () => {
    const { keyId, rotationId, credentialId, newKeyId, by } = await monitored(db)
    await compromiseKey(db, { ...by, keyId })
    const before = await keyOf(db, keyId)
    await expect(reinstateKey(db, { ...by, keyId })).rejects.toMatchObject(illegal)
    await expect(deprecateKey(db, { ...by, keyId, sunsetAt: at(DAY), successor: 3 })).rejects.toMatchObject(illegal)
    expect(await deactivateKey(db, { ...by, keyId, unless: 'never' })).toEqual({ deactivated: true, revision: before.revision })
    await introduce(db, rotationId)
    await expect(retireNewKey(db, by)).rejects.toMatchObject(illegal)
    expect(await keyOf(db, keyId)).toEqual(before)
    expect(await standings(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect((await keyOf(db, newKeyId)).standing).toBe('current')
  })

  test('G9: a compromised new key does not come back with a roll-back', async () => {
    const { keyId, newKeyId, credentialId, by } = await monitored(db)
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await compromiseKey(db, { ...by, keyId: newKeyId })
    await reinstateKey(db, { ...by, keyId })
    await retireNewKey(db, by)
    expect(await standings(credentialId)).toEqual(['1 active current', '2 compromised retired'])
  })

  test('G1: the old key is not deactivated without an active successor', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential)
    const by = { rotationId, actor: 'test', at: at(0), reason: 'test', keyId: credential.keyId, unless: 'never' } as const
    await expect(deactivateKey(db, by)).rejects.toMatchObject(illegal)
    const { keyId } = await introduce(db, rotationId)
    await compromiseKey(db, { rotationId, keyId, actor: 'test', at: at(0), reason: 'leak' })
    await expect(deactivateKey(db, by)).rejects.toMatchObject(illegal)
    expect((await keyOf(db, credential.keyId)).state).toBe('active')
  })

  test('G1: the new key is not retired while the old one is not accepted', async () => {
    const { keyId, newKeyId, by } = await monitored(db)
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await expect(retireNewKey(db, by)).rejects.toMatchObject(illegal)
    expect((await keyOf(db, newKeyId)).state).toBe('active')
  })

  test('G1: an old key that has expired does not come back, and the new one is not retired for it', async () => {
    const { keyId, newKeyId, credentialId, by } = await monitored(db)
    await letExpire(db, keyId, at(DAY))
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await expect(reinstateKey(db, { ...by, at: at(DAY), keyId })).rejects.toMatchObject(illegal)
    expect(await standings(credentialId)).toEqual(['1 deactivated retired', '2 active current'])
    // It expires while the roll-back to it goes on.
    await reinstateKey(db, { ...by, at: at(DAY - 1), keyId })
    await expect(retireNewKey(db, { ...by, at: at(DAY) })).rejects.toMatchObject(illegal)
    expect((await keyOf(db, newKeyId)).state).toBe('active')
  })

  test('G8: a late try of a rotation that has ended changes nothing', async () => {
    const { keyId, rotationId, credentialId, by } = await monitored(db)
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await enterStage(db, { ...by, stage: 'completed' })
    await expect(reinstateKey(db, { ...by, keyId })).rejects.toMatchObject(illegal)
    await expect(deprecateKey(db, { ...by, keyId, sunsetAt: at(DAY), successor: 2 })).rejects.toMatchObject(illegal)
    await expect(enterStage(db, { ...by, stage: 'held', heldFor: 'operator' })).rejects.toMatchObject(illegal)
    expect(await deactivateKey(db, { ...by, keyId, unless: 'never' })).toMatchObject({ deactivated: true })
    await introduce(db, rotationId)
    expect(await standings(credentialId)).toEqual(['1 deactivated retired', '2 active current'])
  })

  test('G8: no key is issued while a rotation rolls back, or after it', async () => {
    const { keyId, rotationId, by } = await monitored(db)
    await reinstateKey(db, { ...by, keyId, stage: { stage: 'rolling-back' } })
    await retireNewKey(db, by)
    await expect(introduce(db, rotationId)).rejects.toMatchObject(illegal)
    await enterStage(db, { ...by, stage: 'rolled-back' })
    await expect(introduce(db, rotationId)).rejects.toMatchObject(illegal)
  })

  test('a key of another credential, an unknown key, an unknown rotation', async () => {
    const { by } = await monitored(db)
    const other = await makeCredential(db)
    await expect(deactivateKey(db, { ...by, keyId: other.keyId, unless: 'never' })).rejects.toMatchObject(illegal)
    const unknown = '0000000000000000' as typeof other.keyId
    await expect(compromiseKey(db, { keyId: unknown, actor: 'test', at: at(0), reason: 'x' })).rejects.toMatchObject({
      code: 'not-found',
    })
    const nowhere = { rotationId: 'rot_0000000000000000' as typeof by.rotationId, at: at(0), actor: 'test' }
    await expect(introduceSuccessor(db, { ...nowhere, brand: 'kt', sealer, claimExpiresAt: at(DAY) })).rejects.toMatchObject({
      code: 'unknown-rotation',
    })
  })

  test('G9: a leak is recorded though the rotation that brings it is over', async () => {
    const { keyId, newKeyId, by } = await monitored(db)
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await enterStage(db, { ...by, stage: 'completed' })
    await compromiseKey(db, { ...by, keyId: newKeyId, stage: { stage: 'deactivating' } })
    await compromiseKey(db, { ...by, keyId })
    expect((await keyOf(db, newKeyId)).state).toBe('compromised')
    expect((await keyOf(db, keyId)).state).toBe('compromised')
  })
})
