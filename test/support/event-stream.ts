/** Following a rotation as a browser's EventSource does it. */
import type { Receipt, RotationId } from '@keyturn/contract'
import { type EventSourceMessage, EventSourceParserStream } from 'eventsource-parser/stream'
import { eventually, type House } from './house.ts'

export interface Stream {
  readonly response: Response
  /** What has come so far. */
  readonly messages: EventSourceMessage[]
  /** Resolves with all messages when the server ends the stream; rejects when the connection breaks. */
  readonly ended: Promise<EventSourceMessage[]>
  leave(): void
}

export async function follow(url: string, { config }: House, rotationId: string, lastEventId?: string): Promise<Stream> {
  const leaving = new AbortController()
  const response = await fetch(`${url}/v1/rotations/${rotationId}/events`, {
    headers: {
      authorization: `Bearer ${config.operatorToken}`,
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

/** Follows to the end, coming back with the last id whenever the stream is broken off. */
export async function followToTheEnd(url: string, house: House, rotationId: string): Promise<EventSourceMessage[]> {
  const all: EventSourceMessage[] = []
  await eventually(
    async () => {
      const stream = await follow(url, house, rotationId, all.at(-1)?.id).catch(() => undefined)
      if (stream?.response.status === 204) return true
      await stream?.ended.catch(() => undefined)
      if (stream?.response.ok === true) all.push(...stream.messages)
      return false
    },
    () => `the end of the stream of ${rotationId}, which said ${stagesOf(all).join(', ')}`,
    90_000,
  )
  return all
}

export const stagesOf = (messages: readonly EventSourceMessage[]): string[] =>
  messages.filter(({ event }) => event === 'stage').map(({ data }) => (JSON.parse(data) as { stage: string }).stage)

export const receiptsOf = (messages: readonly EventSourceMessage[]): (Receipt & { rotationId: RotationId })[] =>
  messages.filter(({ event }) => event === 'receipt').map(({ data }) => JSON.parse(data) as Receipt & { rotationId: RotationId })
