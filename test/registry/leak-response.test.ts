/** What is left to do about a leak, at each look: when the key dies, what has to be told to gateways, when it is closed. */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { appendAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey, deactivateKey } from '../../registry/keys.ts'
import { recordLeaks, toSighting } from '../../registry/leak-intake.ts'
import { closeLeak, containLeak } from '../../registry/leak-response.ts'
import { sightingsOf } from '../../registry/leaks.ts'
import { at, HOUR, keyOf, makeCredential, monitored, openTestDatabase, tokenOf } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const report = async (token: string, ms = HOUR, where: { source?: string; url?: string } = {}) => {
  const [leak] = await recordLeaks(db, {
    sightings: [toSighting({ token, source: 'test', ...where })],
    reporter: 'operator',
    at: at(ms),
  })
  if (leak === undefined) throw new Error('nothing was recorded')
  return leak
}
const settings = { atOnce: ['trade:*'], overlapMs: HOUR }
const look = (leakId: Awaited<ReturnType<typeof report>>['leakId'], more: { force?: boolean; begun?: boolean } = {}) =>
  containLeak(db, { leakId, at: at(HOUR), settings, force: false, begun: true, ...more })
const statusOf = async (leakId: string) =>
  (await db.query<{ status: string }>('select status from leaks where leak_id = $1', [leakId]))[0]?.status

test('a key with an overlap lives on, and dies when its time is over; each look finds the same', async () => {
  const credential = await makeCredential(db)
  const { leakId, matched } = await report(await tokenOf(db, credential.claimId))
  expect(matched).toBe('live')
  const living = { atOnce: false, overlapMs: HOUR, changed: [], rotationNeeded: true, keyId: credential.keyId }
  expect(await look(leakId, { begun: false })).toMatchObject(living)
  expect(await statusOf(leakId)).toBe('open')
  expect(await look(leakId)).toMatchObject(living)
  expect(await statusOf(leakId)).toBe('responding')
  expect((await keyOf(db, credential.keyId)).state).toBe('active')
  const over = { atOnce: true, changed: [credential.keyId], rotationNeeded: true }
  expect(await look(leakId, { force: true })).toMatchObject(over)
  expect((await keyOf(db, credential.keyId)).state).toBe('compromised')
  // A try that comes again publishes the same.
  expect(await look(leakId, { force: true })).toMatchObject(over)
})

test('G1: with the new key of a rotation its old one is published anew: it may have come back', async () => {
  const rotation = await monitored(db)
  const { keyId: oldKeyId, newKeyId, rotationId } = rotation
  const { leakId } = await report(await tokenOf(db, rotation.newClaimId))
  await deactivateKey(db, { ...rotation.by, keyId: oldKeyId, unless: 'never', stage: { stage: 'deactivating' } })
  expect(await look(leakId)).toMatchObject({ atOnce: true, changed: [newKeyId, oldKeyId], rotationNeeded: true })
  expect([(await keyOf(db, newKeyId)).state, (await keyOf(db, oldKeyId)).state]).toEqual(['compromised', 'active'])
  expect(await db.query('select new_key_id from rotations where rotation_id = $1', [rotationId])).toEqual([{ new_key_id: null }])
})

test('G9: a key that was dead already is no cause to rotate; one that died of something else is not told again', async () => {
  const credential = await makeCredential(db)
  const token = await tokenOf(db, credential.claimId)
  await compromiseKey(db, { keyId: credential.keyId, at: at(0), actor: 'test', reason: 'test' })
  const { leakId, matched, status } = await report(token)
  expect([matched, status]).toEqual(['dead', 'closed'])
  expect(await look(leakId)).toMatchObject({ changed: [], rotationNeeded: false })
  // A second report of it does not open it again.
  expect(await report(token, 2 * HOUR)).toMatchObject({ leakId, status: 'closed', isNew: false })
})

