import type { ProblemDocument } from '@keyturn/contract'
import { expect, test } from 'vitest'
import { apiHouse, claimedCredential, reached, redeem, trigger } from './support.ts'

const at = apiHouse({})

interface OwnKeyBody {
  readonly keyId: string
  readonly version: number
  readonly lastUsedAt?: string
}

const self = (token: string) => at.client.get<OwnKeyBody>('/v1/keys/self', { token })
const codeOf = async (token: string) => (await at.client.get<ProblemDocument>('/v1/keys/self', { token })).body.code

test('G2: the holder of a key sees that its successor is there and which of both is in use; asking is no use', async () => {
  const { credentialId, keyId, token } = await claimedCredential(at.client)
  const before = await self(token)
  expect(before.headers.get('cache-control')).toBe('no-store')
  expect(before.body).toEqual({ keyId, credentialId, environment: 'prod', version: 1, standing: 'current' })

  const { rotationId } = (await trigger(at.client, credentialId)).body
  await reached(at.client, rotationId, 'monitoring')
  expect((await self(token)).body).toMatchObject({
    version: 1,
    standing: 'current',
    successor: 2,
    sunsetAt: expect.any(String),
    rotationId,
  })
  const { body: claimed } = await redeem(at.client, await at.house.claimCodeOf(rotationId))
  await at.house.settleUsage()
  const successor = (await self(claimed.token)).body
  expect(successor).toEqual({
    keyId: claimed.keyId,
    credentialId,
    environment: 'prod',
    version: 2,
    standing: 'successor',
    rotationId,
  })
  expect((await self(token)).body).not.toHaveProperty('lastUsedAt')

  const since = Date.now()
  await at.house.use(claimed.token)
  expect(Date.parse((await self(claimed.token)).body.lastUsedAt ?? '')).toBeGreaterThanOrEqual(since)
  await reached(at.client, rotationId, 'completed')
  expect((await self(claimed.token)).body).toMatchObject({ standing: 'current', version: 2 })
  expect(await codeOf(token)).toBe('invalid-key')
})

test('nobody else learns anything: without a key, with one that is mistyped, with an operator’s token', async () => {
  const { token } = await claimedCredential(at.client)
  expect(await codeOf('none')).toBe('missing-key')
  expect(await codeOf(`${token.slice(0, -1)}0`)).toBe('invalid-key')
  expect(await codeOf(at.house.config.operatorToken)).toBe('invalid-key')
})
