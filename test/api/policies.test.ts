import type { Policy } from '@keyturn/contract'
import { randomBase62 } from '@keyturn/contract'
import { policyScheduleId } from '@keyturn/contract/policy-run'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { createClient } from '../../registry/clients.ts'
import { createCredential } from '../../registry/credentials.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { eventually, type House, testToken } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

const DAY = 86_400_000

let house: House
let api: ServedApi
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1 })
  api = await serveApi(house)
})
afterAll(async () => {
  await api.stop()
  await house.close()
})

interface PolicyBody {
  readonly name: string
  readonly revision: number
  readonly policy: Policy
  readonly credentials: number
  readonly warnings: readonly string[]
  readonly scheduled: boolean
  readonly stopped?: { readonly reason: string }
}
interface Applied {
  readonly changes: readonly { name: string; change: string; credentials: number; warnings: string[] }[]
  readonly dryRun: boolean
  readonly scheduled: boolean
}
interface Preview {
  readonly credentials: number
  readonly selectedByOthers: { policy: string; credentials: number }[]
  readonly starts: number
  readonly days: { date: string; starts: number; closed: string }[]
  readonly waves: { wave: number; starts: number }[]
  readonly warnings: string[]
}

const put = <T>(path: string, body: object) => api.client.request<T>('PUT', path, { body })
const newName = (): string => `p${randomBase62(8).toLowerCase()}`

/** A credential whose first key is so old, with a label for the policies of one test. */
async function oldCredential(label: string, days = 100) {
  const at = new Date(Date.now() - days * DAY)
  const { clientId } = await createClient(house.db, { name: 'Acme', contacts: [], at, actor: 'test' })
  const made = await createCredential(house.db, {
    clientId,
    name: randomBase62(8),
    environment: 'prod',
    scopes: ['read'],
    labels: { of: label },
    brand: 'kt',
    sealer: house.sealer,
    claimExpiresAt: new Date(Date.now() + DAY),
    at,
    actor: 'test',
  })
  return made.credentialId
}

const scheduleOf = (name: string) => house.client.schedule.getHandle(policyScheduleId(house.config.taskQueue, name))

describe('a schedule', () => {
  test('is there when the policy is, and rotates what is due: from the request to the audit entry', async () => {
    const name = newName()
    const credentialId = await oldCredential(name)
    const set = await put<PolicyBody>(`/v1/policies/${name}`, {
      select: { labels: { of: name } },
      period: '30d',
      overlap: '2d',
      rate: '3600/h',
    })
    expect(set).toMatchObject({ status: 200, body: { name, revision: 1, credentials: 1, warnings: [], scheduled: true } })
    const { spec, action, policies } = await scheduleOf(name).describe()
    expect(spec.intervals).toMatchObject([{ every: 900_000 }])
    expect(action).toMatchObject({ workflowType: 'runPolicy', taskQueue: house.config.taskQueue, args: [{ policy: name }] })
    expect(policies.overlap).toBe('BUFFER_ONE')

    await scheduleOf(name).trigger()
    const [rotation] = await eventually(
      async () => {
        const { body } = await api.client.get<{ rotations: { rotationId: string; trigger: string; reason: string }[] }>(
          `/v1/rotations?credential=${credentialId}`,
        )
        return body.rotations.length > 0 && body.rotations
      },
      'the rotation',
      60_000,
    )
    expect(rotation).toMatchObject({ trigger: 'schedule', reason: `policy ${name}: every 30d` })
    const { body } = await api.client.get<{ policy: Record<string, unknown> }>(`/v1/rotations/${rotation?.rotationId}`)
    expect(body.policy).toMatchObject({ name, overlap: '2d', reminders: ['50%', '75%', '90%'] })
    const entries = await listAudit(house.db, { rotationId: rotation?.rotationId ?? '', limit: 1 })
    expect(entries).toMatchObject([{ action: 'rotation.requested', actor: `policy:${name}` }])
  })

  test('goes with the policy; the rotations that it has started go on', async () => {
    const name = newName()
    await put(`/v1/policies/${name}`, { select: { labels: { of: name } } })
    const removed = await api.client.request('DELETE', `/v1/policies/${name}`)
    expect(removed).toMatchObject({ status: 200, body: { name, removed: true, credentials: 0, scheduled: true } })
    await expect(scheduleOf(name).describe()).rejects.toThrow()
    expect(await api.client.refusal('GET', `/v1/policies/${name}`)).toMatchObject({ code: 'unknown-policy' })
    expect(await api.client.refusal('DELETE', `/v1/policies/${name}`)).toMatchObject({ code: 'unknown-policy' })
  })
})

