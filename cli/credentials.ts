import { ENVIRONMENTS } from '@keyturn/contract/environment'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { CredentialAnswer } from './answers.ts'
import { command, withApi } from './context.ts'
import { collectWords } from './options.ts'
import { plain, table } from './output.ts'
import { permissionsCommand, restriction } from './permissions.ts'
import { clock, credentialText } from './rendering.ts'

interface CreateOptions {
  readonly client: string
  readonly name: string
  readonly environment: string
  readonly scope?: readonly string[]
  readonly address?: readonly string[]
  readonly method?: readonly string[]
  readonly label?: Readonly<Record<string, string>>
}

interface UnusedPage {
  readonly credentials: readonly {
    readonly credentialId: string
    readonly clientId: string
    readonly name: string
    readonly environment: string
    readonly lastUsedAt?: string
  }[]
  readonly next?: string
}

interface Created {
  readonly credentialId: string
  readonly keyId: string
  readonly claimUrl: string
  readonly claimExpiresAt: string
  readonly propagated: boolean
}

const withLabel = (term: string, before: Record<string, string> = {}): Record<string, string> => {
  const equals = term.indexOf('=')
  if (equals < 1) throw new InvalidArgumentError('A label looks like team=rates.')
  return { ...before, [term.slice(0, equals)]: term.slice(equals + 1) }
}

export function credentialCommands(): Command {
  return new Command('credential')
    .description('what clients hold: one slot, and its keys over time')
    .addCommand(
      command('create', 'create a credential with its first key')
        .requiredOption('--client <client>', 'whose it is')
        .requiredOption('--name <name>')
        .addOption(new Option('--environment <environment>').choices(ENVIRONMENTS).makeOptionMandatory())
        .option('--scope <scope>', 'what its keys may do; may be given more than once, or with commas', collectWords)
        .option('--address <block>', 'from where alone: an address or a CIDR block; may be given more than once', collectWords)
        .option('--method <method>', 'with which HTTP methods alone; may be given more than once', collectWords)
        .option('--label <name=value>', 'for selectors: team=rates; may be given more than once', withLabel)
        .action(
          withApi(async ({ api, output }, { client, name, environment, scope = [], address, method, label }: CreateOptions) => {
            const path = `/v1/clients/${encodeURIComponent(client)}/credentials`
            const created = await api.post<Created>(path, {
              name,
              environment,
              scopes: scope,
              labels: label,
              ...restriction(address, method),
            })
            output.result(created, () =>
              [
                `${created.credentialId}  key ${created.keyId}`,
                `Give the client this address; a POST to it hands out the secret, once, until ${created.claimExpiresAt}:`,
                created.claimUrl,
              ].join('\n'),
            )
            if (!created.propagated) output.note('Not every gateway knows the key yet; it follows by itself.')
          }),
        ),
    )
    .addCommand(permissionsCommand())
    .addCommand(
      command('unused', 'list those that nobody has used for 90 days')
        .option('--after <credential>', 'those after this one')
        .action(
          withApi(async ({ api, output }, { after }: { after?: string }) => {
            const page = await api.get<UnusedPage>('/v1/unused-credentials', { after })
            output.result(page, () =>
              page.credentials.length === 0
                ? 'no unused credentials'
                : table(
                    ['credential', 'name', 'environment', 'client', 'last used'],
                    page.credentials.map((unused) => [
                      unused.credentialId,
                      plain(unused.name),
                      unused.environment,
                      unused.clientId,
                      unused.lastUsedAt === undefined ? 'never' : clock(unused.lastUsedAt),
                    ]),
                  ),
            )
            if (page.next !== undefined) output.note(`There are more: --after ${page.next}`)
          }),
        ),
    )
    .addCommand(
      command('show', 'show a credential, its keys, and who still uses the old one')
        .argument('<credential>')
        .action(
          withApi(async ({ api, output }, credentialId: string) => {
            const credential = await api.get<CredentialAnswer>(`/v1/credentials/${encodeURIComponent(credentialId)}`)
            output.result(credential, () => credentialText(credential))
          }),
        ),
    )
}
