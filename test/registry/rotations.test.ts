import type { Receipt, RotationId } from '@keyturn/contract'
import { DEFAULT_POLICY } from '@keyturn/contract'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { openDatabase } from '../../registry/database.ts'
import {
  enterStage,
  getRotation,
  listRotations,
  openRotation,
  openRotationOf,
  ROTATION_CHANNEL,
  recordReceipt,
  setDeadline,
  takeOverRotation,
} from '../../registry/rotations.ts'
import { createDatabase } from '../support/servers.ts'
import { at, HOUR, introduce, makeCredential, monitored, newRotationId, open, type TestCredential } from './world.ts'

let db: Database
let url: string
beforeAll(async () => {
  url = await createDatabase()
  db = openDatabase(url)
})
afterAll(() => db.close())

const input = (credential: TestCredential, rotationId: RotationId = newRotationId()) => ({
  rotationId,
  credentialId: credential.credentialId,
  trigger: 'manual' as const,
  reason: 'test',
  policy: DEFAULT_POLICY,
  at: at(0),
  actor: 'test',
})

describe('G6: one rotation at a time', () => {
  test('G6: a second rotation of a credential is refused while one is open, and named', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential)
    const second = openRotation(db, input(credential))
    await expect(second).rejects.toMatchObject({ code: 'wrong-stage', message: expect.stringContaining(rotationId) })
    expect((await openRotationOf(db, credential.credentialId))?.rotationId).toBe(rotationId)
    await enterStage(db, { rotationId, stage: 'rolled-back', at: at(1), actor: 'test' })
    expect(await openRotationOf(db, credential.credentialId)).toBeUndefined()
    await expect(openRotation(db, input(credential))).resolves.toMatchObject({ stage: 'requested' })
  })

  test('G8: a stage is entered whatever was said of it, by a server of somebody else, say', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential)
    const said = { stage: 'held', heldFor: 'undelivered', reason: 'it said \0 and half \ud83d' } as const
    await enterStage(db, { rotationId, ...said, at: at(1), actor: 'test' })
    expect((await getRotation(db, rotationId))?.timeline.at(-1)).toMatchObject({ reason: 'it said  and half \ufffd' })
  })

  test('G6: of many that open at the same time, one is opened', async () => {
    const credential = await makeCredential(db)
    const tries = await Promise.allSettled(Array.from({ length: 8 }, () => openRotation(db, input(credential))))
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const one of tries) if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'wrong-stage' })
  })

  test('G8: opening the same rotation twice opens it once', async () => {
    const credential = await makeCredential(db)
    const rotation = input(credential)
    const first = await openRotation(db, rotation)
    expect(first).toMatchObject({ oldKeyId: credential.keyId, environment: 'prod', stage: 'requested', policy: DEFAULT_POLICY })
    expect(await openRotation(db, rotation)).toEqual(first)
    const together = input(await makeCredential(db))
    const both = await Promise.all([openRotation(db, together), openRotation(db, together)])
    expect(both[0]).toEqual(both[1])
    expect(await listAudit(db, { rotationId: together.rotationId, limit: 10 })).toHaveLength(1)
  })

  test('an unknown credential has no rotation', async () => {
    const credential = { ...(await makeCredential(db)), credentialId: 'crd_0000000000000000' as TestCredential['credentialId'] }
    await expect(openRotation(db, input(credential))).rejects.toMatchObject({ code: 'unknown-credential' })
  })
})

test('the timeline tells each stage once, with its reason; what a hold is for goes with it', async () => {
  const rotationId = await open(db, await makeCredential(db))
  await introduce(db, rotationId)
  const by = { rotationId, actor: 'test' }
  await enterStage(db, { ...by, stage: 'held', at: at(1), heldFor: 'receipt', unconfirmed: ['gw-1'], reason: 'gw-1 is silent' })
  await enterStage(db, { ...by, stage: 'held', at: at(2), heldFor: 'receipt', reason: 'again' })
  expect(await getRotation(db, rotationId)).toMatchObject({ stage: 'held', heldFor: 'receipt', unconfirmed: ['gw-1'] })
  await enterStage(db, { ...by, stage: 'introducing', at: at(3) })
  const rotation = await getRotation(db, rotationId)
  expect(rotation?.heldFor).toBeUndefined()
  expect(rotation?.unconfirmed).toEqual([])
  expect(rotation?.timeline).toEqual([
    { stage: 'requested', at: at(0).toISOString(), reason: 'test' },
    { stage: 'introducing', at: at(0).toISOString() },
    { stage: 'held', at: at(1).toISOString(), reason: 'gw-1 is silent' },
    { stage: 'introducing', at: at(3).toISOString() },
  ])
})