describe('applying a file', () => {
  test('says what changes, in a dry run, too; what is not in the file stays, unless it is pruned', async () => {
    const [a, b] = [newName(), newName()]
    await oldCredential(a)
    const file = (period: string) => [
      { name: a, select: { labels: { of: a } }, period },
      { name: b, select: { labels: { of: b } }, blackout: [{ timeZone: 'UTC', days: ['sat'] }] },
    ]
    const dry = await put<Applied>('/v1/policies', { policies: file('90d'), dryRun: true })
    expect(dry.body).toMatchObject({ dryRun: true, scheduled: false })
    expect(dry.body.changes).toMatchObject([
      { name: a, change: 'created', credentials: 1 },
      { name: b, change: 'created', credentials: 0 },
    ])
    expect(await api.client.refusal('GET', `/v1/policies/${a}`)).toMatchObject({ code: 'unknown-policy' })
    expect((await put<Applied>('/v1/policies', { policies: file('90d') })).body.scheduled).toBe(true)
    const again = await put<Applied>('/v1/policies', { policies: file('60d') })
    expect(again.body.changes.map(({ name, change }) => [name, change])).toEqual([
      [a, 'changed'],
      [b, 'unchanged'],
    ])
    const { body } = await api.client.get<{ policies: PolicyBody[] }>('/v1/policies')
    expect(body.policies.slice(0, 2).map(({ name, revision }) => [name, revision])).toEqual([
      [a, 2],
      [b, 1],
    ])
    const pruned = await put<Applied>('/v1/policies', { policies: file('60d').slice(0, 1), prune: true })
    expect(pruned.body.changes.filter(({ change }) => change === 'removed').map(({ name }) => name)).toContain(b)
  })

  test('a flaw in one refuses all, and names the policy and the field', async () => {
    const name = newName()
    const refused = await api.client.refusal('PUT', '/v1/policies', {
      body: {
        policies: [
          { name, all: true },
          { name: 'other', all: true, overlap: '91d' },
        ],
      },
    })
    expect(refused).toMatchObject({
      code: 'invalid-policy',
      detail:
        'policy "other", policies.1.overlap: must be shorter than the period of 90d: the key would be due again before it is in use.',
      errors: [{ path: '/policies/1/overlap' }],
    })
    expect(await api.client.refusal('GET', `/v1/policies/${name}`)).toMatchObject({ code: 'unknown-policy' })
  })

  test.each<[object, string]>([
    [{}, 'policies: must be there, with a list of policies.'],
    [{ policies: [], dryrun: true }, 'unknown field'],
    [{ policies: [], prune: 'yes' }, 'wrong type'],
  ])('%j is refused', async (body, detail) => {
    const refused = await api.client.refusal('PUT', '/v1/policies', { body })
    expect(refused.status).toBe(400)
    if (refused.code === 'invalid-policy') expect(refused.detail).toBe(detail)
    else expect(refused.errors).toHaveLength(1)
  })
})

