import { Command } from 'commander'
import { command, withApi } from './context.ts'
import { table } from './output.ts'
import { clock } from './rendering.ts'

interface SigningKeyList {
  readonly signingKeys: readonly {
    readonly kid: string
    readonly signsFrom: string
    readonly signsUntil?: string
    readonly publishedUntil?: string
  }[]
}

export function signingKeyCommands(): Command {
  return new Command('signing-keys')
    .description('the keys that session tokens are signed with; they rotate by themselves')
    .addCommand(
      command('list', 'list those that are published').action(
        withApi(async ({ api, output }) => {
          const list = await api.get<SigningKeyList>('/v1/signing-keys')
          const when = (time: string | undefined): string => (time === undefined ? '' : clock(time))
          output.result(list, () =>
            table(
              ['key', 'signs from', 'until', 'published until'],
              list.signingKeys.map(({ kid, signsFrom, signsUntil, publishedUntil }) => [
                kid,
                clock(signsFrom),
                when(signsUntil),
                when(publishedUntil),
              ]),
            ),
          )
        }),
      ),
    )
    .addCommand(
      command('rotate', 'have another key sign, from ten minutes on')
        .requiredOption('--reason <text>', 'for the audit log')
        .option('--compromised', 'somebody else has the key: it is gone at once, and every session with it')
        .action(
          withApi(async ({ api, output }, { reason, compromised }: { reason: string; compromised?: true }) => {
            const body = { reason, ...(compromised === undefined ? {} : { compromised }) }
            const answer = await api.post<{ kid: string; signsFrom: string }>('/v1/signing-keys/rotate', body)
            output.result(answer, () => `${answer.kid} signs from ${clock(answer.signsFrom)}`)
          }),
        ),
    )
}
