/** Where a client comes that does what its mails say. */
import type { KeyKind } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type ServedApi, serveApi } from '../support/api.ts'
import { hook, webhook } from '../support/hook.ts'
import { eventually, type House } from '../support/house.ts'
import { decoded, mailServer } from '../support/mail-server.ts'
import { openHouse } from '../support/open-house.ts'
import { newPublicKey } from '../support/shown.ts'
import { alertsOf as alertsIn } from '../support/topics.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 90_000 })
const PATIENCE_MS = 90_000

let house: House
let api: ServedApi
let smtp: Awaited<ReturnType<typeof mailServer>>
beforeAll(async () => {
  smtp = await mailServer({ keep: true })
  house = await openHouse({ time: 'real', gateways: 1, delivery: { smtp: { url: smtp.url, from: 'keys@api.example' } } })
  api = await serveApi(house)
})
afterAll(async () => {
  await api.stop()
  await house.close()
  await smtp.close()
})

let mailboxes = 0
/** A client that is told by e-mail alone. */
async function client(kind: KeyKind = 'bearer') {
  const address = `box${++mailboxes}@acme.example`
  const what = { kind, ...(kind === 'ed25519' ? { publicKey: newPublicKey() } : {}) }
  const credential = await house.credential(['read:prices'], 'prod', [{ channel: 'email', address }], what)
  const mail = () =>
    eventually(
      () => smtp.mails.filter(({ to }) => to.includes(address)).map(({ source }) => decoded(source))[0],
      `a mail to ${address}`,
      PATIENCE_MS,
    )
  return { ...credential, mail }
}

/** The links into the API that a mail holds, and whether the page behind each asks for the old key. */
async function followed(mail: string): Promise<(readonly [path: string, asks: boolean])[]> {
  const { publicUrl } = house.config
  const urls = new Set(mail.split(/[\s"<>]+/).filter((word) => word.startsWith(publicUrl)))
  return Promise.all(
    [...urls].map(async (url) => {
      const path = url.slice(publicUrl.length)
      return [path, (await (await fetch(api.url + path)).text()).includes('id="oldKey"')] as const
    }),
  )
}

const successor = (token: string) => api.client.post<{ token: string }>('/v1/successor', undefined, { token })

const alertsOf = async (credentialId: string) =>
  (await alertsIn(house.config.topics, credentialId)).filter(({ kind }) => kind === 'notification-failed')

/** What somebody at the provider gives to a client that has answered hands this out. */
async function claimed(rotationId: string): Promise<string> {
  const { body } = await api.client.post<{ claim: string }>(`/v1/rotations/${rotationId}/claim`, { reason: 'has answered' })
  return (await api.client.post<{ token: string }>(`/v1/claims/${body.claim}`, undefined, { token: 'none' })).body.token
}

test('a planned rotation: the page that asks for the old key, and the new one is handed out for it', async () => {
  const { credentialId, token, mail } = await client()
  const { rotationId } = await house.rotate(credentialId)
  expect(await followed(await mail())).toEqual([[`/claim/${rotationId}`, true]])
  const { status, body } = await successor(token)
  expect([status, house.verdicts(body.token)]).toEqual([200, [true]])
})

test('an emergency: somebody at the provider, for the old key opens nothing, and is asked for nowhere', async () => {
  const { credentialId, token, mail } = await client()
  const { rotationId } = await house.rotate(credentialId, {}, 'emergency')
  const text = await mail()
  expect(await followed(text)).toEqual([])
  expect(text).toMatch(/answer this message/)
  expect((await successor(token)).status).toBe(403)
  const [alert] = await eventually(async () => {
    const all = await alertsOf(credentialId)
    return all.length > 0 && all
  }, 'the alert')
  expect(alert).toMatchObject({ rotationId, detail: expect.stringContaining(`keyturn claim ${rotationId} --reason`) })
  expect(house.verdicts(await claimed(rotationId))).toEqual([true])
})

test('an emergency of a client with a webhook: the claim is there, and nobody has to be called', async () => {
  const target = await hook()
  const { credentialId } = await house.credential(['read:prices'], 'prod', [webhook(target)])
  await house.rotate(credentialId, {}, 'emergency')
  const { data } = await eventually(() => target.bodies[0], 'the webhook', PATIENCE_MS)
  const { pathname } = new URL(data?.claimUrl ?? '')
  const { body } = await api.client.post<{ token: string }>(pathname, undefined, { token: 'none' })
  expect([house.verdicts(body.token), await alertsOf(credentialId)]).toEqual([[true], []])
})

test('a leak: the same, while the leaked key still works', async () => {
  const { credentialId, token, mail } = await client()
  await api.client.post('/v1/leaks', { token, source: 'test', url: 'https://example.com/' })
  const text = await mail()
  expect(await followed(text)).toEqual([])
  expect(text).toMatch(/has leaked: switch over by/)
  expect(text).toMatch(/answer this message/)
  expect([house.verdicts(token), (await successor(token)).status]).toEqual([[true], 403])
  const { rotationId = expect.fail() } = (await api.client.get<{ rotationId?: string }>(`/v1/credentials/${credentialId}`)).body
  expect(house.verdicts(await claimed(rotationId))).toEqual([true])
})

test.each(['hmac-sha256', 'ed25519'] as const)('%s: no page, for what signs is to be entered nowhere', async (kind) => {
  const { credentialId, mail } = await client(kind)
  await house.rotate(credentialId)
  const text = await mail()
  expect(await followed(text)).toEqual([])
  expect(text).toMatch(/Never enter the old key itself anywhere/)
})