describe('a single policy', () => {
  test.each<[object, string]>([
    [{ all: true, perod: '3d' }, 'perod: is not a field here.'],
    [{}, 'select: would select every credential there is: say which, or write "all: true" in its place.'],
    [
      { all: true, blackout: [{ timeZone: 'Mars/Base', days: ['sat'] }] },
      'blackout.0.timeZone: "Mars/Base" is not a time zone: write one of the IANA database, like America/New_York.',
    ],
    [
      {
        all: true,
        blackout: [
          { timeZone: 'UTC', to: '12:00' },
          { timeZone: 'UTC', from: '12:00' },
        ],
      },
      'blackout: covers every hour there is: no rotation could ever be started.',
    ],
    [{ all: true, period: 'monthly', overlap: 3 }, 'period: must be a duration: 14d, 36h or P14D; and 1 more.'],
  ])('%j is refused', async (body, detail) => {
    const refused = await api.client.refusal('PUT', '/v1/policies/bad', { body })
    expect(refused).toMatchObject({ code: 'invalid-policy', detail: `policy "bad", ${detail}` })
    expect(await api.client.refusal('GET', '/v1/policies/bad')).toMatchObject({ code: 'unknown-policy' })
  })

  test('under another name than that in the path, as text, as a list, without a token', async () => {
    expect(await api.client.refusal('PUT', '/v1/policies/a', { body: { name: 'b', all: true } })).toMatchObject({
      code: 'invalid-policy',
      errors: [{ path: '/name', message: 'must be a, as in the path' }],
    })
    expect(await api.client.refusal('PUT', '/v1/policies/a', { body: '[]' })).toMatchObject({ code: 'invalid-policy' })
    expect(await api.client.refusal('PUT', '/v1/policies/a', { body: '{' })).toMatchObject({ code: 'not-json' })
    expect(await api.client.refusal('PUT', '/v1/policies/A', { body: { all: true } })).toMatchObject({ code: 'invalid-request' })
    expect(await api.client.refusal('GET', '/v1/policies', { token: 'none' })).toMatchObject({ code: 'operator-token-required' })
  })

  test('G5: a key that stands in it is refused, and not said again', async () => {
    const token = testToken()
    for (const body of [
      { select: { labels: { of: token } } },
      { all: true, [token]: 1 },
      { all: true, blackout: [{ timeZone: token, days: ['sat'] }] },
    ]) {
      const refused = await api.client.refusal('PUT', '/v1/policies/leaky', { body })
      expect(refused.code).toBe('invalid-policy')
      expect(JSON.stringify(refused)).not.toContain(token.slice(30, 60))
    }
    expect(await api.client.refusal('GET', '/v1/policies/leaky')).toMatchObject({ code: 'unknown-policy' })
  })

  test('warns of what it may not keep', async () => {
    const name = newName()
    const { body } = await put<PolicyBody>(`/v1/policies/${name}`, {
      select: { labels: { of: name } },
      period: '10d',
      overlap: '6d',
    })
    expect(body.warnings).toEqual([expect.stringMatching(/^the overlap of 6d is more than half/)])
  })

  test('one that is not stopped can not be resumed', async () => {
    const name = newName()
    await put(`/v1/policies/${name}`, { select: { labels: { of: name } } })
    const path = `/v1/policies/${name}/resume`
    expect(await api.client.refusal('POST', path, { body: { reason: 'x' } })).toMatchObject({ code: 'wrong-stage' })
    expect(await api.client.refusal('POST', '/v1/policies/none/resume', { body: { reason: 'x' } })).toMatchObject({
      code: 'unknown-policy',
    })
  })
})

describe('a rotation by hand', () => {
  test('runs as the policy of its credential has it, unless the request says otherwise', async () => {
    const name = newName()
    const credentialId = await oldCredential(name, 1)
    await put(`/v1/policies/${name}`, {
      select: { labels: { of: name } },
      overlap: '5d',
      quietPeriod: '3h',
      approvals: 'deactivating',
    })
    expect((await api.client.get<{ policy: string }>(`/v1/credentials/${credentialId}`)).body.policy).toBe(name)
    const { body } = await api.client.post<{ rotationId: string }>(`/v1/credentials/${credentialId}/rotations`, {
      trigger: 'manual',
      reason: 'test',
      quietPeriod: '2h',
    })
    const rotation = await api.client.get<{ policy: object }>(`/v1/rotations/${body.rotationId}`)
    expect(rotation.body.policy).toMatchObject({ name, overlap: '5d', quietPeriod: '2h', approvals: 'deactivating' })
  })
})

