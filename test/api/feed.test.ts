import { EventSourceParserStream } from 'eventsource-parser/stream'
import { expect, test } from 'vitest'
import { eventually } from '../support/house.ts'
import { apiHouse, claimedCredential, QUICK, reached, trigger } from './support.ts'

const at = apiHouse({ gateways: 1 })

interface Page {
  readonly events: readonly { readonly id: string; readonly type: string; readonly data: { readonly rotationId?: string } }[]
  readonly after: string
}
const page = async (token: string, query = '') => (await at.client.get<Page>(`/v1/feed${query}`, { token })).body

async function stream(token: string, lastEventId?: string) {
  const leaving = new AbortController()
  const response = await fetch(`${at.client.url}/v1/feed`, {
    headers: {
      authorization: `Bearer ${token}`,
      accept: 'text/event-stream',
      ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
    },
    signal: leaving.signal,
  })
  const messages: { id: string | undefined; event: string | undefined; data: string }[] = []
  const read = async () => {
    for await (const message of response.body?.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()) ??
      [])
      messages.push({ id: message.id, event: message.event, data: message.data })
  }
  const ended = read().catch(() => undefined)
  return { response, messages, ended, leave: () => leaving.abort() }
}

async function rotated() {
  const { credentialId, token } = await claimedCredential(at.client)
  const { rotationId } = (await trigger(at.client, credentialId, QUICK)).body
  await reached(at.client, rotationId, 'monitoring')
  const finish = async (): Promise<string> => {
    const { token: next } = (await at.client.post<{ token: string }>('/v1/successor', undefined, { token })).body
    await at.house.use(next)
    await reached(at.client, rotationId, 'completed')
    return next
  }
  return { rotationId, token, finish }
}

test('a client without contacts reads what it would have been told, and goes on after what it has read; without a claim', async () => {
  const { rotationId, token, finish } = await rotated()
  const first = await page(token)
  expect(first.events).toMatchObject([{ type: 'keyturn.rotation.introduced', data: { rotationId } }])
  expect(JSON.stringify(first)).not.toContain(await at.house.claimCodeOf(rotationId))
  expect(first.events[0]?.data).not.toHaveProperty('claimUrl')
  expect(await page(token, `?after=${first.after}`)).toEqual({ events: [], after: first.after })

  const following = await stream(token)
  expect(following.response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
  const waiting = page(token, `?after=${first.after}&wait=40s`)
  const next = await finish()
  expect((await waiting).events.map(({ type }) => type)).toEqual(['keyturn.rotation.deactivated'])
  // The key that has opened the stream is dead, and with it the stream.
  await following.ended
  expect(following.messages[0]).toMatchObject({ id: first.after, event: 'keyturn.rotation.introduced' })

  const resumed = await stream(next, first.after)
  await eventually(() => resumed.messages.length === 1, 'what came after that', 30_000)
  expect(resumed.messages[0]?.event).toBe('keyturn.rotation.deactivated')
  resumed.leave()
})

test('nobody reads the feed of another client, and no dead, unknown or missing key opens one', async () => {
  const [one, other] = [await rotated(), await rotated()]
  const events = (await page(other.token)).events
  expect(events.map(({ data }) => data.rotationId)).toEqual([other.rotationId])
  await one.finish()
  for (const token of [one.token, at.house.config.operatorToken, 'nonsense'])
    expect((await at.client.refusal('GET', '/v1/feed', { token })).code).toBe('invalid-key')
  expect((await at.client.refusal('GET', '/v1/feed', { token: 'none' })).code).toBe('missing-key')
  for (const query of ['?after=x', '?wait=2m', '?wait=soon', '?from=1'])
    expect([query, (await at.client.refusal('GET', `/v1/feed${query}`, { token: other.token })).status]).toEqual([query, 400])
})

test('waiting for what does not come ends in time, empty', async () => {
  const { token } = await claimedCredential(at.client)
  expect(await page(token, '?wait=200ms')).toEqual({ events: [], after: '0' })
})
