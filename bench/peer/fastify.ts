/** Two Fastify servers of one route in a process of their own, one with our plugin: it says on which ports, and what time it has used. */
import { createVerify, KeyCache } from '@keyturn/gateway'
import { keyturn } from '@keyturn/gateway/fastify'
import { fastify } from 'fastify'
import { createAuthenticate } from '../../gateway/src/authenticate.ts'
import { BadTokens } from '../../gateway/src/bad-tokens.ts'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import { recordOf } from '../keys.ts'

export interface ServerStarted {
  readonly bare: string
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

async function serve(gateway?: ReturnType<typeof openGateway>): Promise<string> {
  const app = fastify()
  if (gateway !== undefined) await app.register(keyturn, { gateway, scopes: [] })
  app.get('/orders/:id', async () => ({ id: 7, state: 'filled', price: '101.25', at: '2026-01-15T12:00:00.000Z' }))
  return app.listen({ host: '127.0.0.1', port: 0 })
}

process.once('message', async (tokens: readonly string[]) => {
  const started: ServerStarted = { bare: await serve(), guarded: await serve(openGateway(tokens)) }
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send?.(user + system)
  })
  process.send?.(started)
})
process.once('disconnect', () => process.exit(0))
