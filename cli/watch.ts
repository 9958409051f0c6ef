/** Follows a rotation by its server-sent events, over lost connections, until it has ended. */
import { setTimeout as pause } from 'node:timers/promises'
import { isTerminal, type Receipt, type RotationStage, type TimelineEntry } from '@keyturn/contract/rotation'
import { createParser } from 'eventsource-parser'
import type { Context } from './context.ts'
import { EXIT, Failure, ProblemFailure } from './failure.ts'
import { receiptLine, stageLine } from './rendering.ts'

const RETRY_MS = 1_000
/** So long the API may be away before watching is given up. */
const PATIENCE_MS = 5 * 60_000
/** The server sends something at least every 15 s; a connection that is silent for longer is dead. */
const SILENCE_MS = 45_000

/**
 * Prints what happens. Once the API has been heard of (`heardAt`, milliseconds of the epoch), it may be away for a while.
 * @returns the exit code: 0 when it was completed, 1 when it was rolled back
 */
export async function watchRotation({ api, output }: Context, rotationId: string, heardAt?: number): Promise<number> {
  const path = `/v1/rotations/${rotationId}/events`
  let lastEventId: string | undefined
  let stage: RotationStage | undefined
  let away = false

  const parser = createParser({
    onEvent({ id, event, data }) {
      lastEventId = id ?? lastEventId
      const said = JSON.parse(data) as object
      if (event === 'stage') {
        const entry = said as TimelineEntry
        stage = entry.stage
        output.line(stageLine(entry, output), { type: event, ...said })
      } else if (event === 'receipt') {
        output.line(receiptLine(said as Receipt, output), { type: event, ...said })
      }
    },
  })

  for (;;) {
    try {
      const body = await api.stream(path, lastEventId)
      heardAt = Date.now()
      away = false
      if (body === undefined) break
      parser.reset()
      await readAll(body, (text) => {
        heardAt = Date.now()
        parser.feed(text)
      })
    } catch (error) {
      // The API has said no; asking again would change nothing.
      if (error instanceof ProblemFailure && error.problem.status < 500) throw error
      if (heardAt === undefined || Date.now() - heardAt > PATIENCE_MS) throw error
      if (!away) output.note('The API does not answer at the moment; trying again.')
      away = true
    }
    if (stage !== undefined && isTerminal(stage)) break
    await pause(RETRY_MS)
  }
  if (stage === undefined) throw new Failure('The API has sent nothing of this rotation', 'Look at it with `keyturn status`.')
  return stage === 'completed' ? EXIT.done : EXIT.failed
}

async function readAll(body: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder()
  const reader = body.getReader()
  let silence: NodeJS.Timeout | undefined
  try {
    for (;;) {
      const silent = new Promise<never>((_, reject) => {
        silence = setTimeout(() => reject(new Failure('the stream of events has fallen silent')), SILENCE_MS)
      })
      const { done, value } = await Promise.race([reader.read(), silent])
      clearTimeout(silence)
      if (done) return
      take(decoder.decode(value, { stream: true }))
    }
  } finally {
    clearTimeout(silence)
    reader.cancel().catch(() => {})
  }
}
