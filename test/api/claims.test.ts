import type { ProblemDocument, RotationId } from '@keyturn/contract'
import pino from 'pino'
import { describe, expect, test } from 'vitest'
import { claimOfKey } from '../../registry/claims.ts'
import { eventually } from '../support/house.ts'
import { alertsOf } from '../support/topics.ts'
import {
  apiHouse,
  type CreatedBody,
  claimedCredential,
  type HandedOutBody,
  newCredential,
  reached,
  redeem,
  trigger,
} from './support.ts'

const AT_ONCE = 64
let passedMs = 0
const lines: string[] = []
const at = apiHouse({}, async () => ({
  clock: () => new Date(Date.now() + passedMs),
  log: pino({ level: 'trace' }, { write: (line: string) => lines.push(line) }),
}))

const problemOf = ({ body }: { body: unknown }): ProblemDocument => body as ProblemDocument
const successor = (token: string) => at.client.post<HandedOutBody>('/v1/successor', undefined, { token })

/** What is left of a claim's secret in the database. */
async function remains(keyId: string): Promise<unknown[]> {
  const rows = await at.house.db.query<object>('select kek_id, nonce, ciphertext from claims where key_id = $1', [keyId])
  return rows.flatMap((row) => Object.values(row)).filter((value) => value !== null)
}

const secondClaims = (credentialId: string) =>
  eventually(
    async () => {
      const found = (await alertsOf(at.house.config.topics, credentialId)).filter(({ kind }) => kind === 'second-claim')
      return found.length > 0 && found
    },
    `an alert second-claim of ${credentialId}`,
    60_000,
  )

/** A credential in the middle of a rotation, its new key not fetched yet. */
async function monitored(): Promise<CreatedBody & { token: string; rotationId: RotationId }> {
  const credential = await claimedCredential(at.client)
  const { rotationId } = (await trigger(at.client, credential.credentialId)).body
  await reached(at.client, rotationId, 'monitoring')
  return { ...credential, rotationId }
}

describe('G10: a secret is handed out at most once', () => {
  test('G10: 64 who send one claim at the same time: one gets it, the others 410, and an alert is raised', async () => {
    const { credentialId, keyId, claim } = await newCredential(at.client)
    const answers = await Promise.all(Array.from({ length: AT_ONCE }, () => redeem(at.client, claim)))
    const statuses = answers.map(({ status }) => status).sort()
    expect(statuses).toEqual([200, ...Array<number>(AT_ONCE - 1).fill(410)])
    for (const answer of answers) {
      expect(answer.headers.get('cache-control')).toBe('no-store')
      if (answer.status !== 200)
        expect(problemOf(answer)).toMatchObject({ code: 'claim-used', detail: /tell the provider at once/ })
    }
    expect(await remains(keyId)).toEqual([])
    const [alert] = await secondClaims(credentialId)
    expect(alert).toMatchObject({
      credentialId,
      detail: expect.stringMatching(/tried again from 127\.0\.0\.1; .* start an emergency/),
    })
  })

  test('G10: so it is when half of them show the old key instead, and the alert names the rotation', async () => {
    const { credentialId, rotationId, token } = await monitored()
    const claim = await at.house.claimCodeOf(rotationId)
    const answers = await Promise.all(
      Array.from({ length: AT_ONCE }, (_, i) => (i % 2 === 0 ? redeem(at.client, claim) : successor(token))),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array<number>(AT_ONCE - 1).fill(410)])
    const handedOut = answers.find(({ status }) => status === 200)?.body
    expect(at.house.verdicts(handedOut?.token ?? '')).toEqual([true])
    expect(await secondClaims(credentialId)).toContainEqual(expect.objectContaining({ rotationId }))
  })

  test('G10: a client whose connection broke before the answer has lost the secret: the next try is a second one, and a rotation gives a new key', async () => {
    const { credentialId, keyId, claim } = await newCredential(at.client)
    const blocker = await at.house.db.pool.connect()
    await blocker.query('begin')
    await blocker.query('select from claims where key_id = $1 for update', [keyId])
    const leaving = new AbortController()
    const lost = at.client.post(`/v1/claims/${claim}`, undefined, { token: 'none', signal: leaving.signal })
    await eventually(async () => {
      const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%claims%'`
      return (await at.house.db.query(waiting)).length > 0
    }, 'the claim at the database')
    leaving.abort()
    await expect(lost).rejects.toThrow()
    await blocker.query('rollback')
    blocker.release()
    await eventually(async () => (await claimOfKey(at.house.db, keyId))?.state === 'used', 'the claim to be used')

    const again = await redeem(at.client, claim)
    expect([again.status, problemOf(again).code]).toEqual([410, 'claim-used'])
    await secondClaims(credentialId)
    const { rotationId } = (await trigger(at.client, credentialId, { trigger: 'emergency', reason: 'nobody got the key' })).body
    await reached(at.client, rotationId, 'completed')
    const claimed = await redeem(at.client, await at.house.claimCodeOf(rotationId))
    expect(at.house.verdicts(claimed.body.token)).toEqual([true])
  })
})

