import { CLAIM_REPEATABLE_MS, type ProblemDocument, type RotationId } from '@keyturn/contract'
import pino from 'pino'
import { describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { claimOfKey } from '../../registry/claims.ts'
import { eventually } from '../support/house.ts'
import { decrypt, newRecipient } from '../support/recipients.ts'
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
      detail: expect.stringMatching(
        /used from 127\.0\.0\.1 .* tried again from 127\.0\.0\.1, which was refused\. .* keyturn emergency crd_/,
      ),
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

describe('a claim with a recipient', () => {
  const answerOf = async (keyId: string) =>
    (await at.house.db.query<{ jwe: string | null }>('select jwe from claims where key_id = $1', [keyId]))[0]?.jwe
  const claimFor = (claim: string, recipient: object) =>
    at.client.post<{ jwe: string; keyId: string }>(`/v1/claims/${claim}`, { recipient }, { token: 'none' })
  const actionsOf = async (rotationOrCredential: { keyId: string }) =>
    (
      await at.house.db.query<{ action: string }>(
        `select a.action from audit a join claims m on m.claim_id = a.subject where m.key_id = $1 order by a.seq`,
        [rotationOrCredential.keyId],
      )
    ).map(({ action }) => action)

  test('G10: a client whose answer was lost sends the same again and has its key; another is refused, and an alert is raised', async () => {
    const { credentialId, keyId, claim } = await newCredential(at.client)
    const recipient = newRecipient()
    const first = await claimFor(claim, recipient.jwk)
    expect([first.status, first.headers.get('cache-control'), Object.keys(first.body).sort()]).toEqual([
      200,
      'no-store',
      ['jwe', 'keyId'],
    ])
    expect(at.house.verdicts(await decrypt(first.body.jwe, recipient))).toEqual([true])
    expect((await claimFor(claim, recipient.jwk)).body).toEqual(first.body)
    expect(await actionsOf({ keyId })).toEqual(['claim.used', 'claim.repeated'])
    for (const refused of [await claimFor(claim, newRecipient().jwk), await redeem(at.client, claim)])
      expect(problemOf(refused)).toMatchObject({ status: 410, code: 'claim-used' })
    await secondClaims(credentialId)
  })

  test('G10: after ten minutes it is used, and the answer is gone', async () => {
    const { keyId, claim } = await newCredential(at.client)
    const recipient = newRecipient()
    await claimFor(claim, recipient.jwk)
    passedMs = CLAIM_REPEATABLE_MS
    try {
      expect(problemOf(await claimFor(claim, recipient.jwk))).toMatchObject({ status: 410, code: 'claim-used' })
      expect(await answerOf(keyId)).toBeNull()
    } finally {
      passedMs = 0
    }
  })

  test('who shows the old key may name one', async () => {
    const { token } = await monitored()
    const recipient = newRecipient()
    const fetch = () =>
      at.client.post<{ jwe: string; sunsetAt: string }>('/v1/successor', { recipient: recipient.jwk }, { token })
    const first = await fetch()
    expect(first.body).toMatchObject({ jwe: expect.any(String), sunsetAt: expect.any(String) })
    expect(at.house.verdicts(await decrypt(first.body.jwe, recipient))).toEqual([true])
    expect((await fetch()).body).toEqual(first.body)
  })

  const { jwk, privateKey } = newRecipient()
  const PRIVATE = privateKey.export({ format: 'jwk' })
  test.each([
    ['with its private part', PRIVATE, /is a private key|holds a private key: it never leaves the client/],
    ['of another curve', newRecipient('P-384').jwk, /must be an EC key on the curve P-256/],
    ['of another type', { kty: 'RSA', n: 'AQAB', e: 'AQAB' }, /must be an EC key on the curve P-256/],
    ['that is no point of the curve', { ...jwk, y: jwk.x }, /is no point of the curve/],
    ['that is the point at infinity', { ...jwk, x: 'A'.repeat(43), y: 'A'.repeat(43) }, /is no point of the curve/],
    ['with half a coordinate', { ...jwk, x: 'AAAA' }, /32 bytes in base64url/],
    ['with a coordinate in another encoding of it', { ...jwk, x: `${'A'.repeat(42)}B` }, /32 bytes in base64url/],
    ['without a coordinate', { kty: 'EC', crv: 'P-256', x: jwk.x }, /32 bytes in base64url/],
    ['with something else in it', { ...jwk, note: 'hello' }, /no more than a JSON Web Key says of its use/],
  ])('a recipient %s is refused, and the claim stays good', async (_, recipient, message) => {
    const { claim } = await newCredential(at.client)
    const refused = await claimFor(claim, recipient)
    expect(problemOf(refused)).toMatchObject({
      status: 400,
      code: 'invalid-request',
      errors: [{ path: '/recipient', message: expect.stringMatching(message) }],
    })
    expect(JSON.stringify(refused.body) + lines.join('')).not.toContain(PRIVATE.d)
    expect((await claimFor(claim, { ...jwk, key_ops: [], ext: true })).status).toBe(200)
  })

  test('that is no object is refused', async () => {
    const { claim } = await newCredential(at.client)
    const refused = await at.client.post(`/v1/claims/${claim}`, { recipient: 'me' }, { token: 'none' })
    expect(problemOf(refused)).toMatchObject({ status: 400, code: 'invalid-request', errors: [{ path: '/recipient' }] })
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
    expect(problemOf(await successor(token))).toMatchObject({ status: 403, code: 'successor-refused', detail: /Use a claim/ })
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

test('G3, G9: of a stolen old key that claims first, the client is refused, and the step that the alert names ends all that the thief has', async () => {
  const { credentialId, rotationId, token: stolen } = await monitored()
  const { token: ofThief } = (await successor(stolen)).body
  expect(at.house.verdicts(ofThief)).toEqual([true])
  const refused = await redeem(at.client, await at.house.claimCodeOf(rotationId))
  expect(problemOf(refused)).toMatchObject({ status: 410, code: 'claim-used', detail: /tell the provider at once/ })
  const [alert] = await secondClaims(credentialId)
  const [, path = ''] = /\(POST (\S+)\)/.exec(alert?.detail ?? '') ?? []
  expect(alert?.detail).toContain(`keyturn escalate ${rotationId} --reason`)

  expect((await at.client.post(path, { reason: 'claim stolen' })).status).toBe(200)
  const { receipts, newKeyId } = await reached(at.client, rotationId, 'completed')
  expect([at.house.verdicts(stolen), at.house.verdicts(ofThief)]).toEqual([[false], [false]])
  const states = (await at.house.keys(credentialId)).map(({ keyId, state }) => [keyId === newKeyId, state])
  expect(states).toEqual([
    [false, 'compromised'],
    [false, 'compromised'],
    [true, 'active'],
  ])
  expect(receipts.filter(({ event }) => event === 'keyturn.key.compromised').map(({ unconfirmed }) => unconfirmed)).toEqual([
    [],
    [],
  ])
  for (const token of [stolen, ofThief]) expect((await successor(token)).status).toBe(403)
  const { token } = (await redeem(at.client, await at.house.claimCodeOf(rotationId))).body
  expect(at.house.verdicts(token)).toEqual([true])
})

describe('POST /v1/rotations/{id}/claim', () => {
  interface Shown {
    readonly claim: string
    readonly claimExpiresAt?: string
  }
  const show = (rotationId: string, reason = 'ticket 4711') =>
    at.client.post<Shown>(`/v1/rotations/${rotationId}/claim`, { reason })
  const shownIn = async (rotationId: RotationId) =>
    (await listAudit(at.house.db, { rotationId, limit: 100 })).filter(({ action }) => action === 'claim.shown')

  test('G7: shows the claim of a client whose old key is dead, as often as it is asked for, and who has asked why is written down', async () => {
    const { token: old, rotationId } = await monitored()
    const running = (await show(rotationId)).body
    expect(running).not.toHaveProperty('claimExpiresAt')
    await at.client.post(`/v1/rotations/${rotationId}/escalate`, { reason: 'leaked' })
    const { newKeyId } = await reached(at.client, rotationId, 'completed')
    expect((await successor(old)).status).toBe(403)

    const { status, headers, body } = await show(rotationId, 'ticket 4712')
    expect([status, headers.get('cache-control')]).toEqual([200, 'no-store'])
    const { publicUrl } = at.house.config
    expect(body).toEqual({
      rotationId,
      keyId: newKeyId,
      kind: 'bearer',
      claim: running.claim,
      claimUrl: `${publicUrl}/v1/claims/${running.claim}`,
      claimPage: `${publicUrl}/claim#${running.claim}`,
      claimExpiresAt: expect.any(String),
    })
    expect(Date.parse(body.claimExpiresAt ?? '') - Date.now()).toBeGreaterThan(6 * 86_400_000)
    expect(await claimOfKey(at.house.db, newKeyId)).toMatchObject({ state: 'open' })
    const { token } = (await redeem(at.client, body.claim)).body
    expect(at.house.verdicts(token)).toEqual([true])
    const entries = await shownIn(rotationId)
    expect(entries.map(({ actor, detail }) => [actor, detail])).toEqual(
      ['ticket 4711', 'ticket 4712'].map((reason) => ['operator', { keyId: newKeyId, reason }]),
    )
    // G5
    expect(JSON.stringify(await listAudit(at.house.db, { rotationId, limit: 100 }))).not.toContain(body.claim)
    expect(lines.join('')).not.toContain(body.claim)
  })

  test('shows none that hands nothing out any more, says why, and writes nothing down', async () => {
    const used = await monitored()
    await redeem(at.client, await at.house.claimCodeOf(used.rotationId))
    const back = await monitored()
    await at.client.post(`/v1/rotations/${back.rotationId}/roll-back`, { reason: 'not today' })
    await reached(at.client, back.rotationId, 'rolled-back')
    const written = await monitored()
    const { newKeyId } = await at.house.rotation(written.rotationId)
    await at.house.db.query(`update claims set delivery = 'due' where key_id = $1`, [newKeyId])
    const late = await monitored()
    await at.client.post(`/v1/rotations/${late.rotationId}/escalate`, { reason: 'leaked' })
    await reached(at.client, late.rotationId, 'completed')
    const refusal = async (rotationId: RotationId) => {
      const { status, body } = await show(rotationId)
      return [status, problemOf({ body }).code, await shownIn(rotationId)]
    }
    expect(await refusal(used.rotationId)).toEqual([410, 'claim-used', []])
    expect(await refusal(back.rotationId)).toEqual([410, 'claim-expired', []])
    expect(await refusal(written.rotationId)).toEqual([409, 'delivered-elsewhere', []])
    passedMs = 8 * 86_400_000
    try {
      expect(await refusal(late.rotationId)).toEqual([410, 'claim-expired', []])
    } finally {
      passedMs = 0
    }
  })

  test('is for operators alone', async () => {
    const { rotationId, token } = await monitored()
    for (const shown of ['none', token]) {
      const refused = await at.client.refusal('POST', `/v1/rotations/${rotationId}/claim`, {
        body: { reason: 'mine' },
        token: shown,
      })
      expect([refused.status, refused.code]).toEqual([401, 'operator-token-required'])
    }
    expect(await shownIn(rotationId)).toEqual([])
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
