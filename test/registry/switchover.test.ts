import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { switchoverOf } from '../../registry/switchover.ts'
import { setCompleteThrough } from '../../registry/usage.ts'
import {
  at,
  collect,
  DAY,
  HOUR,
  introduce,
  makeCredential,
  monitored,
  newRotationId,
  open,
  openTestDatabase,
  usageOf,
} from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const use = (keyId: KeyId, ms: number, address: string, userAgent = 'feed/1') =>
  collect(db, usageOf(keyId, 'accepted', { last: at(ms) }, [{ address, userAgent, count: 1, lastAt: at(ms).toISOString() }]))
const iso = (ms: number) => at(ms).toISOString()

describe('how far a client has switched over', () => {
  test('which programs have moved, which have not, how fast it goes, and when it will be done', async () => {
    const { rotationId, keyId, newKeyId } = await monitored(db, { quietPeriodMs: DAY })
    for (const n of [1, 2, 3, 4]) await use(keyId, -HOUR, `192.0.${n}.9`)
    // Within the quiet period before, and no longer ago.
    await use(keyId, -2 * DAY, '198.51.100.1', 'gone/1')
    await setCompleteThrough(db, at(1), [])
    expect(await switchoverOf(db, rotationId)).toMatchObject({ moved: 0, total: 4 })
    await use(newKeyId, HOUR, '192.0.1.9')
    await use(keyId, HOUR, '192.0.2.9')
    await use(newKeyId, 2 * HOUR, '192.0.2.9')
    await setCompleteThrough(db, at(2 * HOUR), [])
    expect(await switchoverOf(db, rotationId)).toEqual({
      programs: [
        { userAgent: 'feed/1', addresses: '192.0.1.9', movedAt: iso(HOUR), oldLastAt: iso(-HOUR), newFirstAt: iso(HOUR) },
        { userAgent: 'feed/1', addresses: '192.0.2.9', movedAt: iso(2 * HOUR), oldLastAt: iso(HOUR), newFirstAt: iso(2 * HOUR) },
        { userAgent: 'feed/1', addresses: '192.0.3.9', oldLastAt: iso(-HOUR) },
        { userAgent: 'feed/1', addresses: '192.0.4.9', oldLastAt: iso(-HOUR) },
      ],
      moved: 2,
      total: 4,
      perHour: 1,
      doneAt: iso(4 * HOUR),
    })
    for (const n of [3, 4]) await use(newKeyId, n * HOUR, `192.0.${n}.9`)
    expect(await switchoverOf(db, rotationId)).toMatchObject({ moved: 4, total: 4, doneAt: iso(4 * HOUR) })
  })

  test('a program with several parts has moved when the last of them has', async () => {
    const { rotationId, keyId, newKeyId } = await monitored(db)
    await use(keyId, 1_000, '192.0.2.1')
    await use(newKeyId, 2_000, '192.0.2.2')
    await use(keyId, 3_000, '192.0.2.1')
    await use(newKeyId, 4_000, '192.0.2.1')
    await setCompleteThrough(db, at(12_999), [])
    const under = await switchoverOf(db, rotationId)
    expect(under).toMatchObject({ moved: 0, total: 1, programs: [{ addresses: '192.0.2.0/24', newFirstAt: iso(2_000) }] })
    await setCompleteThrough(db, at(13_000), [])
    expect((await switchoverOf(db, rotationId))?.programs).toEqual([
      { userAgent: 'feed/1', addresses: '192.0.2.0/24', movedAt: iso(3_000), oldLastAt: iso(3_000), newFirstAt: iso(2_000) },
    ])
  })

  test('one that goes back to the old key has not moved', async () => {
    const { rotationId, keyId, newKeyId } = await monitored(db)
    await use(newKeyId, 1_000, '192.0.2.1')
    await use(keyId, 2_000, '192.0.2.1')
    await setCompleteThrough(db, at(DAY), [])
    expect(await switchoverOf(db, rotationId)).toMatchObject({ moved: 0, total: 1 })
  })

  test('of a rotation without a new key, or that nobody knows, there is nothing to be said', async () => {
    const rotationId = await open(db, await makeCredential(db))
    expect(await switchoverOf(db, rotationId)).toBeUndefined()
    await introduce(db, rotationId)
    expect(await switchoverOf(db, rotationId)).toEqual({ programs: [], moved: 0, total: 0 })
    expect(await switchoverOf(db, newRotationId())).toBeUndefined()
  })
})
