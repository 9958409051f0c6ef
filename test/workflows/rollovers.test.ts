/** Fleet rollovers on the real servers, asked for over HTTP. */
import { type ProblemDocument, type RolloverId, randomBase62, rolloverWorkflowId } from '@keyturn/contract'
import { describe, expect, test, vi } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { getRollover, type Rollover } from '../../registry/rollover-records.ts'
import { apiHouse } from '../api/support.ts'
import { type FleetMember, makeFleet } from '../support/fleet.ts'
import { eventually } from '../support/house.ts'
import { obstruct } from '../support/obstacles.ts'
import { type PlaceName, standAt } from '../support/standings.ts'

vi.setConfig({ testTimeout: 300_000 })
const WITHIN_MS = 180_000
const FLEET = 60

const at = apiHouse({ gateways: 2 })

/** Credentials that every gateway accepts, and the scope that selects them alone. */
async function fleet(count: number): Promise<{ members: FleetMember[]; scope: string }> {
  const scope = `fleet-${randomBase62(12).toLowerCase()}`
  const members = await makeFleet(at.house.db, count, [scope])
  const publication = await at.house.propagation.publishMany(members.map(({ keyId }) => keyId))
  expect((await at.house.propagation.waitForAll(publication, { timeoutMs: 60_000 })).unconfirmed).toEqual([])
  return { members, scope }
}

async function rollOver(scope: string | string[], expected: number): Promise<RolloverId> {
  const { status, body } = await at.client.post<{ rolloverId: RolloverId }>('/v1/rollovers', {
    selector: { scope },
    reason: 'breach at the provider',
    expected,
  })
  expect(status).toBe(202)
  return body.rolloverId
}

async function until(rolloverId: RolloverId, what: string, met: (rollover: Rollover) => boolean): Promise<Rollover> {
  let seen: Rollover | undefined
  return eventually(
    async () => {
      seen = await getRollover(at.house.db, rolloverId)
      return seen !== undefined && met(seen) ? seen : undefined
    },
    () => `${what}: ${JSON.stringify(seen)}`,
    WITHIN_MS,
  )
}
const ended = (rolloverId: RolloverId) => until(rolloverId, 'the end', ({ endedAt }) => endedAt !== undefined)
const inStage = (rolloverId: RolloverId, stage: Rollover['stage']) => until(rolloverId, stage, (seen) => seen.stage === stage)
const order = (rolloverId: RolloverId, name: string) => at.client.post(`/v1/rollovers/${rolloverId}/${name}`, { reason: name })

/** Keeps the end of one key from being noted as published: until that is released, the rollover stands before its first wave. */
async function beforeItsWaves([first]: readonly FleetMember[]): Promise<() => Promise<void>> {
  if (first === undefined) throw new Error('there is no member')
  return obstruct(at.house.db, first.credentialId, { refuses: 'published', event: 'keyturn.key.compromised' })
}

const statesOf = async ({ credentialId }: Pick<FleetMember, 'credentialId'>) =>
  (await at.house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)
const RENEWED = ['1 compromised retired', '2 active current']

/** Every key dead everywhere, and one new one for each. */
async function expectRenewed(members: readonly FleetMember[]): Promise<void> {
  for (const member of members) {
    expect(at.house.verdicts(member.token)).toEqual([false, false])
    expect(await statesOf(member)).toEqual(RENEWED)
  }
  expect(await verifyAudit(at.house.db)).toMatchObject({ ok: true })
}

test(`G3, G9: a fleet of ${FLEET} dies at once, with one receipt for all; each gets one new key`, async () => {
  const { members, scope } = await fleet(FLEET)
  const { body: preview } = await at.client.get(`/v1/rollovers/preview?selector=${encodeURIComponent(`scope=${scope}`)}`)
  expect(preview).toMatchObject({ credentials: FLEET, keys: FLEET, environments: { prod: FLEET }, joined: 0 })
  const rolloverId = await rollOver(scope, FLEET)
  // The registry's word first: all are dead when the request is answered.
  for (const member of members) expect((await statesOf(member))[0]).toBe('1 compromised retired')
  await ended(rolloverId)
  const { body } = await at.client.get(`/v1/rollovers/${rolloverId}`)
  expect(body).toMatchObject({
    stage: 'completed',
    counts: { selected: FLEET, joined: 0, killed: FLEET, confirmed: FLEET, successors: FLEET, delivered: FLEET, failed: 0 },
    receipts: [{ keys: FLEET, gateways: [{ ms: expect.any(Number) }, { ms: expect.any(Number) }], unconfirmed: [] }],
    unconfirmed: [],
    remainder: [],
  })
  await expectRenewed(members)
  const audit = await at.house.db.query<{ action: string }>('select action from audit where subject = $1 order by seq', [
    rolloverId,
  ])
  expect(audit.map(({ action }) => action)).toEqual([
    'rollover.opened',
    'rollover.issuing',
    'rollover.confirming',
    'rollover.completed',
  ])
  // The client claims its new key like any other.
  const [rotation] = await at.house.db.query<{ rotation_id: never }>(
    'select rotation_id from rollover_members where rollover_id = $1 and credential_id = $2',
    [rolloverId, members[0]?.credentialId],
  )
  if (rotation === undefined) throw new Error('there is no rotation')
  expect(await at.house.rotation(rotation.rotation_id)).toMatchObject({ trigger: 'emergency', stage: 'completed' })
  expect(at.house.verdicts(await at.house.claimNewKey(rotation.rotation_id))).toEqual([true, true])
})

