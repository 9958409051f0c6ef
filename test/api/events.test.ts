import { describe, expect, test } from 'vitest'
import { follow, receiptsOf, stagesOf } from '../support/event-stream.ts'
import { eventually } from '../support/house.ts'
import { apiHouse, claimedCredential, reached, trigger } from './support.ts'

const at = apiHouse({ gateways: 2 })
const STAGES = ['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed']

const followed = (rotationId: string, lastEventId?: string) => follow(at.client.url, at.house, rotationId, lastEventId)

async function rotated() {
  const { credentialId, token } = await claimedCredential(at.client)
  const { rotationId } = (await trigger(at.client, credentialId)).body
  const finish = async () => {
    await reached(at.client, rotationId, 'monitoring')
    const { token: newToken } = (await at.client.post<{ token: string }>('/v1/successor', undefined, { token })).body
    await at.house.use(newToken)
    return reached(at.client, rotationId, 'completed')
  }
  return { rotationId, finish }
}

describe('GET /v1/rotations/{id}/events', () => {
  test('tells each stage once and in order, and every receipt, as they come; ends with the rotation; resumes anywhere', async () => {
    const { rotationId, finish } = await rotated()
    const stream = await followed(rotationId)
    expect(stream.response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(stream.response.headers.get('cache-control')).toBe('no-store')
    await eventually(() => stagesOf(stream.messages).includes('monitoring'), 'monitoring on the stream', 60_000)
    expect(stagesOf(stream.messages)).toEqual(STAGES.slice(0, 4))
    const rotation = await finish()
    const messages = await stream.ended
    expect(stagesOf(messages)).toEqual(STAGES)
    expect(messages.at(-1)).toMatchObject({ event: 'stage', data: expect.stringContaining('"completed"') })
    const first = JSON.parse(messages[0]?.data ?? '') as object
    expect(first).toEqual({ rotationId, ...rotation.timeline[0] })
    // The last word on each key event is what the rotation says itself.
    const last = new Map(
      receiptsOf(messages).map(({ rotationId: _, ...receipt }) => [`${receipt.keyId}/${receipt.revision}`, receipt]),
    )
    expect([...last.values()]).toEqual(rotation.receipts)

    expect(new Set(messages.map(({ id }) => id)).size).toBe(messages.length)
    for (const [i, { id = '' }] of messages.slice(0, -1).entries()) {
      const rest = await (await followed(rotationId, id)).ended
      expect([id, stagesOf(rest)]).toEqual([id, stagesOf(messages.slice(i + 1))])
      expect(rest.at(-1)?.id).toBe(messages.at(-1)?.id)
    }
    const all = await followed(rotationId, messages.at(-1)?.id)
    expect([all.response.status, await all.response.text().catch(() => '')]).toEqual([204, ''])
  })

  test('of a rotation that has ended sends all of it, and ends', async () => {
    const { rotationId, finish } = await rotated()
    await finish()
    expect(stagesOf(await (await followed(rotationId)).ended)).toEqual(STAGES)
    for (const nonsense of ['x', '1', '1-', '-1-2', '9999999-0']) {
      expect([nonsense, stagesOf(await (await followed(rotationId, nonsense)).ended)]).toEqual([nonsense, STAGES])
    }
  })

  test('many may follow, and leave; the rest hear everything', async () => {
    const { rotationId, finish } = await rotated()
    const streams = await Promise.all(Array.from({ length: 30 }, () => followed(rotationId)))
    for (const stream of streams.slice(0, 15)) stream.leave()
    await finish()
    for (const stream of streams.slice(15)) expect(stagesOf(await stream.ended)).toEqual(STAGES)
  })

  test('a rotation is followed by operators alone', async () => {
    const { rotationId, finish } = await rotated()
    expect(await at.client.refusal('GET', `/v1/rotations/${rotationId}/events`, { token: 'none' })).toMatchObject({ status: 401 })
    await finish()
  })
})
