/**
 * GET /v1/rotations/{id}/events: server-sent events. What has happened so far comes first, then whatever happens, as `stage` and
 * `receipt` events; after the terminal stage the stream ends. An event's id is `<stages>-<receipts>`: how many of each
 * were sent up to it, so that `Last-Event-ID` goes on where a lost connection stopped.
 */
import { isTerminal, type Receipt, type RotationId, type TimelineEntry } from '@keyturn/contract'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import { getRotation, ROTATION_CHANNEL } from '../registry/rotations.ts'
import { type ChangeFeed, createChangeFeed } from './change-feed.ts'
import type { ApiDeps } from './ports.ts'
import { knownRotation } from './rotations.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, RotationIdSchema } from './schemas.ts'

const HEARTBEAT_MS = 15_000
/** A reader that is this far behind is cut off; it comes back with `Last-Event-ID`. */
const MAX_BUFFERED = 1_000_000

export function rotationEventRoutes(api: Api, deps: ApiDeps): void {
  const feed = createChangeFeed(deps.db, ROTATION_CHANNEL, deps.log)
  const open = new Set<EventStream>()
  api.addHook('preClose', async () => {
    for (const stream of open) stream.end()
    feed.stop()
  })

  api.get(
    '/v1/rotations/:id/events',
    {
      schema: {
        operationId: 'followRotation',
        summary: 'Follow a rotation: server-sent events `stage` and `receipt`',
        security: OPERATOR_SECURITY,
        params: Input({ id: RotationIdSchema }),
        headers: Type.Object({ 'last-event-id': Type.Optional(Type.String({ maxLength: 40 })) }),
        response: {
          200: { description: 'the stream', content: { 'text/event-stream': { schema: Type.String() } } },
          204: Type.Null({ description: 'the rotation has ended, and everything was sent before' }),
          ...Problems,
        },
      },
    },
    async (request, reply) => {
      const rotation = await knownRotation(deps, request.params.id)
      const [stages = 0, receipts = 0] = /^\d{1,6}-\d{1,6}$/.test(request.headers['last-event-id'] ?? '')
        ? (request.headers['last-event-id'] ?? '').split('-').map(Number)
        : []
      if (isTerminal(rotation.stage) && stages >= rotation.timeline.length && receipts >= rotation.receipts.length) {
        return reply.code(204).send(null)
      }
      reply.hijack()
      const stream = new EventStream(deps, feed, rotation.rotationId, reply, { stages, receipts })
      open.add(stream)
      stream.onEnd = () => open.delete(stream)
      stream.begin()
      return reply
    },
  )
}

class EventStream {
  onEnd: () => void = () => undefined
  private readonly sentReceipts = new Map<string, string>()
  private stages: number
  private receipts: number
  private reading = false
  private again = false
  private ended = false
  private unfollow: () => void = () => undefined
  private heartbeat: NodeJS.Timeout | undefined
  private readonly deps: ApiDeps
  private readonly feed: ChangeFeed
  private readonly rotationId: RotationId
  private readonly reply: FastifyReply
  private readonly seen: number

  constructor(
    deps: ApiDeps,
    feed: ChangeFeed,
    rotationId: RotationId,
    reply: FastifyReply,
    seen: { stages: number; receipts: number },
  ) {
    this.deps = deps
    this.feed = feed
    this.rotationId = rotationId
    this.reply = reply
    this.stages = seen.stages
    this.receipts = 0
    this.seen = seen.receipts
  }

  begin(): void {
    const { raw } = this.reply
    raw.on('close', () => this.end())
    raw.on('error', () => this.end())
    raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    })
    raw.write('retry: 1000\n\n')
    this.unfollow = this.feed.follow(this.rotationId, () => this.catchUp())
    this.heartbeat = setInterval(() => {
      raw.write(': still here\n\n')
      // A change that no notification told of is found here.
      this.catchUp()
    }, HEARTBEAT_MS)
    this.catchUp()
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    clearInterval(this.heartbeat)
    this.unfollow()
    this.onEnd()
    this.reply.raw.end()
  }

  /** Reads the rotation and sends what is new. Changes that come meanwhile cause one more reading. */
  private catchUp(): void {
    if (this.reading) {
      this.again = true
      return
    }
    this.reading = true
    this.again = false
    this.send()
      .catch((error: unknown) => {
        this.deps.log.warn({ err: error, rotationId: this.rotationId }, 'a stream of events is broken off; its reader comes back')
        this.end()
      })
      .finally(() => {
        this.reading = false
        if (this.again && !this.ended) this.catchUp()
      })
  }

  private async send(): Promise<void> {
    const rotation = await getRotation(this.deps.db, this.rotationId)
    if (this.ended || rotation === undefined) return
    const news = [
      ...rotation.timeline.slice(this.stages).map((entry) => ({ at: entry.at, stage: entry })),
      ...rotation.receipts.flatMap((receipt, index) =>
        this.isNews(receipt, index) ? [{ at: receipt.publishedAt, receipt }] : [],
      ),
    ]
    news.sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
    for (const item of news) 'stage' in item ? this.sendStage(item.stage) : this.sendReceipt(item.receipt)
    if (isTerminal(rotation.stage)) this.end()
    else if (this.reply.raw.writableLength > MAX_BUFFERED) this.end()
  }

  /** A receipt is sent again when another gateway has confirmed. */
  private isNews(receipt: Receipt, index: number): boolean {
    const id = `${receipt.keyId}/${receipt.revision}`
    const text = JSON.stringify(receipt)
    if (this.sentReceipts.get(id) === text) return false
    const first = !this.sentReceipts.has(id)
    this.sentReceipts.set(id, text)
    if (first) this.receipts++
    return !(first && index < this.seen && receipt.unconfirmed.length === 0)
  }

  private sendStage({ stage, at, reason }: TimelineEntry): void {
    this.stages++
    this.write('stage', { rotationId: this.rotationId, stage, at, ...given('reason', reason) })
  }

  private sendReceipt(receipt: Receipt): void {
    this.write('receipt', { rotationId: this.rotationId, ...receipt })
  }

  private write(event: string, data: unknown): void {
    this.reply.raw.write(`id: ${this.stages}-${this.receipts}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }
}