test('G6: two that overlap kill each key once, and each credential gets one new key', async () => {
  const [one, shared, two] = [await fleet(10), await fleet(20), await fleet(10)]
  const [a, b] = await Promise.all([rollOver([one.scope, shared.scope], 30), rollOver([shared.scope, two.scope], 30)])
  const rollovers = [await ended(a), await ended(b)]
  expect(rollovers.map(({ stage, counts }) => [stage, counts.selected, counts.successors, counts.failed])).toEqual([
    ['completed', 30, 30, 0],
    ['completed', 30, 30, 0],
  ])
  expect(rollovers.reduce((sum, { counts }) => sum + counts.killed, 0)).toBe(40)
  expect(rollovers.reduce((sum, { counts }) => sum + counts.joined, 0)).toBe(20)
  await expectRenewed([...one.members, ...shared.members, ...two.members])
})

test('G3: a silent gateway is named until it is declared gone; the new keys do not wait for it', async () => {
  const { members, scope } = await fleet(3)
  await at.house.announceSilentGateway('gw-silent')
  const rolloverId = await rollOver(scope, 3)
  const waiting = await until(rolloverId, 'new keys', ({ stage, counts }) => stage === 'confirming' && counts.successors === 3)
  expect(waiting).toMatchObject({ unconfirmed: ['gw-silent'], counts: { confirmed: 0, delivered: 0 } })
  expect(waiting.receipts[0]?.gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
  expect(await at.client.refusal('POST', `/v1/rollovers/${rolloverId}/cancel`, { body: { reason: 'late' } })).toMatchObject({
    code: 'wrong-stage',
  })
  await at.house.propagation.declareGone('gw-silent')
  expect(await ended(rolloverId)).toMatchObject({ stage: 'completed', unconfirmed: [], counts: { confirmed: 3, delivered: 3 } })
  await expectRenewed(members)
})

test('pause and resume: no wave begins in between, and the receipt comes all the same', async () => {
  const { members, scope } = await fleet(5)
  const release = await beforeItsWaves(members)
  const rolloverId = await rollOver(scope, 5)
  await eventually(
    async () => (await at.client.post(`/v1/rollovers/${rolloverId}/pause`, { reason: 'wait' })).status === 200,
    'the pause',
    WITHIN_MS,
  )
  expect(await inStage(rolloverId, 'paused')).toMatchObject({ counts: { killed: 5, successors: 0 } })
  await release()
  await until(rolloverId, 'the receipt', ({ counts }) => counts.confirmed === 5)
  expect(await at.client.refusal('POST', `/v1/rollovers/${rolloverId}/pause`, { body: { reason: 'again' } })).toMatchObject({
    code: 'wrong-stage',
    detail: expect.stringContaining('this one is paused'),
  })
  expect(await order(rolloverId, 'resume')).toMatchObject({ status: 200, body: { stage: 'issuing' } })
  expect(await ended(rolloverId)).toMatchObject({ stage: 'completed', counts: { killed: 5, successors: 5 } })
  await expectRenewed(members)
})

test('cancel: what is dead stays dead, what was cancelled is listed, and another rollover brings the keys', async () => {
  const { members, scope } = await fleet(5)
  const release = await beforeItsWaves(members)
  const rolloverId = await rollOver(scope, 5)
  await eventually(async () => (await order(rolloverId, 'cancel')).status === 200, 'the cancellation', WITHIN_MS)
  expect(await inStage(rolloverId, 'cancelled')).toMatchObject({ counts: { confirmed: 0 } })
  await release()
  const { remainder, counts } = await ended(rolloverId)
  expect(counts).toMatchObject({ killed: 5, confirmed: 5, successors: 0 })
  expect(remainder.map(({ credentialId, why }) => `${credentialId} ${why}`)).toEqual(
    members.map(({ credentialId }) => `${credentialId} cancelled`).sort(),
  )
  for (const member of members) expect(await statesOf(member)).toEqual(['1 compromised retired'])
  expect(await at.client.refusal('POST', `/v1/rollovers/${rolloverId}/resume`, { body: { reason: 'no' } })).toMatchObject({
    code: 'wrong-stage',
    detail: 'The rollover has ended: it is cancelled.',
  })
  // Another one brings them their keys: nothing is left to kill.
  const next = await rollOver(scope, 5)
  expect(await ended(next)).toMatchObject({ stage: 'completed', counts: { killed: 0, successors: 5 } })
  await expectRenewed(members)
})

describe('G6, G9: over rotations that run, in the stage', () => {
  const places: readonly PlaceName[] = ['introducing', 'notifying', 'monitoring', 'deactivating', 'rolling back']
  test.each(places)('%s', async (place) => {
    const { house } = at
    const rotation = await standAt(house, place)
    const [row] = await house.db.query<{ client_id: string }>('select client_id from credentials where credential_id = $1', [
      rotation.credentialId,
    ])
    const { body } = await at.client.post<{ rolloverId: RolloverId }>('/v1/rollovers', {
      selector: { client: row?.client_id },
      reason: 'breach',
      expected: 1,
    })
    const before = (await house.keys(rotation.credentialId)).map(({ version }) => version)
    await rotation.release()
    expect(await ended(body.rolloverId)).toMatchObject({ stage: 'completed', counts: { selected: 1, successors: 1, failed: 0 } })
    expect(house.verdicts(rotation.token)).toEqual([false, false])
    const keys = await house.keys(rotation.credentialId)
    const live = keys.filter(({ state }) => state !== 'compromised')
    expect(live.map(({ state, standing }) => [state, standing])).toEqual([['active', 'current']])
    expect(live.every(({ version }) => !before.includes(version))).toBe(true)
  })
})

test('G8: a rollover whose workflow was terminated goes on', async () => {
  const { members, scope } = await fleet(3)
  const release = await beforeItsWaves(members)
  const rolloverId = await rollOver(scope, 3)
  await eventually(
    () =>
      at.house.client.workflow
        .getHandle(rolloverWorkflowId(rolloverId))
        .terminate('lost')
        .then(
          () => true,
          () => false,
        ),
    'its workflow',
    WITHIN_MS,
  )
  await release()
  expect(await ended(rolloverId)).toMatchObject({ stage: 'completed', counts: { successors: 3 } })
  await expectRenewed(members)
})

describe('bad input', () => {
  const refused = async (body: object): Promise<ProblemDocument> => {
    const before = await at.house.db.query('select seq from audit_head')
    const problem = await at.client.refusal('POST', '/v1/rollovers', { body })
    expect(await at.house.db.query('select seq from audit_head')).toEqual(before)
    return problem
  }
  const reason = 'breach'

  test.each([
    ['an empty selector', { selector: {}, reason }, 'empty-selector'],
    ['nobody', { selector: { scope: 'nobody' }, reason }, 'unknown-credential'],
    ['no reason', { selector: { scope: 'x' } }, 'invalid-request'],
    ['an unknown field', { selector: { scope: 'x' }, reason, force: true }, 'invalid-request'],
    ['an unknown field of the selector', { selector: { scopes: 'x' }, reason }, 'invalid-request'],
    ['an environment that there is not', { selector: { environment: 'production' }, reason }, 'invalid-request'],
  ])('%s', async (_, body, code) => {
    expect((await refused(body)).code).toBe(code)
  })

  test('another count than was seen', async () => {
    const { members, scope } = await fleet(2)
    expect(await refused({ selector: { scope }, reason, expected: 3 })).toMatchObject({
      code: 'count-mismatch',
      status: 409,
      detail: expect.stringContaining('2 credentials are selected, not 3'),
    })
    expect(at.house.verdicts(members[0]?.token ?? '')).toEqual([true, true])
  })

  test('a rollover that there is not, and a preview of nonsense', async () => {
    const path = '/v1/rollovers/rol_0000000000000000'
    expect(await at.client.refusal('GET', path)).toMatchObject({ code: 'unknown-rollover' })
    expect(await at.client.refusal('POST', `${path}/cancel`, { body: { reason } })).toMatchObject({ code: 'unknown-rollover' })
    expect(await at.client.refusal('GET', '/v1/rollovers/preview?selector=prod')).toMatchObject({ code: 'invalid-request' })
    expect(await at.client.refusal('GET', '/v1/rollovers/preview?selector=')).toMatchObject({ code: 'empty-selector' })
  })
})
