/** `keyturn drill <name>`: does on the local stack what a playbook says, and checks what has become of it. */
import { parseDuration } from '@keyturn/contract/duration'
import { Argument, type Command } from 'commander'
import { type Context, command, withApi } from './context.ts'
import { DRILLS } from './drills.ts'
import { EXIT, Failure } from './failure.ts'
import { connectControl } from './local-control.ts'
import { duration } from './options.ts'
import { practise } from './practice.ts'
import { localStack } from './settings.ts'

export const drillCommand = (): Command =>
  command('drill', 'practise a playbook on the local stack, and check what came of it')
    .addArgument(new Argument('<name>', 'which playbook').choices(Object.keys(DRILLS)))
    .addHelpText(
      'after',
      `\n${Object.entries(DRILLS)
        .map(([name, { about }]) => `  ${name.padEnd(20)} ${about}`)
        .join('\n')}`,
    )
    .option('--within <duration>', 'how long each point of the checklist may take', duration, '60s')
    .action(async (name: string, options: { within: string }, self: Command) => {
      // Before anything that speaks to an API.
      const local = localStack(process.env, process.cwd())
      await withApi((context: Context) => run(context, name, { ...local, withinMs: parseDuration(options.within) }))(self)
    })

async function run(
  context: Context,
  name: string,
  { api, gateways, directory, withinMs }: ReturnType<typeof localStack> & { readonly withinMs: number },
): Promise<void> {
  const drill = DRILLS[name]
  if (drill === undefined) throw new Failure(`There is no drill ${name}`)
  const { servers, steps } = drill
  const control = servers === undefined ? undefined : await connectControl(directory, servers)
  try {
    const order = control?.order ?? (() => Promise.reject(new Failure(`The drill ${name} has nothing to order`)))
    const checks = await practise(context, { gateways, order, apiUrl: api, withinMs }, steps)
    const { output } = context
    const failed = checks.filter(({ ok }) => !ok).length
    if (output.json) output.result({ drill: name, ok: failed === 0, checks }, () => '')
    else output.line(failed === 0 ? `${checks.length} of ${checks.length}: practised` : `${failed} of ${checks.length} failed`)
    if (failed > 0) process.exitCode = EXIT.failed
  } finally {
    await control?.end()
  }
}