test('a rotation that is read while it changes is of one moment: its stage is the last of its timeline', async () => {
  const rotationId = await open(db, await makeCredential(db))
  await introduce(db, rotationId)
  let changing = true
  const changes = (async () => {
    const by = { rotationId, actor: 'test', at: at(1) }
    for (let i = 0; i < 50; i++) {
      await enterStage(db, { ...by, stage: 'held', heldFor: 'operator' })
      await enterStage(db, { ...by, stage: 'introducing' })
    }
    changing = false
  })()
  const torn: unknown[] = []
  while (changing) {
    const rotation = await getRotation(db, rotationId)
    if (rotation?.stage !== rotation?.timeline.at(-1)?.stage) torn.push([rotation?.stage, rotation?.timeline.at(-1)?.stage])
  }
  await changes
  expect(torn).toEqual([])
})

test('a deadline is moved, and a rotation taken over, once and with an audit entry', async () => {
  const rotationId = await open(db, await makeCredential(db))
  const by = { rotationId, at: at(1), actor: 'tester', reason: 'because' }
  for (let i = 0; i < 2; i++) {
    await setDeadline(db, { ...by, deadline: at(HOUR) })
    await takeOverRotation(db, { ...by, trigger: 'emergency' })
  }
  expect(await getRotation(db, rotationId)).toMatchObject({ deadline: at(HOUR), trigger: 'emergency' })
  const entries = await listAudit(db, { rotationId, after: 0, limit: 10 })
  expect(entries.map(({ action }) => action)).toEqual(['rotation.requested', 'rotation.extended', 'rotation.taken-over'])
  expect(entries[1]).toMatchObject({ actor: 'tester', detail: { reason: 'because', deadline: at(HOUR).toISOString() } })
})

describe('receipts', () => {
  const receipt = (keyId: Receipt['keyId'], publishedAt: Date, unconfirmed: string[]): Receipt => ({
    keyId,
    event: 'keyturn.key.introduced',
    revision: 1,
    publishedAt: publishedAt.toISOString(),
    gateways: [{ gatewayId: 'gw-1', appliedAt: publishedAt.toISOString(), ms: 0 }],
    unconfirmed,
  })

  test('G3: a receipt is completed in place; one of an earlier publication that comes late does not undo that', async () => {
    const { rotationId, newKeyId } = await monitored(db)
    await recordReceipt(db, { rotationId, receipt: receipt(newKeyId, at(10), ['gw-2']) })
    await recordReceipt(db, { rotationId, receipt: receipt(newKeyId, at(10), []) })
    await recordReceipt(db, { rotationId, receipt: receipt(newKeyId, at(5), ['gw-2']) })
    expect((await getRotation(db, rotationId))?.receipts).toEqual([receipt(newKeyId, at(10), [])])
  })
})

test('whoever listens hears of each change of a rotation', async () => {
  const listener = new pg.Client({ connectionString: url })
  await listener.connect()
  try {
    const heard: (string | undefined)[] = []
    listener.on('notification', ({ channel, payload }) => channel === ROTATION_CHANNEL && heard.push(payload))
    await listener.query(`listen ${ROTATION_CHANNEL}`)
    const rotationId = await open(db, await makeCredential(db))
    await enterStage(db, { rotationId, stage: 'introducing', at: at(0), actor: 'test' })
    await enterStage(db, { rotationId, stage: 'introducing', at: at(0), actor: 'test' })
    // A round trip of the listener's own: what was sent before it has arrived with it.
    await listener.query('select')
    expect(heard).toEqual([rotationId, rotationId])
  } finally {
    await listener.end()
  }
})

test('rotations are listed latest first, by what is asked for, page by page without a gap or a repetition', async () => {
  const credential = await makeCredential(db)
  const made: string[] = []
  for (let i = 0; i < 5; i++) {
    // All of one instant: a page that ends among them must go on among them.
    const rotation = { ...input(credential), at: at(i < 4 ? HOUR : 2 * HOUR) }
    await openRotation(db, rotation)
    made.push(rotation.rotationId)
    if (i < 4) await enterStage(db, { rotationId: rotation.rotationId, stage: 'rolled-back', at: at(HOUR), actor: 'test' })
  }
  for (const filter of [{ credentialId: credential.credentialId }, { clientId: credential.clientId }]) {
    const pages: string[] = []
    for (let before: RotationId | undefined; ; ) {
      const page = await listRotations(db, { ...filter, limit: 2, ...(before === undefined ? {} : { before }) })
      pages.push(...page.map(({ rotationId }) => rotationId))
      before = page.at(-1)?.rotationId
      if (page.length < 2) break
    }
    expect(pages).toHaveLength(5)
    expect(pages[0]).toBe(made[4])
    expect(new Set(pages)).toEqual(new Set(made))
  }
  const open = await listRotations(db, { clientId: credential.clientId, stage: 'requested', limit: 10 })
  expect(open.map(({ rotationId }) => rotationId)).toEqual([made[4]])
})
