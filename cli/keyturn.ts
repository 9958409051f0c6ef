/** The `keyturn` command. Exit codes: 0 done, 1 failed, 2 called in a way that can not work. */
import { Command, CommanderError } from 'commander'
import { outputOf } from './context.ts'
import { EXIT, exitCodeOf } from './failure.ts'
import { scanCommand } from './scan.ts'

const program = new Command('keyturn')
  .description('Rotates the API keys of your clients without losing a request.')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    '\nThe API and the operator token come from KEYTURN_API and KEYTURN_TOKEN, else from .keyturn/local.json\n(KEYTURN_STATE names another directory than .keyturn).\nDurations: 14d, 1h30m, 90s, or ISO 8601.',
  )

// Hooks call `scan` all the time: nothing is loaded that it has no need of.
const called = process.argv.slice(2).find((word) => !word.startsWith('-'))
const commands = called === 'scan' ? [scanCommand()] : (await import('./commands.ts')).everyCommand()
for (const each of commands) program.addCommand(each)

function throwInsteadOfExiting(self: Command, path: string): void {
  self.exitOverride()
  self.showHelpAfterError(`See \`${path} --help\`.`)
  for (const each of self.commands) throwInsteadOfExiting(each, `${path} ${each.name()}`)
}

throwInsteadOfExiting(program, program.name())
// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) =>
  process.exit(error.code === 'EPIPE' ? process.exitCode : EXIT.failed),
)
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
