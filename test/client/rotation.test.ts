/** Clients with each kind of key, real gateways and the real API: what they send is accepted, and rotations are followed. */
import { type ClientEvent, createClient, type Given, memoryStore, type PrivateJwk } from '@keyturn/client'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type CreatedBody, type HandedOutBody, newClient, trigger } from '../api/support.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess } from '../support/processes.ts'
import { type CrowdPlace, openCrowdPlace } from './crowd.ts'

let house: House
let api: ServedApi
let place: CrowdPlace
let gateway: GatewayProcess
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0 })
  place = await openCrowdPlace()
  ;[api, gateway] = await Promise.all([
    // Keys that sign do so for the address that their client knows.
    serveApi(house, { config: { publicUrl: 'http://127.0.0.1:0' } }),
    startGatewayProcess(house, 'gw-1', { KEYTURN_GATEWAY_UPSTREAM: place.upstream }),
  ])
})
afterAll(async () => {
  await gateway.stop()
  await place.close()
  await api.stop()
  await house.close()
})

type Kind = 'bearer' | 'hmac-sha256' | 'ed25519'

async function ed25519Pair(): Promise<{ publicKey: string; privateKey: PrivateJwk }> {
  const pair = await crypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify'])
  if (!('privateKey' in pair)) throw new Error('no pair')
  const jwk = (await crypto.subtle.exportKey('jwk', pair.privateKey)) as PrivateJwk
  return { publicKey: Buffer.from(jwk.x, 'base64url').toString('base64'), privateKey: jwk }
}

/** A credential whose first key is claimed, as a program is given it. */
async function given(kind: Kind): Promise<{ created: CreatedBody; credential: Given }> {
  const made = { name: 'feed', environment: 'prod', scopes: ['read:prices'], kind }
  const created = (await api.client.post<CreatedBody>(`/v1/clients/${await newClient(api.client)}/credentials`, made)).body
  const pair = kind === 'ed25519' ? await ed25519Pair() : undefined
  const body = pair === undefined ? undefined : { publicKey: pair.publicKey }
  const handed = (await api.client.post<HandedOutBody>(`/v1/claims/${created.claim}`, body, { token: 'none' })).body
  if (pair !== undefined) return { created, credential: { kind: 'ed25519', keyId: handed.keyId, privateKey: pair.privateKey } }
  return { created, credential: { kind: kind === 'hmac-sha256' ? kind : 'bearer', token: handed.token } }
}

function open(credential: Given) {
  const events: ClientEvent[] = []
  const store = memoryStore()
  const client = createClient({ store, credential, api: api.client.url, onEvent: (event) => events.push(event) })
  onTestFinished(() => client.close())
  const call = async (path = '/v1/ticker', init: RequestInit = {}) => {
    const response = await client.fetch(gateway.url + path, init)
    const text = await response.text()
    return { status: response.status, ...(response.ok && text !== '' ? (JSON.parse(text) as { sha256: string }) : {}) }
  }
  return { client, store, events, call }
}

describe.each(['bearer', 'hmac-sha256', 'ed25519'] as const)('%s', (kind) => {
  test('what it sends is accepted, whatever it is', async () => {
    const { call, client } = open((await given(kind)).credential)
    await eventually(async () => (await call()).status === 200, 'a gateway that can tell a replay')
    for (const path of ['/', '/?', '/a?b=c%20d&e=', '/%C3%A4/ü?q=ß', '/x#fragment', "/it's(*)!"]) {
      expect([path, (await call(path)).status]).toEqual([path, 200])
    }
    const bodies = [
      'text',
      new TextEncoder().encode('bytes'),
      new Blob(['blob']),
      new URLSearchParams({ a: 'b' }),
      formOf('x'),
      '',
    ]
    for (const body of bodies) expect((await call('/v1/orders', { method: 'POST', body })).status).toBe(200)
    const stream = new Blob(['a', 'stream']).stream()
    expect((await call('/v1/orders', { method: 'PUT', body: stream, duplex: 'half' } as RequestInit)).status).toBe(200)
    for (const method of ['DELETE', 'HEAD', 'PATCH', 'OPTIONS']) expect((await call('/v1/orders', { method })).status).toBe(200)
    const request = new Request(`${gateway.url}/v1/orders`, { method: 'POST', body: 'request', headers: { 'x-a': 'b' } })
    expect((await client.fetch(request)).status).toBe(200)
  })

  test('a rotation is followed to its end', async () => {
    const { created, credential } = await given(kind)
    const { call, client, store, events } = open(credential)
    await eventually(async () => (await call()).status === 200, 'a gateway that can tell a replay')
    const windows = { overlap: '10m', quietPeriod: '1s', regretWindow: '1s' }
    const { rotationId } = (await trigger(api.client, created.credentialId, windows)).body
    await house.reached(rotationId, 'monitoring')
    await eventually(
      async () => {
        expect((await call('/v1/orders', { method: 'POST', body: 'order' })).status).toBe(200)
        return (await house.rotation(rotationId)).stage === 'completed'
      },
      () => `the end of the rotation: ${JSON.stringify(events)}`,
    )
    const { newKeyId } = await house.rotation(rotationId)
    expect(await client.keyId()).toBe(newKeyId)
    expect((await store.read())?.value).toMatchObject({ current: { keyId: newKeyId, kind }, previous: { keyId: created.keyId } })
    expect((await call()).status).toBe(200)
  })
})

test('after a roll-back the old key goes on, and no request was lost', async () => {
  const { created, credential } = await given('bearer')
  const { call, client } = open(credential)
  const { rotationId } = (await trigger(api.client, created.credentialId, { overlap: '10m', quietPeriod: '10m' })).body
  await eventually(async () => (await call()).status === 200 && (await client.keyId()) !== created.keyId, 'the new key in use')
  const order = await api.client.post(`/v1/rotations/${rotationId}/roll-back`, { reason: 'on purpose' })
  expect(order.status).toBeLessThan(300)
  await eventually(async () => {
    expect(
      (await call('/v1/orders', { method: 'POST', body: new Blob(['x']).stream(), duplex: 'half' } as RequestInit)).status,
    ).toBe(200)
    expect((await call()).status).toBe(200)
    return (await house.rotation(rotationId)).stage === 'rolled-back'
  }, 'the end of the roll-back')
  expect((await call()).status).toBe(200)
  expect(await client.keyId()).toBe(created.keyId)
})

function formOf(value: string): FormData {
  const form = new FormData()
  form.set('name', value)
  form.set('file', new Blob(['content']), 'file.txt')
  return form
}
