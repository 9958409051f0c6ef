/** On the real servers, from the report to the closed incident: mostly trading keys, which are compromised at once. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { CredentialId, KeyId, RotationId } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { incidentMarkdown } from '../../api/leak-report-text.ts'
import { listAudit, verifyAudit } from '../../registry/audit.ts'
import { redeemSuccessor } from '../../registry/claims.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { incidentReport } from '../../registry/leak-report.ts'
import { applyPolicies } from '../../registry/policies.ts'
import type { runPolicy } from '../../workflows/index.ts'
import type { ServedApi } from '../support/api.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import {
  closed,
  fileWith,
  githubHeaders,
  keyList,
  newSigningKey,
  post,
  type ReportAnswer,
  report,
  startApi,
} from '../support/reporting.ts'

const TRADING = ['trade:write', 'read:prices']
const QUICK = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 10_000 } as const
/** Of keys that don't trade: short, because time passes by itself here. */
const OVERLAP_MS = 3_000
const signingKey = newSigningKey()

let house: House
let api: ServedApi
let webhook: { url: string; told: Told[]; server: Server }
beforeAll(async () => {
  house = await openHouse({
    time: 'real',
    gateways: 3,
    leaks: { githubKeys: fileWith(keyList(signingKey)), overlapMs: OVERLAP_MS },
  })
  api = await startApi(house)
  webhook = await startWebhook()
})
afterAll(async () => {
  webhook.server.close()
  await api.stop()
  await house.close()
})

interface Told {
  readonly type: string
  readonly data: {
    readonly credentialId: string
    readonly claimUrl?: string
    readonly leaks?: readonly { leakId: string; keyId: string; sources: readonly { source: string; url: string }[] }[]
  }
}

async function startWebhook(): Promise<typeof webhook> {
  const told: Told[] = []
  const server = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      told.push(JSON.parse(Buffer.concat(parts).toString('utf8')) as Told)
      response.end()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, told, server }
}

const toldOf = (credentialId: CredentialId): Told[] => webhook.told.filter(({ data }) => data.credentialId === credentialId)

async function tradingKey() {
  const credential = await house.credential(TRADING)
  await house.db.query(
    `update clients set contacts = $2 where client_id = (select client_id from credentials where credential_id = $1)`,
    [credential.credentialId, JSON.stringify([{ channel: 'webhook', url: webhook.url }])],
  )
  return credential
}

async function monitored() {
  const credential = await tradingKey()
  const rotation = await house.rotate(credential.credentialId, QUICK)
  await house.reached(rotation.rotationId, 'monitoring')
  const { newKeyId } = await house.rotation(rotation.rotationId)
  return { ...credential, ...rotation, newKeyId: newKeyId as KeyId, newToken: await house.claimNewKey(rotation.rotationId) }
}

/** Makes its key old, and a policy for it alone that would rotate it at once. @returns the policy's name */
async function dueNow(credentialId: CredentialId): Promise<string> {
  const name = `due-${credentialId.slice(4).toLowerCase()}`
  const long = new Date(Date.now() - 100 * 86_400_000)
  const [made] = await house.db.query<{ client_id: string }>(
    'update credentials set current_since = $2 where credential_id = $1 returning client_id',
    [credentialId, long],
  )
  const policies = [{ name, select: { client: made?.client_id ?? '' }, rate: '9999999/s', regretWindow: '0s' }]
  await applyPolicies(house.db, { policies, order: 'keep', prune: false, at: new Date(), actor: 'test' })
  return name
}

const statesOf = async (credentialId: CredentialId) =>
  (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)
const openRotations = async (credentialId: CredentialId) =>
  house.db.query('select from rotations where credential_id = $1 and ended_at is null', [credentialId])