test('a key that was switched off is made compromised, and is no cause to rotate, also where nothing has taken its place', async () => {
  const { keyId, claimId } = await makeCredential(db)
  const token = await tokenOf(db, claimId)
  await db.tx(async (tx) => {
    await appendAudit(tx, { at: at(0), actor: 'test', action: 'key.deactivated', subject: keyId, revision: 2, detail: {} })
    await tx.query(
      `update keys set state = 'deactivated', standing = 'retired', event = 'keyturn.key.deactivated', revision = 2 where key_id = $1`,
      [keyId],
    )
  })
  const { leakId, matched, status } = await report(token)
  expect([matched, status]).toEqual(['dead', 'open'])
  expect(await look(leakId)).toMatchObject({ atOnce: true, changed: [keyId], rotationNeeded: false })
  expect((await keyOf(db, keyId)).state).toBe('compromised')
})

test('a report of a leak that is closed counts a sighting, and opens nothing', async () => {
  const credential = await makeCredential(db)
  const token = await tokenOf(db, credential.claimId)
  const { leakId } = await report(token, 2 * HOUR)
  await look(leakId, { force: true })
  expect(await closeLeak(db, { leakId, at: at(2 * HOUR), patient: true })).toBe(false)
  expect(await closeLeak(db, { leakId, at: at(2 * HOUR), patient: false })).toBe(true)
  expect(await report(token, HOUR)).toMatchObject({ leakId, status: 'closed', isNew: false })
  const sightings = await db.query('select times, last_at as "lastAt" from leak_sightings where leak_id = $1', [leakId])
  // The later of the two, whichever came first.
  expect(sightings).toEqual([{ times: 2, lastAt: at(2 * HOUR) }])
})

test('G3, G9: whatever a report says of where it was found, its key dies; and half a character or a NUL is stored as nothing else', async () => {
  const { keyId, claimId } = await makeCredential(db)
  const token = await tokenOf(db, claimId)
  // Cut anywhere: one of these is cut in the middle of a character.
  const urls = [...'0123'].map((before) => `https://example.com/${before.repeat(Number(before))}${'🔑'.repeat(300)}`)
  const { leakId } = await report(token, HOUR, { source: 'a\ud800\0b', url: urls[1] ?? '' })
  await report(token, HOUR, { source: 'a\udc00b', url: urls[2] ?? '' })
  expect(await look(leakId, { force: true })).toMatchObject({ atOnce: true, changed: [keyId] })
  expect((await keyOf(db, keyId)).state).toBe('compromised')
  for (const url of urls) {
    const one = await makeCredential(db)
    const leak = await report(await tokenOf(db, one.claimId), HOUR, { url })
    const { reason } = await look(leak.leakId, { force: true })
    expect(() => encodeURIComponent(reason)).not.toThrow()
    expect((await keyOf(db, one.keyId)).state).toBe('compromised')
  }
  expect(await sightingsOf(db, leakId, 5)).toMatchObject([
    { source: 'a\ufffdb', url: urls[1], times: 1 },
    { source: 'a\ufffdb', url: urls[2], times: 1 },
  ])
})

test('two sightings that are stored as the same one are the same one', async () => {
  const sightings = ['\ud800', '\udc00', '\ufffd', '\0\ufffd'].map((url) => ({
    ...toSighting({ tokenSha256: '7'.repeat(64), source: 'x' }),
    url,
  }))
  const [leak] = await recordLeaks(db, { sightings, reporter: 'kafka', at: at(0) })
  expect(await sightingsOf(db, leak?.leakId ?? '', 5)).toMatchObject([{ url: '\ufffd', times: 4 }])
})

test('G5: a token is taken out of addresses as they write it, too', () => {
  const token = 'a+token/of another=provider'
  const { hash, source, url } = toSighting({
    token,
    source: `x ${token}`,
    url: `https://example.com/?k=${encodeURIComponent(token)}`,
  })
  expect(hash.hex).toBe(createHash('sha256').update(token).digest('hex'))
  expect([source, url]).toEqual(['x [redacted]', 'https://example.com/?k=[redacted]'])
})
