import type { RotationId, RotationProgress, RotationStage } from '@keyturn/contract'
import { expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { getRotation } from '../../registry/rotations.ts'
import { eventually } from '../support/house.ts'
import { apiHouse, reached, trigger } from './support.ts'

const at = apiHouse({})

const order = (rotationId: string, path: string, body: object = {}) =>
  at.client.post<RotationProgress>(`/v1/rotations/${rotationId}/${path}`, { reason: `${path} by test`, ...body })
const refusal = (rotationId: string, path: string) =>
  at.client.refusal('POST', `/v1/rotations/${rotationId}/${path}`, { body: { reason: 'a try' } })
const entriesOf = (rotationId: RotationId) => listAudit(at.house.db, { rotationId, limit: 100 })
const stands = (rotationId: RotationId, stage: RotationStage): Promise<unknown> =>
  eventually(async () => (await getRotation(at.house.db, rotationId))?.stage === stage, `${rotationId} ${stage}`, 60_000)

async function begun(policy: object = {}): Promise<RotationId> {
  const { credentialId } = await at.house.credential()
  return (await trigger(at.client, credentialId, { regretWindow: '1h', ...policy })).body.rotationId
}

async function refusedWithoutEffect(rotationId: RotationId, path: string, why: RegExp): Promise<void> {
  const standing = async () => {
    const { stage, trigger: by, deadline, timeline } = await at.house.rotation(rotationId)
    return { stage, by, deadline, timeline, entries: (await entriesOf(rotationId)).length }
  }
  const before = await standing()
  expect(await refusal(rotationId, path)).toMatchObject({ code: 'wrong-stage', status: 409, detail: expect.stringMatching(why) })
  expect(await standing()).toEqual(before)
}

/** One order after the other on one rotation: to which stage each leads, or why it is refused. */
type Step = readonly [path: string, then: RotationStage | RegExp]
const STEERED: Readonly<Record<string, { policy?: object; from: RotationStage; steps: readonly Step[] }>> = {
  'held and resumed, deactivated on a word, rolled back': {
    from: 'monitoring',
    steps: [
      ['approve', /nothing waits for approval: the rotation is monitoring/],
      ['resume', /only a held rotation can be resumed; this one is monitoring/],
      ['hold', 'held'],
      ['approve', /nothing waits for approval: the rotation is held \(held for: operator\)/],
      ['hold', /^the rotation is held already \(held for: operator\)$/],
      ['resume', 'monitoring'],
      ['deactivate-now', 'deactivating'],
      ['hold', /only a rotation that has not begun to deactivate can be held; this one is deactivating/],
      ['extend', /only an overlap window that is open can be extended; this one is deactivating/],
      ['deactivate-now', /can only be deactivated while both keys are accepted; this one is deactivating/],
      ['roll-back', 'rolled-back'],
      ['roll-back', /has ended: it is rolled-back/],
      ['escalate', /has ended: it is rolled-back/],
    ],
  },
  'held at its deadline, extended, and rolled back from monitoring': {
    policy: { overlap: '1s' },
    from: 'held',
    steps: [
      ['extend', 'monitoring'],
      ['roll-back', 'rolled-back'],
    ],
  },
  'held at its deadline, approved, and made an emergency': {
    policy: { overlap: '1s' },
    from: 'held',
    steps: [
      ['approve', 'deactivating'],
      ['escalate', 'completed'],
      ['roll-back', /has ended: it is completed/],
    ],
  },
}

test.concurrent.each(Object.entries(STEERED))(
  'a rotation is %s; what is not possible at its stage is refused, says why and changes nothing',
  async (_, { policy, from, steps }) => {
    const rotationId = await begun(policy)
    await stands(rotationId, from)
    const done: string[] = []
    for (const [path, then] of steps) {
      if (typeof then !== 'string') {
        await refusedWithoutEffect(rotationId, path, then)
        continue
      }
      const { status, body } = await order(rotationId, path)
      expect([path, status, body.rotationId]).toEqual([path, 200, rotationId])
      await stands(rotationId, then)
      // That a rotation goes on where it was is in the log, in the workflow's own words.
      if (path !== 'resume') done.push(`${path} by test`)
    }
    const reasons = (await entriesOf(rotationId)).map(({ detail }) => detail['reason'])
    expect(reasons).toEqual(expect.arrayContaining(done))
  },
)

test('extend moves the deadline by the time that is asked for, and by the policy’s when none is', async () => {
  const rotationId = await begun()
  await stands(rotationId, 'monitoring')
  const deadline = async () => (await at.house.rotation(rotationId)).deadline?.getTime() ?? Number.NaN
  const before = await deadline()
  // An answer waits for the effect a moment only.
  const moves = (hours: number) => eventually(async () => (await deadline()) - before === hours * 3_600_000, `${hours} h more`)
  expect((await order(rotationId, 'extend', { by: '2d12h' })).status).toBe(200)
  await moves(60)
  expect((await order(rotationId, 'extend')).status).toBe(200)
  await moves(60 + 7 * 24)
  const extended = (await entriesOf(rotationId)).filter(({ action }) => action === 'rotation.extended')
  expect(extended.map(({ actor, detail }) => [actor, detail['reason']])).toEqual([
    ['operator', 'extend by test'],
    ['operator', 'extend by test'],
  ])
})

test('a running emergency is not held, rolled back, escalated or resumed; a manual request joins it and slows nothing', async () => {
  const { credentialId } = await at.house.credential()
  await at.house.announceSilentGateway('gw-away')
  const { rotationId } = (await trigger(at.client, credentialId, { trigger: 'emergency', receiptWait: '0s' })).body
  expect((await trigger(at.client, credentialId)).body).toEqual({ rotationId, trigger: 'emergency', joined: true })
  await stands(rotationId, 'held')
  for (const [path, why] of [
    ['hold', /^an emergency is not held$/],
    ['roll-back', /compromised and never comes back/],
    ['escalate', /an emergency already/],
    ['resume', /waits for a gateway, and goes on by itself \(held for: receipt; unconfirmed: gw-away\)/],
  ] as const)
    await refusedWithoutEffect(rotationId, path, why)
  const held = await at.client.get(`/v1/rotations/${rotationId}`)
  expect(held.body).toMatchObject({ stage: 'held', heldFor: 'receipt', unconfirmed: ['gw-away'] })
  await at.client.post('/v1/gateways/gw-away/gone', { reason: 'was never there' })
  const { receipts } = await reached(at.client, rotationId, 'completed')
  expect(receipts.flatMap(({ unconfirmed }) => unconfirmed)).toEqual([])
})