describe('a live key', () => {
  test('G3, G9: a signed report compromises it: refused by every gateway, with receipts; a new key is issued, and the client told', async () => {
    const { token, credentialId, keyId } = await tradingKey()
    await house.use(token)
    const url = 'https://github.com/octocat/Hello-World/blob/1/keys.txt'
    const body = JSON.stringify([{ token, type: 'keyturn_token', url, source: 'content' }])
    expect((await post(api, '/v1/leaks/github', body, githubHeaders(signingKey, body))).body).toMatchObject([
      { label: 'true_positive' },
    ])
    await eventually(() => house.verdicts(token).every((accepted) => !accepted), 'the leaked key refused by all')

    const [leak] = await house.db.query<{ leak_id: ReportAnswer['leakId'] }>('select leak_id from leaks where key_id = $1', [
      keyId,
    ])
    if (leak === undefined) throw new Error('no leak was recorded')
    const done = await closed(house, leak.leak_id)
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(done.leak).toMatchObject({ matched: 'live', response: 'at-once', containedAt: expect.any(Date) })
    expect(done.refusals.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2', 'gw-3'])
    expect(done.unconfirmed).toEqual([])
    expect(done.rotation).toMatchObject({ trigger: 'leak', stage: 'completed', oldKeyId: keyId })
    expect(done.told.map(({ message }) => message)).toEqual(['emergency'])
    expect(toldOf(credentialId)).toMatchObject([
      {
        type: 'keyturn.rotation.emergency',
        data: { leaks: [{ leakId: leak.leak_id, keyId, sources: [{ source: 'github:content', url }] }] },
      },
    ])
    const claim = toldOf(credentialId)[0]?.data.claimUrl?.split('/').at(-1) ?? ''
    expect(house.verdicts(await house.claim(claim))).toEqual([true, true, true])

    const text = incidentMarkdown(done)
    for (const said of [
      'compromised at once',
      `reported by github:content at ${url}`,
      'refused by gw-3',
      'client told "emergency"',
      'rotation completed',
      'leak closed',
    ])
      expect(text).toContain(said)
    const trail = await listAudit(house.db, { rotationId: done.rotation?.rotationId as RotationId, limit: 100 })
    expect(trail.find(({ action }) => action === 'rotation.requested')?.detail).toMatchObject({ trigger: 'leak' })
    expect((await listAudit(house.db, { subject: leak.leak_id, limit: 10 })).map(({ action, actor }) => [action, actor])).toEqual(
      [
        ['leak.reported', 'github'],
        ['leak.closed', `leak/${leak.leak_id}`],
      ],
    )
  })

  test('G6: the same report twice, at once and later, is one incident and one rotation', async () => {
    const { token, credentialId } = await tradingKey()
    const answers = await Promise.all(Array.from({ length: 5 }, (_, i) => report(api, { token, source: `source ${i}` })))
    expect(new Set(answers.map(({ leakId }) => leakId)).size).toBe(1)
    const leakId = (answers[0] as ReportAnswer).leakId
    await closed(house, leakId)
    expect(await report(api, { token, source: 'source 1' })).toMatchObject({ leakId, isNew: false, status: 'closed' })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(await house.db.query('select from rotations where credential_id = $1', [credentialId])).toHaveLength(1)
  })

  test('a leaked key does not hand out its successor, whoever shows it', async () => {
    const { token, keyId, credentialId } = await monitored()
    await house.db.query(
      `insert into leaks (leak_id, token_hash, matched, key_id, status, reported_at, closed_at)
       select 'leak_0000000000000009', 'sha256:' || encode(decode(verifier_sha256, 'base64'), 'hex'), 'old', key_id, 'closed', now(), now() from keys where key_id = $1`,
      [keyId],
    )
    const { createHash } = await import('node:crypto')
    const tokenSha256 = createHash('sha256').update(token).digest('base64')
    expect(
      await redeemSuccessor(house.db, { shown: { tokenSha256 }, at: new Date(), from: 'test', sealer: house.sealer }),
    ).toEqual({
      outcome: 'refused',
      credentialId,
    })
  })

  test('G3: it is closed only when the last gateway has confirmed, and names the one that has not', async () => {
    const { token, keyId } = await tradingKey()
    await house.announceSilentGateway('gw-away')
    const { leakId } = await report(api, { token })
    await eventually(() => house.verdicts(token).every((accepted) => !accepted), 'the leaked key refused')
    const waiting = await eventually(async () => {
      const now = await incidentReport(house.db, leakId)
      return now?.unconfirmed.includes('gw-away') === true ? now : undefined
    }, 'a report that names the silent gateway')
    expect([waiting.leak.status, waiting.refusals.length]).toEqual(['responding', 3])
    expect(await house.keyState(keyId)).toBe('compromised')
    await house.propagation.declareGone('gw-away')
    expect((await closed(house, leakId, 120_000)).unconfirmed).toEqual([])
  })
})

describe('a key in a running rotation', () => {
  test('G6, G9: a leak of the old key takes the rotation over; its new key is the current one', async () => {
    const { token, credentialId, rotationId, newToken } = await monitored()
    const { leakId } = await report(api, { token })
    const done = await closed(house, leakId)
    expect(done.leak).toMatchObject({ matched: 'old', response: 'at-once', rotationId })
    expect(done.rotation).toMatchObject({ trigger: 'leak', stage: 'completed' })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect([house.verdicts(token), house.verdicts(newToken)]).toEqual([
      [false, false, false],
      [true, true, true],
    ])
    const trail = await listAudit(house.db, { rotationId, limit: 100 })
    expect(trail.find(({ action }) => action === 'rotation.taken-over')).toMatchObject({
      actor: `leak/${leakId}`,
      detail: { trigger: 'leak' },
    })
  })

  test('G1: a leak of the new key compromises it and brings another; the old one stays until the evidence comes', async () => {
    const { token, credentialId, rotationId, handle, newToken, newKeyId } = await monitored()
    const { leakId, matched } = await report(api, { token: newToken, url: 'https://example.com/new' })
    expect(matched).toBe('live')
    await eventually(() => house.verdicts(newToken).every((accepted) => !accepted), 'the leaked new key refused')
    expect(house.verdicts(token)).toEqual([true, true, true])
    const again = await eventually(async () => {
      const rotation = await house.rotation(rotationId)
      return rotation.stage === 'monitoring' && rotation.newKeyId !== undefined && rotation.newKeyId !== newKeyId
        ? rotation
        : undefined
    }, 'a second new key')
    expect((await house.keys(credentialId)).map(({ version, state, standing }) => [version, state, standing])).toEqual([
      [1, 'active', 'current'],
      [2, 'compromised', 'retired'],
      [3, 'active', 'successor'],
    ])
    expect(toldOf(credentialId).map(({ type }) => type)).toEqual(['keyturn.rotation.introduced', 'keyturn.rotation.leak'])
    expect(toldOf(credentialId)[1]?.data.leaks).toMatchObject([{ leakId, keyId: newKeyId }])
    expect(house.verdicts(token)).toEqual([true, true, true])

    await house.use(await house.claimNewKey(rotationId))
    expect(await handle.result()).toBe('completed')
    expect(again.rotationId).toBe(rotationId)
    expect(await statesOf(credentialId)).toEqual(['1 deactivated retired', '2 compromised retired', '3 active current'])
    expect((await closed(house, leakId)).leak).toMatchObject({ response: 'at-once', rotationId })
  })

  test('G1: a leak of the new key in the regret window brings the old one back', async () => {
    const credential = await tradingKey()
    const rotation = await house.rotate(credential.credentialId, { ...QUICK, regretWindowMs: 600_000 })
    await house.reached(rotation.rotationId, 'monitoring')
    const newToken = await house.claimNewKey(rotation.rotationId)
    await house.use(newToken)
    await house.reached(rotation.rotationId, 'deactivating')
    await eventually(() => house.verdicts(credential.token).every((accepted) => !accepted), 'the old key refused')
    const { leakId } = await report(api, { token: newToken })
    await eventually(() => house.verdicts(credential.token).every((accepted) => accepted), 'the old key accepted again')
    await eventually(() => house.verdicts(newToken).every((accepted) => !accepted), 'the leaked new key refused')
    await eventually(
      async () =>
        (await house.keys(credential.credentialId)).length === 3 &&
        (await house.rotation(rotation.rotationId)).stage === 'monitoring',
      'a second new key',
    )
    expect(await statesOf(credential.credentialId)).toEqual(['1 active current', '2 compromised retired', '3 active successor'])
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect((await closed(house, leakId)).rotation?.stage).toBe('rolled-back')
  })

  test.each(['old first', 'new first', 'at the same instant'])(
    'a leak of both keys, %s: both die, and a third takes their place',
    async (order) => {
      const { token, credentialId, newToken } = await monitored()
      const both = [token, newToken]
      if (order === 'new first') both.reverse()
      const answers: ReportAnswer[] = []
      if (order === 'at the same instant') answers.push(...(await Promise.all(both.map((each) => report(api, { token: each })))))
      else for (const each of both) answers.push(await report(api, { token: each }))
      for (const { leakId } of answers) await closed(house, leakId, 90_000)
      expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 compromised retired', '3 active current'])
      expect(await openRotations(credentialId)).toHaveLength(0)
      expect(both.flatMap((each) => house.verdicts(each))).not.toContain(true)
    },
  )

  test.each(['requested', 'introducing', 'notifying', 'monitoring', 'held', 'deactivating', 'rolling-back'] as const)(
    'G6: a leak of the old key while the rotation is %s: it dies at once, one rotation ends, one key is left',
    async (stage) => {
      const credential = await tradingKey()
      const stuck = stage === 'introducing' || stage === 'rolling-back' || stage === 'deactivating'
      if (stage === 'introducing') await house.announceSilentGateway('gw-away')
      const rotation = await house.rotate(credential.credentialId, { ...QUICK, receiptWaitMs: 120_000, regretWindowMs: 600_000 })
      if (stage !== 'requested')
        await house.reached(rotation.rotationId, stage === 'introducing' || stage === 'notifying' ? stage : 'monitoring')
      if (stage === 'held') await house.order(rotation, 'hold')
      if (stage === 'deactivating' || stage === 'rolling-back') {
        await house.announceSilentGateway('gw-away')
        await house.order(rotation, stage === 'deactivating' ? 'deactivateNow' : 'rollBack')
        await house.reached(rotation.rotationId, stage)
      }
      const { leakId } = await report(api, { token: credential.token })
      await eventually(() => house.verdicts(credential.token).every((accepted) => !accepted), 'the leaked key refused')
      if (stuck) await house.propagation.declareGone('gw-away')
      const done = await closed(house, leakId, 90_000)
      expect(done.rotation?.stage).toBe('completed')
      const keys = await house.keys(credential.credentialId)
      expect(keys[0]).toMatchObject({ keyId: credential.keyId, state: 'compromised', standing: 'retired' })
      expect(keys.filter(({ standing, state }) => standing === 'current' && state === 'active')).toHaveLength(1)
      expect(keys.filter(({ standing }) => standing === 'successor')).toHaveLength(0)
      expect(await openRotations(credential.credentialId)).toHaveLength(0)
    },
  )

  test.each([
    ['dies at once', TRADING],
    ['is replaced', undefined],
  ])(
    'G6: a leak and another trigger at the same instant, of a key that %s: whoever is first, it dies, and one rotation after the other ends',
    async (_, scopes) => {
      for (let i = 0; i < 3; i++) {
        const { token, credentialId, keyId } = await house.credential(scopes)
        const reporting = report(api, { token })
        await new Promise((resolve) => setTimeout(resolve, i * 12))
        const triggered = house.trigger(credentialId, QUICK).catch(() => undefined)
        const [{ leakId }] = await Promise.all([reporting, triggered])
        const done = await closed(house, leakId)
        expect([done.rotation?.oldKeyId, done.refusals.length]).toEqual([keyId, 3])
        const keys = await house.keys(credentialId)
        expect(keys[0]).toMatchObject({ state: 'compromised', standing: 'retired' })
        expect(keys.filter(({ standing, state }) => standing === 'current' && state === 'active')).toHaveLength(1)
        expect(house.verdicts(token)).toEqual([false, false, false])
      }
    },
  )

  test('G6: a leak and the schedule of a policy at the same instant: whoever is first, the key dies, and one new key is left', async () => {
    for (let i = 0; i < 3; i++) {
      const { token, credentialId, keyId } = await house.credential(TRADING)
      const policy = await dueNow(credentialId)
      const reporting = report(api, { token })
      await new Promise((resolve) => setTimeout(resolve, i * 12))
      const workflowId = `run/${policy}`
      const { taskQueue } = house.config
      const run = await house.client.workflow.start<typeof runPolicy>('runPolicy', { workflowId, taskQueue, args: [{ policy }] })
      const [{ leakId }, { started, joined }] = await Promise.all([reporting, run.result()])
      const done = await closed(house, leakId)
      expect([done.rotation?.oldKeyId, done.rotation?.trigger, done.refusals.length]).toEqual([keyId, 'leak', 3])
      expect(started + joined).toBeLessThanOrEqual(1)
      expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
      expect(await openRotations(credentialId)).toHaveLength(0)
      expect(house.verdicts(token)).toEqual([false, false, false])
      const trail = await listAudit(house.db, { rotationId: done.rotation?.rotationId ?? '', limit: 100 })
      const actors = trail.filter(({ action }) => /requested|taken-over/.test(action)).map(({ actor }) => actor)
      expect([[`leak/${leakId}`], [`policy:${policy}`, `leak/${leakId}`]]).toContainEqual(actors.toSorted().reverse())
    }
  })

  test.each([
    ['introducing', 120_000],
    ['held', 500],
  ] as const)(
    'G6: a leaked key that is only replaced dies in time, though the rotation is %s, waiting for a gateway',
    async (stage, receiptWaitMs) => {
      const { token, credentialId } = await house.credential()
      await house.announceSilentGateway('gw-away')
      const { rotationId } = await house.rotate(credentialId, { ...QUICK, receiptWaitMs })
      await house.reached(rotationId, stage)
      const { leakId } = await report(api, { token })
      await eventually(() => house.verdicts(token).every((accepted) => !accepted), 'the leaked key refused')
      await house.propagation.declareGone('gw-away')
      expect((await closed(house, leakId)).rotation).toMatchObject({ rotationId, stage: 'completed', trigger: 'leak' })
      expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    },
  )
})

describe('a key that is dead', () => {
  test('G9: one that was rotated away is compromised for ever; nothing rotates, and the client hears of it', async () => {
    const { token, credentialId, keyId, rotationId, handle, newToken } = await monitored()
    await house.use(newToken)
    expect(await handle.result()).toBe('completed')
    const { leakId, matched } = await report(api, { token, source: 'a person' })
    expect(matched).toBe('dead')
    const done = await closed(house, leakId)
    expect(done.leak).toMatchObject({ matched: 'dead', response: 'none', containedAt: expect.any(Date) })
    expect(done.leak.rotationId).toBeUndefined()
    expect(done.refusals).toHaveLength(3)
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(await house.db.query('select rotation_id from rotations where credential_id = $1', [credentialId])).toEqual([
      { rotation_id: rotationId },
    ])
    expect(toldOf(credentialId).at(-1)).toMatchObject({
      type: 'keyturn.leak.reported',
      data: { leakId, key: { keyId, state: 'compromised' } },
    })
    expect(done.told.map(({ message }) => message)).toEqual(['leak'])
  })

  test('one that is compromised already is recorded, and that is all', async () => {
    const { token, keyId, credentialId } = await tradingKey()
    await compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'test' })
    expect(await report(api, { token })).toMatchObject({ matched: 'dead', status: 'closed' })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired'])
  })
})

test('G7: after all this the audit log is whole', async () => {
  expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
})
