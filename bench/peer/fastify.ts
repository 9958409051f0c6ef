/** Fastify servers of one route in a process of their own, one with our plugin: it says on which ports, and what time it has used. */
import { hash } from 'node:crypto'
import { createVerify, KeyCache } from '@keyturn/gateway'
import { keyturn } from '@keyturn/gateway/fastify'
import { type FastifyInstance, fastify } from 'fastify'
import { createAuthenticate } from '../../gateway/src/authenticate.ts'
import { BadTokens } from '../../gateway/src/bad-tokens.ts'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import { recordOf } from '../keys.ts'

export interface ServerStarted {
  readonly bare: string
  readonly least: string
  readonly guarded: string
}

/** The gateway's decision with everything that it counts, and without Kafka. */
function openGateway(tokens: readonly string[]) {
  const cache = new KeyCache()
  for (const [i, token] of tokens.entries()) cache.apply(recordOf(i, token))
  const usage = new UsageWindow(Date.now())
  const authenticate = createAuthenticate({
    verify: createVerify(cache, ['prod']),
    usage: { count: (keyId, outcome, source) => usage.count(keyId, outcome, Date.now(), source) },
    clock: Date.now,
    freshness: () => 'fresh',
    failClosed: () => false,
    retryAfterSeconds: 5,
    onOutcome: () => undefined,
    // The flood is measured as it comes: held back, it would be none.
    badTokens: new BadTokens({ perSecond: 0, clock: Date.now }),
  })
  return { authenticate, refusedUpstream: () => undefined, follow: () => () => undefined }
}

/** What can't be left out, and nothing else: no scopes, no count, the key stays in the request. */
function leastHook(tokens: readonly string[]) {
  const known = new Map(tokens.map((token) => [hash('sha256', token, 'base64'), { state: 'active' }]))
  return (app: FastifyInstance): void => {
    app.addHook('onRequest', (request, reply, next) => {
      const token = request.headers.authorization?.slice('Bearer '.length) ?? ''
      if (known.get(hash('sha256', token, 'base64'))?.state === 'active') next()
      else reply.code(401).send()
    })
  }
}

async function serve(prepare: (app: FastifyInstance) => unknown = () => undefined): Promise<string> {
  const app = fastify()
  await prepare(app)
  app.get('/orders/:id', async () => ({ id: 7, state: 'filled', price: '101.25', at: '2026-01-15T12:00:00.000Z' }))
  return app.listen({ host: '127.0.0.1', port: 0 })
}

process.once('message', async (tokens: readonly string[]) => {
  const gateway = openGateway(tokens)
  const started: ServerStarted = {
    bare: await serve(),
    least: await serve(leastHook(tokens)),
    guarded: await serve(async (app) => void (await app.register(keyturn, { gateway, scopes: [] }))),
  }
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send?.(user + system)
  })
  process.send?.(started)
})
process.once('disconnect', () => process.exit(0))
