import { Command, InvalidArgumentError } from 'commander'
import { loadConfig } from '../infra/config.ts'
import { command, outputOf, withApi } from './context.ts'
import { EXIT } from './failure.ts'
import { plain, table } from './output.ts'
import { clock } from './rendering.ts'
import { serverEnvironment } from './settings.ts'

interface AuditPage {
  readonly entries: readonly {
    readonly seq: number
    readonly at: string
    readonly actor: string
    readonly action: string
    readonly subject: string
    readonly detail: { readonly reason?: unknown }
  }[]
}

interface ListOptions {
  readonly subject?: string
  readonly rotation?: string
  readonly after?: string
  readonly limit?: string
}

function wholeNumber(text: string): string {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('Give a whole number.')
  return text
}

export function auditCommands(): Command {
  return new Command('audit')
    .description('what was changed, by whom, and why')
    .addCommand(
      command('list', 'list entries, oldest first')
        .option('--subject <id>', 'of this key, rotation, credential, client or gateway')
        .option('--rotation <rotation>', 'of this rotation')
        .option('--after <seq>', 'those after this one', wholeNumber)
        .option('--limit <count>', 'how many', wholeNumber)
        .action(
          withApi(async ({ api, output }, { subject, rotation, after, limit }: ListOptions) => {
            const page = await api.get<AuditPage>('/v1/audit', { subject, rotation, after, limit })
            output.result(page, () =>
              table(
                ['seq', 'at', 'actor', 'action', 'subject', 'reason'],
                page.entries.map(({ seq, at, actor, action, subject: of, detail }) => [
                  String(seq),
                  clock(at),
                  plain(actor),
                  action,
                  of,
                  typeof detail.reason === 'string' ? plain(detail.reason) : '',
                ]),
              ),
            )
          }),
        ),
    )
    .addCommand(command('verify', 'check the chain of the audit log, in the database itself').action(verify))
}

async function verify(_options: object, self: Command): Promise<void> {
  const output = outputOf(self)
  const { postgresUrl } = loadConfig(serverEnvironment(process.env, process.cwd()), ['postgres'])
  const [{ openDatabase }, { verifyAudit }] = await Promise.all([
    import('../registry/database.ts'),
    import('../registry/audit.ts'),
  ])
  const db = openDatabase(postgresUrl, { applicationName: 'keyturn-cli', max: 1 })
  try {
    const verdict = await verifyAudit(db)
    output.result(verdict, () =>
      verdict.ok
        ? `The audit log is whole: ${verdict.entries} entries`
        : output.paint('red', `The audit log is broken: entry ${verdict.seq} ${verdict.flaw}`),
    )
    if (!verdict.ok) process.exitCode = EXIT.failed
  } finally {
    await db.close()
  }
}
