/** `keyturn client update`: what is not given stays as it is. */
import { LANGUAGES, type Language, type QuietHours, TELL, type Tell, TIME_OF_DAY_PATTERN } from '@keyturn/contract/channels'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type ClientAnswer, pathOf } from './client-answer.ts'
import { type ClientChange, changeClient } from './client-change.ts'
import { command, withApi } from './context.ts'
import { UsageFailure } from './failure.ts'

interface UpdateOptions {
  readonly name?: string
  readonly language?: Language
  readonly timeZone?: string
  /** false: none any more. */
  readonly quietHours?: QuietHours | false
  readonly tell?: Tell
  readonly dryRun?: boolean
}

function quietHours(text: string): QuietHours {
  const [from = '', to = '', ...more] = text.split('-')
  const isTime = (time: string): boolean => new RegExp(TIME_OF_DAY_PATTERN).test(time)
  if (more.length > 0 || !isTime(from) || !isTime(to)) throw new InvalidArgumentError('Give a span like 22:00-07:00.')
  return { from, to }
}

export const updateClientCommand = (): Command =>
  command('update', 'change how a client is told; what is not given stays as it is')
    .argument('<client>')
    .option('--name <name>')
    .addOption(new Option('--language <language>', 'in which people are written to').choices(LANGUAGES))
    .option('--time-zone <zone>', 'as the IANA names it: Europe/Berlin')
    .option('--quiet-hours <span>', 'when reminders wait: 22:00-07:00, of its time zone', quietHours)
    .option('--no-quiet-hours', 'reminders wait no more')
    .addOption(new Option('--tell <whom>', 'the first contact that can be reached, or all').choices(TELL))
    .option('--dry-run', 'show what would change, and change nothing')
    .action(
      withApi(async (context, clientId: string, { dryRun = false, quietHours: hours, ...rest }: UpdateOptions) => {
        const change: ClientChange = { ...rest, ...(hours === undefined ? {} : { quietHours: hours === false ? null : hours }) }
        if (Object.keys(change).length === 0) throw new UsageFailure('What is to change?', 'See: keyturn client update --help')
        await changeClient(context, await context.api.get<ClientAnswer>(pathOf(clientId)), change, dryRun)
      }),
    )
