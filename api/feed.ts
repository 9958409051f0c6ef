/**
 * GET /v1/feed: what a client is told, for its programs, as long as it is kept. As server-sent events, where `Last-Event-ID` goes on after
 * what was read; or by long polling with `after` and `wait`. Any key of the client opens it, and it ends with that key.
 */
import { type ClientId, DURATION_PATTERN, parseDuration, Timestamp } from '@keyturn/contract'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import { CLIENT_CHANNEL, type ClientEvent, clientEventsAfter, clientOfKey } from '../registry/client-events.ts'
import type { Shown } from '../registry/shown-keys.ts'
import { type ChangeFeed, createChangeFeed } from './change-feed.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import type { Api } from './routes.ts'
import { Problems } from './schemas.ts'
import { shownKey } from './shown-key.ts'

const HEARTBEAT_MS = 15_000
const AT_ONCE = 100
const LONGEST_WAIT_MS = 50_000
const DEFAULT_WAIT_MS = 0
/** A reader that is this far behind is cut off; it comes back with `Last-Event-ID`. */
const MAX_BUFFERED = 1_000_000
const EVENT_ID = '^[0-9]{1,18}$'

const FeedEvent = Type.Object({
  id: Type.String({ description: 'rises; to go on after it' }),
  type: Type.String({ description: 'as of webhooks: keyturn.rotation.introduced' }),
  timestamp: Timestamp,
  data: Type.Object({}, { additionalProperties: true, description: 'as of webhooks, without a claim' }),
})

const bodyOf = ({ id, type, at, data }: ClientEvent) => ({ id, type, timestamp: at.toISOString(), data })

export function feedRoutes(api: Api, deps: ApiDeps): void {
  const feed = createChangeFeed(deps.db, CLIENT_CHANNEL, deps.log)
  const open = new Set<() => void>()
  api.addHook('preClose', async () => {
    for (const end of open) end()
    feed.stop()
  })

  api.get(
    '/v1/feed',
    {
      schema: {
        operationId: 'followClient',
        summary: 'Follow what is told to the client whose key is shown: server-sent events, or long polling',
        security: [{ clientKey: [] }, { signature: [] }],
        querystring: Type.Object(
          {
            after: Type.Optional(Type.String({ pattern: EVENT_ID, description: 'the id of the event that was read last' })),
            wait: Type.Optional(
              Type.String({ pattern: DURATION_PATTERN, maxLength: 20, description: 'how long to wait for one: at most 50s' }),
            ),
          },
          { additionalProperties: false },
        ),
        headers: Type.Object({ 'last-event-id': Type.Optional(Type.String({ maxLength: 40 })) }),
        response: {
          200: {
            description: 'what comes after that, oldest first; as a stream for whoever accepts text/event-stream',
            content: {
              'application/json': {
                schema: Type.Object({
                  events: Type.Array(FeedEvent),
                  after: Type.String({ description: 'for the next request' }),
                }),
              },
              'text/event-stream': { schema: Type.String() },
            },
          },
          ...Problems,
        },
      },
    },
    async (request, reply) => {
      // A signature counts once: what it shows is kept for as long as the answer takes.
      const shown = await shownKey(request, deps, 'a key of yours')
      const clientId = await whoseKey(deps, shown)
      const last = request.headers['last-event-id'] ?? ''
      const after = new RegExp(EVENT_ID).test(last) ? last : (request.query.after ?? '0')
      if (/\btext\/event-stream\b/.test(request.headers.accept ?? '')) {
        reply.hijack()
        follow({ deps, feed, open, shown, reply, clientId }, after)
        return reply
      }
      const waitMs = request.query.wait === undefined ? DEFAULT_WAIT_MS : parseDuration(request.query.wait)
      if (waitMs > LONGEST_WAIT_MS)
        throw new ApiError('invalid-request', 'Ask again when nothing has come.', [{ path: '/wait', message: 'is at most 50s' }])
      const events = await poll(deps, feed, { clientId, after, waitMs, reply, open })
      return reply.header('cache-control', 'no-store').send({ events: events.map(bodyOf), after: events.at(-1)?.id ?? after })
    },
  )
}

/** @throws ApiError when the key is not accepted now */
async function whoseKey({ db, clock }: ApiDeps, shown: Shown): Promise<ClientId> {
  const clientId = await clientOfKey(db, shown, clock())
  if (clientId === undefined) throw new ApiError('invalid-key', 'Send a key that is accepted now, as a whole.')
  return clientId
}

interface Polling {
  readonly clientId: ClientId
  readonly after: string
  readonly waitMs: number
  readonly reply: FastifyReply
  readonly open: Set<() => void>
}

/** Looks once, and again with every change until there is something, the time is over, or nobody waits any more. */
async function poll(
  { db }: ApiDeps,
  feed: ChangeFeed,
  { clientId, after, waitMs, reply, open }: Polling,
): Promise<ClientEvent[]> {
  let wake: () => void = () => undefined
  let over = waitMs === 0
  let changed = false
  const unfollow = feed.follow(clientId, () => {
    changed = true
    wake()
  })
  const end = () => {
    over = true
    wake()
  }
  open.add(end)
  const timer = setTimeout(end, waitMs)
  reply.raw.once('close', end)
  try {
    for (;;) {
      changed = false
      const events = await clientEventsAfter(db, clientId, after, AT_ONCE)
      if (events.length > 0 || over) return events
      if (!changed)
        await new Promise<void>((resolve) => {
          wake = resolve
          if (over || changed) resolve()
        })
    }
  } finally {
    clearTimeout(timer)
    open.delete(end)
    unfollow()
  }
}

interface Following {
  readonly deps: ApiDeps
  readonly feed: ChangeFeed
  readonly open: Set<() => void>
  readonly shown: Shown
  readonly reply: FastifyReply
  readonly clientId: ClientId
}

function follow({ deps, feed, open, shown, reply, clientId }: Following, from: string): void {
  const { raw } = reply
  let after = from
  let ended = false
  let reading = false
  let again = false

  const end = (): void => {
    if (ended) return
    ended = true
    clearInterval(heartbeat)
    unfollow()
    open.delete(end)
    raw.end()
  }
  const send = async (): Promise<void> => {
    // A stream does not outlive the key that has opened it.
    await whoseKey(deps, shown)
    for (let more = true; more && !ended; ) {
      const events = await clientEventsAfter(deps.db, clientId, after, AT_ONCE)
      for (const event of events) {
        if (ended) return
        raw.write(`id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(bodyOf(event))}\n\n`)
        after = event.id
      }
      more = events.length === AT_ONCE
      if (raw.writableLength > MAX_BUFFERED) end()
    }
  }
  const catchUp = (): void => {
    again = true
    if (reading || ended) return
    reading = true
    const work = async (): Promise<void> => {
      while (again && !ended) {
        again = false
        await send()
      }
    }
    work()
      .catch((error: unknown) => {
        if (!(error instanceof ApiError)) deps.log.warn({ err: error, clientId }, 'a feed is broken off; its reader comes back')
        end()
      })
      .finally(() => {
        reading = false
      })
  }

  raw.on('close', end)
  raw.on('error', end)
  raw.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
  })
  raw.write('retry: 1000\n\n')
  open.add(end)
  const unfollow = feed.follow(clientId, catchUp)
  const heartbeat = setInterval(() => {
    raw.write(': still here\n\n')
    // A change that no notification told of is found here, and a key that has ended.
    catchUp()
  }, HEARTBEAT_MS)
  catchUp()
}
