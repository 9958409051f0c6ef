import type { VaultDelivery } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { beginWriting, changeDelivery, readWriting } from '../../registry/deliveries.ts'
import { reinstateKey } from '../../registry/keys.ts'
import { enterStage } from '../../registry/rotations.ts'
import { at, introduce, makeCredential, open, openTestDatabase, sealer } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const vault = (path: string): VaultDelivery => ({
  method: 'vault',
  address: 'https://vault.example',
  mount: 'kv',
  path,
  role: 'keyturn',
})

/** A rotation whose new key is to be written into a store. */
async function writing() {
  const credential = await makeCredential(db)
  await db.tx((tx) => changeDelivery(tx, { credentialId: credential.credentialId, delivery: vault('first') }))
  const rotationId = await open(db, credential)
  const { keyId: newKeyId } = await introduce(db, rotationId)
  return { newKeyId, ...credential, by: { rotationId, actor: 'test', at: at(0), reason: 'test' } }
}

test('each place is kept once, before anything is written there', async () => {
  const { newKeyId } = await writing()
  for (const path of ['first', 'second', 'first']) expect(await beginWriting(db, newKeyId, vault(path))).toBe(true)
  expect((await readWriting(db, newKeyId, sealer))?.places).toEqual([vault('first'), vault('second')])
})

test('G1: whoever is late writes nothing any more: a roll-back has begun, or the rotation has ended', async () => {
  const { newKeyId, keyId, by } = await writing()
  await reinstateKey(db, { ...by, keyId, stage: { stage: 'rolling-back', reason: 'test' } })
  expect(await beginWriting(db, newKeyId, vault('late'))).toBe(false)
  await enterStage(db, { ...by, stage: 'rolled-back' })
  expect(await beginWriting(db, newKeyId, vault('late'))).toBe(false)
  expect((await readWriting(db, newKeyId, sealer))?.places).toEqual([])
})
