/** The `keyturn` command. Exit codes: 0 done, 1 failed, 2 called in a way that can not work. */
import { Command, CommanderError } from 'commander'
import { ConfigError } from '../infra/config.ts'
import { auditCommands } from './audit.ts'
import { clientCommands } from './clients.ts'
import { command, outputOf, withApi } from './context.ts'
import { credentialCommands } from './credentials.ts'
import { EXIT, UsageFailure } from './failure.ts'
import { gatewayCommands } from './gateways.ts'
import { orderCommands } from './orders.ts'
import { republishCommand } from './republish.ts'
import { emergencyCommand, rotateCommand, statusCommand } from './rotations.ts'

const program = new Command('keyturn')
  .description('Rotates the API keys of your clients without losing a request.')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    '\nThe API and the operator token come from KEYTURN_API and KEYTURN_TOKEN, else from .keyturn/local.json.\nDurations: 14d, 1h30m, 90s, or ISO 8601.',
  )

program.addCommand(clientCommands())
program.addCommand(credentialCommands())
program.addCommand(rotateCommand())
program.addCommand(emergencyCommand())
program.addCommand(statusCommand())
for (const order of orderCommands()) program.addCommand(order)
program.addCommand(gatewayCommands())
program.addCommand(auditCommands())
program.addCommand(republishCommand())
program.addCommand(
  command('openapi', 'print the description of the HTTP API').action(
    withApi(async ({ api, output }) => {
      const description = await api.get<object>('/openapi.json')
      output.result(description, () => JSON.stringify(description, null, 2))
    }),
  ),
)

function throwInsteadOfExiting(self: Command): void {
  self.exitOverride()
  self.configureOutput({ outputError: (text, write) => write(text) })
  for (const each of self.commands) throwInsteadOfExiting(each)
}

throwInsteadOfExiting(program)
// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.failed))
try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = exitCodeOf(error)
  // Commander has said already what was wrong.
  if (!(error instanceof CommanderError)) outputOf(program).fail(error)
}

function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage
  return error instanceof UsageFailure || error instanceof ConfigError ? EXIT.usage : EXIT.failed
}
