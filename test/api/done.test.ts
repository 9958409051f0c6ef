import type { ProblemDocument } from '@keyturn/contract'
import { describe, expect, onTestFinished, test } from 'vitest'
import { apiHouse, claimedCredential, type RotationBody, reached, trigger } from './support.ts'

const at = apiHouse({ gateways: 1 })
const LONG = { overlap: '2h', quietPeriod: '1h' }

interface DoneBody {
  readonly rotationId: string
  readonly stage: string
  readonly doneAt?: string
}
interface SwitchoverBody extends RotationBody {
  readonly switchover: { readonly moved: number; readonly total: number; readonly programs: readonly object[] }
}

const problemOf = ({ body }: { body: unknown }): ProblemDocument => body as ProblemDocument
const done = (rotationId: string, token: string) =>
  at.client.post<DoneBody>(`/v1/rotations/${rotationId}/done`, undefined, { token })
const useFrom = async (token: string, address: string) => {
  for (const gateway of at.house.gateways)
    gateway.authenticate({ headers: { authorization: `Bearer ${token}`, 'user-agent': 'feed/1' }, address })
  await at.house.settleUsage()
}

/** The client has its new key, and has not used it. */
async function claimed() {
  const { credentialId, token } = await claimedCredential(at.client)
  await useFrom(token, '192.0.2.1')
  const { rotationId } = (await trigger(at.client, credentialId, LONG)).body
  await reached(at.client, rotationId, 'monitoring')
  const { token: newToken } = (await at.client.post<{ token: string }>('/v1/successor', undefined, { token })).body
  return { credentialId, rotationId, token, newToken }
}

describe('POST /v1/rotations/{id}/done', () => {
  test('G2: is refused while a program uses the old key, and ends the quiet period when none does', async () => {
    const { rotationId, token, newToken } = await claimed()
    expect(problemOf(await done(rotationId, newToken))).toMatchObject({
      status: 409,
      code: 'not-switched-over',
      detail: expect.stringMatching(/has not been used at any gateway/),
    })
    await useFrom(newToken, '192.0.2.1')
    await useFrom(token, '192.0.2.2')
    expect(problemOf(await done(rotationId, newToken))).toMatchObject({
      status: 409,
      code: 'not-switched-over',
      detail: expect.stringMatching(/still used: by 192\.0\.2\.2 \(feed\/1\) at 20/),
    })
    await useFrom(newToken, '192.0.2.2')
    const answer = await done(rotationId, newToken)
    expect([answer.status, answer.body]).toEqual([200, { rotationId, stage: 'monitoring', doneAt: expect.any(String) }])
    const { switchover, evidence } = (await at.client.get<SwitchoverBody>(`/v1/rotations/${rotationId}`)).body
    expect(switchover).toMatchObject({ total: 1, programs: [{ userAgent: 'feed/1', addresses: '192.0.2.0/24' }] })
    expect(evidence).toMatchObject({ doneAt: answer.body.doneAt })
    await reached(at.client, rotationId, 'completed')
    expect(at.house.verdicts(token)).toEqual([false])
    expect((await done(rotationId, newToken)).body).toEqual({ rotationId, stage: 'completed' })
  })

  test('G2: is refused while a gateway is silent, and the gateway named', async () => {
    const { rotationId, newToken } = await claimed()
    await useFrom(newToken, '192.0.2.1')
    await at.house.announceSilentGateway('gw-silent')
    onTestFinished(async () => void (await at.client.post('/v1/gateways/gw-silent/gone', { reason: 'it never was' })))
    expect(problemOf(await done(rotationId, newToken))).toMatchObject({
      status: 409,
      code: 'not-switched-over',
      detail: expect.stringMatching(/is not known: gw-silent silent/),
    })
  })

  test('is refused to the old key, to the key of another credential, and to what is none', async () => {
    const { rotationId, token } = await claimed()
    const other = await claimedCredential(at.client)
    expect(problemOf(await done(rotationId, token))).toMatchObject({ status: 403, code: 'new-key-required' })
    expect(problemOf(await done(rotationId, other.token))).toMatchObject({ status: 404, code: 'unknown-rotation' })
    expect(problemOf(await done(rotationId, 'nonsense'))).toMatchObject({ status: 401, code: 'invalid-key' })
    const none = await at.client.post(`/v1/rotations/${rotationId}/done`, undefined, { token: 'none' })
    expect(problemOf(none)).toMatchObject({ status: 401, code: 'missing-key' })
  })
})
