/** Rotations of keys that sign, from the outside: claims over HTTP, signed requests to gateways that are processes, usage as they count it. */
import { generateKeyPairSync } from 'node:crypto'
import { HEADERS, type KeyId, type ProblemDocument } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type CreatedBody, type HandedOutBody, newClient, trigger } from '../api/support.ts'
import { type SigningPair, signMessage, signPlain } from '../gateway/signatures/signing.ts'
import { issueKey } from '../gateway/support.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import {
  environmentOf,
  type GatewayProcess,
  type Running,
  startGatewayProcess,
  startProgram,
  startUpstream,
} from '../support/processes.ts'

let house: House
let api: ServedApi
let upstream: Awaited<ReturnType<typeof startUpstream>>
let collector: Running
let gateways: GatewayProcess[]
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, collector: false })
  upstream = await startUpstream()
  collector = startProgram('workers/usage-collector.ts', environmentOf(house))
  const started = ['gw-1', 'gw-2'].map((id) => startGatewayProcess(house, id, { KEYTURN_GATEWAY_UPSTREAM: upstream.url }))
  ;[api, ...gateways] = await Promise.all([serveApi(house), ...started])
})
afterAll(async () => {
  await Promise.all([collector.stop(), ...gateways.map((gateway) => gateway.stop())])
  upstream.server.close()
  await api.stop()
  await house.close()
})

type Kind = SigningPair['kind']
const pairOf = (kind: Kind) => (kind === 'ed25519' ? generateKeyPairSync('ed25519') : undefined)
const rawOf = (pair: ReturnType<typeof pairOf>) =>
  pair === undefined ? {} : { publicKey: pair.publicKey.export({ format: 'jwk' }).x ?? '' }
const signerOf = (kind: Kind, keyId: KeyId, token: string | undefined, pair: ReturnType<typeof pairOf>): SigningPair => ({
  ...issueKey({ keyId }),
  kind,
  ...(token === undefined ? {} : { token }),
  ...(pair === undefined ? {} : { privateKey: pair.privateKey }),
})

/** Claims a key, or enrols one. */
async function claim(kind: Kind, code: string): Promise<SigningPair> {
  const pair = pairOf(kind)
  const { status, body } = await api.client.post<HandedOutBody>(`/v1/claims/${code}`, rawOf(pair), { token: 'none' })
  expect(status).toBe(200)
  return signerOf(kind, body.keyId, body.token, pair)
}

const call = (gateway: GatewayProcess, headers: Record<string, string>) => fetch(`${gateway.url}/v1/ticker?pair=a`, { headers })
const signed = async (gateway: GatewayProcess, key: SigningPair, plain = false) => {
  const url = `${gateway.url}/v1/ticker?pair=a`
  return plain ? signPlain(key, { url }) : signMessage(key, { url })
}
/** The status at each gateway. */
const statuses = (key: SigningPair) =>
  Promise.all(gateways.map(async (gateway) => (await call(gateway, await signed(gateway, key))).status))

test.each(['hmac-sha256', 'ed25519'] as const)('%s: created, used, rotated and ended, and never sent', async (kind) => {
  const made = { name: 'feed', environment: 'prod', scopes: ['trade:orders'], kind }
  const { body } = await api.client.post<CreatedBody>(`/v1/clients/${await newClient(api.client)}/credentials`, made)
  const old = await claim(kind, body.claim)
  // Without a Redis they take no signed request in their first seconds.
  await eventually(async () => (await statuses(old)).every((status) => status === 200), 'gateways that can tell a replay', 60_000)

  const [first, second] = gateways as [GatewayProcess, GatewayProcess]
  const once = await signed(first, old)
  expect((await call(first, once)).status).toBe(200)
  const again = await call(first, once)
  expect([again.status, ((await again.json()) as ProblemDocument).code]).toEqual([401, 'request-replayed'])
  expect((await call(second, once)).status).toBe(401)
  if (kind === 'hmac-sha256') {
    expect((await call(first, await signed(first, old, true))).status).toBe(200)
    expect((await call(first, { authorization: `Bearer ${old.token}` })).status).toBe(401)
  }

  const windows = { overlap: '10m', quietPeriod: '1s', regretWindow: '1s' }
  const { rotationId } = (await trigger(api.client, body.credentialId, windows)).body
  await house.reached(rotationId, 'monitoring')
  const told = await eventually(async () => {
    const { headers } = await call(first, await signed(first, old))
    return headers.get(HEADERS.rotation) ?? undefined
  }, 'the notice on an answer to the old key')
  expect(told).toMatch(/successor=2/)
  const next = await claim(kind, await house.claimCodeOf(rotationId))
  expect(next.record.keyId).not.toBe(old.record.keyId)
  await eventually(
    async () => {
      expect(await statuses(next)).toEqual([200, 200])
      return (await house.rotation(rotationId)).stage === 'completed'
    },
    'the end of the rotation',
    60_000,
  )
  expect(await statuses(old)).toEqual([401, 401])
  for (const each of [...gateways, collector]) expect(each.output()).not.toContain(old.token)
})
