/** A gateway that starts from nothing, says what it holds once it is ready, a key a line, and ends. Configured as any gateway. */
import { createGateway, createLog, gatewayOptionsOf, loadConfig } from '@keyturn/gateway'
import { linesOf } from './key-lines.ts'

const gateway = createGateway({ ...gatewayOptionsOf(loadConfig()), log: createLog('silent') })
await gateway.start()
const lines = linesOf(gateway.cache)
await gateway.stop()
process.stdout.write(`${lines.join('\n')}\n`, () => process.exit(0))
