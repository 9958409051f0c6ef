import type { Receipt, RotationId } from '@keyturn/contract'
import { type EventSourceMessage, EventSourceParserStream } from 'eventsource-parser/stream'
import { describe, expect, test } from 'vitest'
import { eventually } from '../support/house.ts'
import { apiHouse, claimedCredential, reached, trigger } from './support.ts'

const at = apiHouse({ gateways: 2 })
const STAGES = ['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed']

interface Stream {
  readonly response: Response
  readonly messages: EventSourceMessage[]
  /** Resolves with all messages when the server ends the stream. */
  readonly ended: Promise<EventSourceMessage[]>
  leave(): void
}

async function follow(rotationId: string, lastEventId?: string): Promise<Stream> {
  const leaving = new AbortController()
  const response = await fetch(`${at.client.url}/v1/rotations/${rotationId}/events`, {
    headers: {
      authorization: `Bearer ${at.house.config.operatorToken}`,
      ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
    },
    signal: leaving.signal,
  })
  const messages: EventSourceMessage[] = []
  const read = async (): Promise<EventSourceMessage[]> => {
    const events = response.body?.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())
    for await (const message of events ?? []) messages.push(message)
    return messages
  }
  const ended = read()
  ended.catch(() => undefined)
  return { response, messages, ended, leave: () => leaving.abort() }
}

const stagesOf = (messages: readonly EventSourceMessage[]): string[] =>
  messages.filter(({ event }) => event === 'stage').map(({ data }) => (JSON.parse(data) as { stage: string }).stage)
const receiptsOf = (messages: readonly EventSourceMessage[]): (Receipt & { rotationId: RotationId })[] =>
  messages.filter(({ event }) => event === 'receipt').map(({ data }) => JSON.parse(data) as Receipt & { rotationId: RotationId })

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
    const stream = await follow(rotationId)
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
      const rest = await (await follow(rotationId, id)).ended
      expect([id, stagesOf(rest)]).toEqual([id, stagesOf(messages.slice(i + 1))])
      expect(rest.at(-1)?.id).toBe(messages.at(-1)?.id)
    }
    const all = await follow(rotationId, messages.at(-1)?.id)
    expect([all.response.status, await all.response.text().catch(() => '')]).toEqual([204, ''])
  })

  test('of a rotation that has ended sends all of it, and ends', async () => {
    const { rotationId, finish } = await rotated()
    await finish()
    expect(stagesOf(await (await follow(rotationId)).ended)).toEqual(STAGES)
    for (const nonsense of ['x', '1', '1-', '-1-2', '9999999-0']) {
      expect([nonsense, stagesOf(await (await follow(rotationId, nonsense)).ended)]).toEqual([nonsense, STAGES])
    }
  })

  test('many may follow, and leave; the rest hear everything', async () => {
    const { rotationId, finish } = await rotated()
    const streams = await Promise.all(Array.from({ length: 30 }, () => follow(rotationId)))
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
