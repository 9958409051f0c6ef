/** Fastify servers of one route in a process of their own, one with our plugin: it says on which ports, and what time it has used. */
import { generateKeyPairSync, hash } from 'node:crypto'
import { isSessionToken } from '@keyturn/contract'
import { createLog, createVerify, KeyCache } from '@keyturn/gateway'
import { keyturn } from '@keyturn/gateway/fastify'
import { type FastifyInstance, fastify } from 'fastify'
import { createAuthenticate } from '../../gateway/src/authenticate.ts'
import { BadTokens } from '../../gateway/src/bad-tokens.ts'
import { createEntrance } from '../../gateway/src/entrance.ts'
import { MemoryGuard } from '../../gateway/src/replay/memory.ts'
import { createSessionTurn } from '../../gateway/src/session-turn.ts'
import { createSessions } from '../../gateway/src/sessions.ts'
import { createAuthenticateSigned } from '../../gateway/src/signatures/authenticate.ts'
import { DEFAULT_SIGNING } from '../../gateway/src/signatures/settings.ts'
import { SigningKeys } from '../../gateway/src/signatures/signing-keys.ts'
import { Turnstile } from '../../gateway/src/turnstile.ts'
import type { Usage } from '../../gateway/src/usage.ts'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import { recordOf, SESSION_KID } from '../keys.ts'

export interface ServerStarted {
  readonly bare: string
  readonly least: string
  readonly guarded: string
  /** As `guarded`, with the usual limit of bad tokens. */
  readonly limited: string
}

/** The gateway's decision with everything that it counts, and without Kafka. */
function openGateway(tokens: readonly string[], perSecond: number) {
  const cache = new KeyCache()
  for (const [i, token] of tokens.entries()) cache.apply(recordOf(i, token))
  const usage = new UsageWindow(Date.now())
  const log = createLog('silent')
  const badTokens = new BadTokens({ perSecond, clock: Date.now })
  const turnstile = new Turnstile({ badTokens })
  const { publicKey } = generateKeyPairSync('ed25519')
  const keys = { get: (kid: string) => (kid === SESSION_KID ? publicKey : undefined), missing: () => false, isStale: () => false }
  const sessions = createSessions({ keys, cache, environments: ['prod'], failClosed: () => false })
  const verify = createVerify(cache, ['prod'])
  const common = {
    usage: {
      count: (...[keyId, outcome, source]: Parameters<Usage['count']>) => usage.count(keyId, outcome, Date.now(), source),
    },
    clock: Date.now,
    freshness: () => 'fresh' as const,
    failClosed: () => false,
    retryAfterSeconds: 5,
    onOutcome: () => undefined,
    badTokens,
  }
  const shown = createAuthenticate({
    ...common,
    verify: (token, now) => (isSessionToken(token) ? sessions.verify(token, now) : verify(token, now)),
  })
  const windowMs = 60_000
  const replay = new MemoryGuard({ windowMs, capacity: 100_000, reorder: 16, startedAt: 0, failOpen: () => false, log })
  const signed = createAuthenticateSigned({
    ...common,
    cache,
    environments: ['prod'],
    keys: new SigningKeys({ cache, keks: [], log }),
    replay,
    turnstile,
    windowMs,
    settings: DEFAULT_SIGNING,
  })
  const authenticate = createEntrance(createSessionTurn(shown, { ...common, sessions, turnstile }), signed)
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
  const guard = (perSecond: number) => async (app: FastifyInstance) =>
    void (await app.register(keyturn, { gateway: openGateway(tokens, perSecond), scopes: [] }))
  const started: ServerStarted = {
    bare: await serve(),
    least: await serve(leastHook(tokens)),
    // Floods are measured as they come; held back they would be none.
    guarded: await serve(guard(0)),
    limited: await serve(guard(20)),
  }
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send?.(user + system)
  })
  process.send?.(started)
})
process.once('disconnect', () => process.exit(0))