describe('a preview', () => {
  test('says what the next days will do, for a policy and for one that is not applied yet', async () => {
    const name = newName()
    for (let i = 0; i < 6; i++) await oldCredential(name, 200)
    const tomorrow = new Date(Date.now() + DAY).toISOString().slice(0, 10)
    const policy = {
      name,
      select: { labels: { of: name } },
      period: '30d',
      overlap: '3d',
      blackout: [{ timeZone: 'UTC', dates: [tomorrow] }],
    }
    const before = await api.client.post<Preview>('/v1/policies/preview', { policy })
    await put(`/v1/policies/${name}`, policy)
    const after = await api.client.get<Preview>(`/v1/policies/${name}/preview`)
    expect(after.body).toMatchObject({ credentials: 6, selectedByOthers: [], warnings: [] })
    expect(before.body).toMatchObject({ credentials: 6, days: after.body.days })
    // All six at once, a few minutes apart; and a second time within the month.
    expect(after.body.starts).toBeGreaterThanOrEqual(6)
    expect(after.body.days).toHaveLength(31)
    expect(after.body.days.find(({ date }) => date === tomorrow)).toEqual({ date: tomorrow, starts: 0, closed: '1d' })
    expect(after.body.days.reduce((sum, { starts }) => sum + starts, 0)).toBe(after.body.starts)
  })

  test('says which credentials a more specific policy has, and how the waves go', async () => {
    const [wide, narrow] = [newName(), newName()]
    const ids = [await oldCredential(wide, 200), await oldCredential(wide, 200), await oldCredential(wide, 200)]
    await put(`/v1/policies/${narrow}`, { select: { labels: { of: wide }, environment: 'prod', scope: 'read' } })
    const policy = { name: wide, select: { labels: { of: wide } }, waves: [{ size: 1 }, { size: '100%' }] }
    expect((await api.client.post<Preview>('/v1/policies/preview', { policy })).body).toMatchObject({
      credentials: 0,
      selectedByOthers: [{ policy: narrow, credentials: ids.length }],
    })
    await api.client.request('DELETE', `/v1/policies/${narrow}`)
    const { body } = await api.client.post<Preview>('/v1/policies/preview', { policy, days: 60 })
    expect(body.credentials).toBe(3)
    expect(body.waves.map(({ wave }) => wave)).toEqual([1, 2])
    expect(body.waves[1]?.starts).toBeGreaterThanOrEqual(2)
  })

  test('of a policy that is flawed or unknown is refused', async () => {
    expect(await api.client.refusal('GET', '/v1/policies/none/preview')).toMatchObject({ code: 'unknown-policy' })
    expect(await api.client.refusal('POST', '/v1/policies/preview', { body: { policy: { name: 'p' } } })).toMatchObject({
      code: 'invalid-policy',
    })
    expect(await api.client.refusal('POST', '/v1/policies/preview', { body: {} })).toMatchObject({ code: 'invalid-policy' })
    expect(await api.client.refusal('GET', '/v1/policies/none/preview?days=0')).toMatchObject({ code: 'invalid-request' })
  })
})

test('credentials that nobody uses are listed', async () => {
  const credentialId = await oldCredential(newName(), 200)
  await house.db.query('insert into retirement_proposals (credential_id, proposed_at) values ($1, $2)', [
    credentialId,
    new Date(),
  ])
  const { body } = await api.client.get<{ credentials: { credentialId: string }[] }>('/v1/unused-credentials')
  expect(body.credentials).toMatchObject([{ credentialId, environment: 'prod' }])
})
