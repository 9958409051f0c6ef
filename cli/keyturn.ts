/** The `keyturn` command. Exit codes: 0 done, 1 failed, 2 called in a way that can not work. */
import { Command, CommanderError } from 'commander'
import { auditCommands } from './audit.ts'
import { clientCommands } from './clients.ts'
import { command, outputOf, withApi } from './context.ts'
import { credentialCommands } from './credentials.ts'
import { EXIT, exitCodeOf } from './failure.ts'
import { gatewayCommands } from './gateways.ts'
import { orderCommands } from './orders.ts'
import { republishCommand } from './republish.ts'
import { emergencyCommand, rotateCommand, statusCommand } from './rotations.ts'

const program = new Command('keyturn')
  .description('Rotates the API keys of your clients without losing a request.')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    '\nThe API and the operator token come from KEYTURN_API and KEYTURN_TOKEN, else from .keyturn/local.json\n(KEYTURN_STATE names another directory than .keyturn).\nDurations: 14d, 1h30m, 90s, or ISO 8601.',
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

function throwInsteadOfExiting(self: Command, path: string): void {
  self.exitOverride()
  self.showHelpAfterError(`See \`${path} --help\`.`)
  for (const each of self.commands) throwInsteadOfExiting(each, `${path} ${each.name()}`)
}

throwInsteadOfExiting(program, program.name())
// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.failed))
try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) {
    process.exitCode = exitCodeOf(error)
    outputOf(program).fail(error)
  } else if (error.exitCode !== 0) {
    // Commander has said already what was wrong, to people.
    process.exitCode = EXIT.usage
    if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify({ error: { title: sentence(error) } })}\n`)
  }
}

function sentence({ code, message }: CommanderError): string {
  return code === 'commander.help' ? 'a command is missing' : message.replace(/^error: /, '')
}
