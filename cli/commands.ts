/** Every command, in the order of the help. */
import type { Command } from 'commander'
import { agentCommand } from './agent.ts'
import { auditCommands } from './audit.ts'
import { claimCommand } from './claim.ts'
import { clientCommands } from './clients.ts'
import { command, withApi } from './context.ts'
import { credentialCommands } from './credentials.ts'
import { drillCommand } from './drill.ts'
import { gatewayCommands } from './gateways.ts'
import { importCommands } from './imports.ts'
import { leakCommands } from './leaks.ts'
import { notifyCommands } from './notify.ts'
import { orderCommands } from './orders.ts'
import { policyCommands } from './policies.ts'
import { recoverCommand } from './recover.ts'
import { republishCommand } from './republish.ts'
import { resealCommand } from './reseal.ts'
import { rolloverCommands } from './rollovers.ts'
import { emergencyCommand, rotateCommand, statusCommand } from './rotations.ts'
import { scanCommand } from './scan.ts'
import { signingKeyCommands } from './signing-keys.ts'

export const everyCommand = (): Command[] => [
  clientCommands(),
  credentialCommands(),
  rotateCommand(),
  emergencyCommand(),
  statusCommand(),
  ...orderCommands(),
  claimCommand(),
  rolloverCommands(),
  policyCommands(),
  leakCommands(),
  scanCommand(),
  importCommands(),
  notifyCommands(),
  gatewayCommands(),
  agentCommand(),
  signingKeyCommands(),
  auditCommands(),
  republishCommand(),
  recoverCommand(),
  resealCommand(),
  drillCommand(),
  command('openapi', 'print the description of the HTTP API').action(
    withApi(async ({ api, output }) => {
      const description = await api.get<object>('/openapi.json')
      output.result(description, () => JSON.stringify(description, null, 2))
    }),
  ),
]
