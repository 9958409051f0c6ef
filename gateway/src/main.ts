#!/usr/bin/env node
/** The gateway process: `keyturn-gateway` or, to be asked by another proxy, `keyturn-gateway auth`. SIGTERM or SIGINT drains it and ends it within ten seconds, or later by as much as it is set to go on taking requests for longer; a second one ends it at once. */
import { TransitError, withUnwrappedKeks } from '@keyturn/contract'
import { collectDefaultMetrics } from 'prom-client'
import { ConfigError, type GatewayConfig, gatewayOptionsOf, loadConfig } from './config.ts'
import { createForwardAuth } from './forward-auth.ts'
import { createGateway } from './gateway.ts'
import { createLog } from './log.ts'
import { createProxy } from './proxy.ts'
import { startServer } from './server.ts'
import type { Tracer } from './tracing.ts'

// With the second before, in which it still takes requests: ten seconds at most.
const DRAIN_MS = 4_000
const GOODBYE_MS = 4_500

async function configure(): Promise<GatewayConfig> {
  try {
    const [mode] = process.argv.slice(2)
    const env = await withUnwrappedKeks(process.env)
    return loadConfig(mode === undefined ? env : { ...env, KEYTURN_GATEWAY_MODE: mode })
  } catch (error) {
    if (!(error instanceof ConfigError || error instanceof TransitError)) throw error
    process.stderr.write(`keyturn-gateway: ${error.message}\n`)
    process.exit(2)
  }
}

/** OpenTelemetry's, where it is installed: its API hands out a tracer that does nothing unless an SDK was loaded before (`--import`). */
const findTracer = (): Promise<Tracer | undefined> =>
  import('@opentelemetry/api').then(
    ({ trace }) => trace.getTracer('@keyturn/gateway'),
    () => undefined,
  )

async function main(): Promise<void> {
  const config = await configure()
  const log = createLog(config.logLevel)
  const gateway = createGateway({ ...gatewayOptionsOf(config), log, tracer: await findTracer() })
  collectDefaultMetrics({ register: gateway.metrics })
  const {
    upstream,
    scopes,
    routes,
    askers,
    trustedProxies,
    upstreamTimeoutMs,
    clientTimeoutMs: clientMs,
    listen,
    opsListen,
    drainNoticeMs,
  } = config
  const proxy =
    upstream === undefined
      ? createForwardAuth({ gateway, askers, trustedProxies, log })
      : createProxy({ gateway, upstream, trustedProxies, upstreamTimeoutMs, log, scopes, routes })
  const server = await startServer({ gateway, proxy, listen, opsListen, idleMs: upstreamTimeoutMs + 30_000, clientMs, log })
  log.info({ url: server.url, ops: server.opsUrl, upstream: upstream?.href }, 'gateway listens')

  let stopping = false
  const shutDown = async (signal: NodeJS.Signals): Promise<void> => {
    if (stopping) process.exit(1)
    stopping = true
    log.info({ signal }, 'gateway drains')
    if (!(await server.drain(DRAIN_MS, drainNoticeMs))) log.warn('some requests were not finished in time')
    await gateway.stop(GOODBYE_MS)
    await server.close()
    process.exit(0)
  }
  process.on('SIGTERM', (signal) => void shutDown(signal))
  process.on('SIGINT', (signal) => void shutDown(signal))
  try {
    await gateway.start()
  } catch (error) {
    if (!stopping) throw error
  }
}

main().catch((error: unknown) => {
  const { name, message } = error instanceof Error ? error : new Error(String(error))
  process.stderr.write(`keyturn-gateway: ${name}: ${message}\n`)
  process.exit(1)
})
