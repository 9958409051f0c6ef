import { Command } from 'commander'
import { command, outputOf, withApi } from './context.ts'
import { EXIT } from './failure.ts'
import { wholeNumber } from './options.ts'
import { plain, table } from './output.ts'
import { clock } from './rendering.ts'
import { serverConfig, withRegistry } from './servers.ts'

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
  const { postgresUrl } = await serverConfig(['postgres'])
  const { verifyAudit } = await import('../registry/audit.ts')
  const verdict = await withRegistry(postgresUrl, 1, verifyAudit)
  output.result(verdict, () =>
    verdict.ok
      ? `The audit log is whole: ${verdict.entries} entries`
      : output.paint(
          'red',
          `The audit log is broken: entry ${verdict.seq} ${verdict.flaw === 'missing' ? 'is missing' : verdict.flaw}`,
        ),
  )
  if (!verdict.ok) process.exitCode = EXIT.failed
}
