/** A gateway that starts from nothing, says what it holds once it is ready, a key a line, and ends. Configured as any gateway. */
import { createGateway, createLog, loadConfig } from '@keyturn/gateway'
import { linesOf } from './key-lines.ts'

const config = loadConfig()
const gateway = createGateway({
  kafka: { brokers: config.kafkaBrokers, topics: config.topics },
  gatewayId: config.gatewayId,
  region: config.region,
  environments: config.environments,
  failClosed: config.failClosed,
  stalenessMs: config.stalenessMs,
  heartbeatMs: config.heartbeatMs,
  usageWindowMs: config.usageWindowMs,
  log: createLog('silent'),
})
await gateway.start()
const lines = linesOf(gateway.cache)
await gateway.stop()
process.stdout.write(`${lines.join('\n')}\n`, () => process.exit(0))