test('an expired claim hands nothing out: 410, and the secret is gone from the database', async () => {
  const { keyId, claim } = await newCredential(at.client)
  expect(await remains(keyId)).toHaveLength(3)
  passedMs = 7 * 86_400_000 + 1_000
  try {
    for (let i = 0; i < 2; i++) {
      const answer = await redeem(at.client, claim)
      expect([answer.status, problemOf(answer).code]).toEqual([410, 'claim-expired'])
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(await remains(keyId)).toEqual([])
    }
  } finally {
    passedMs = 0
  }
})

describe('POST /v1/successor', () => {
  test('G10: hands the new key out to whoever shows the old one, once', async () => {
    const { token } = await monitored()
    const first = await successor(token)
    expect([first.status, first.headers.get('cache-control')]).toEqual([200, 'no-store'])
    expect(first.body).toMatchObject({ token: expect.stringMatching(/^kt_prod_/), sunsetAt: expect.any(String) })
    expect(at.house.verdicts(first.body.token)).toEqual([true])
    const second = await successor(token)
    expect([second.status, problemOf(second).code]).toEqual([410, 'claim-used'])
    expect(problemOf(await successor(first.body.token))).toMatchObject({ status: 404, code: 'no-successor' })
  })

  test('refuses a key that is not being rotated', async () => {
    const { token } = await claimedCredential(at.client)
    expect(problemOf(await successor(token))).toMatchObject({
      status: 404,
      code: 'no-successor',
      detail: /in its overlap window/,
    })
  })

  test('refuses a key that is compromised, also after the rotation', async () => {
    const { token, rotationId } = await monitored()
    await at.client.post(`/v1/rotations/${rotationId}/escalate`, { reason: 'leaked' })
    await reached(at.client, rotationId, 'completed')
    expect(problemOf(await successor(token))).toMatchObject({ status: 403, code: 'successor-refused', detail: /Use the claim/ })
  })

  test('refuses where the policy says that claims alone are good enough, and the claim stays good', async () => {
    const { credentialId, token } = await claimedCredential(at.client)
    const { rotationId } = await at.house.rotate(credentialId, { successorByOldKey: false })
    await reached(at.client, rotationId, 'monitoring')
    expect(problemOf(await successor(token))).toMatchObject({ status: 403, code: 'successor-refused' })
    expect((await redeem(at.client, await at.house.claimCodeOf(rotationId))).status).toBe(200)
  })

  test('refuses after a roll-back', async () => {
    const { token, rotationId } = await monitored()
    await at.client.post(`/v1/rotations/${rotationId}/roll-back`, { reason: 'not today' })
    await reached(at.client, rotationId, 'rolled-back')
    expect(problemOf(await successor(token))).toMatchObject({ status: 404, code: 'no-successor' })
    const claim = await redeem(at.client, await at.house.claimCodeOf(rotationId))
    expect([claim.status, problemOf(claim).code]).toEqual([410, 'claim-expired'])
  })
})

test('G5: the log, at its finest, holds no token, no claim and no operator token', async () => {
  const before = lines.length
  const { claim, token } = await claimedCredential(at.client)
  await redeem(at.client, claim)
  await successor(token)
  await at.client.get(`/v1/claims/${claim}`)
  await at.client.get(`/v1/rotations/${claim}?token=${token}`)
  await at.client.get(`/${token}`)
  const requests = () => lines.slice(before).filter((line) => line.includes('"msg":"request"'))
  await eventually(() => requests().length > 6, 'the log of these requests')
  for (const secret of [claim, token, token.slice(-49), at.house.config.operatorToken])
    expect(lines.join('')).not.toContain(secret)
})
