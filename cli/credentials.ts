import { ENVIRONMENTS } from '@keyturn/contract'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { CredentialAnswer } from './answers.ts'
import { command, withApi } from './context.ts'
import { credentialText } from './rendering.ts'

interface CreateOptions {
  readonly name: string
  readonly environment: string
  readonly scopes: string[]
  readonly label?: Record<string, string>
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

const scopesOf = (text: string): string[] => text.split(/[\s,]+/).filter((scope) => scope !== '')

export function credentialCommands(): Command {
  return new Command('credential')
    .description('what clients hold: one slot, and its keys over time')
    .addCommand(
      command('create', 'create a credential with its first key')
        .argument('<client>')
        .requiredOption('--name <name>')
        .addOption(new Option('--environment <environment>').choices(ENVIRONMENTS).makeOptionMandatory())
        .option('--scopes <scopes>', 'with commas between them', scopesOf, [])
        .option('--label <name=value>', 'for selectors: team=rates; may be given more than once', withLabel)
        .action(
          withApi(async ({ api, output }, clientId: string, options: CreateOptions) => {
            const { name, environment, scopes, label: labels } = options
            const path = `/v1/clients/${encodeURIComponent(clientId)}/credentials`
            const created = await api.post<Created>(path, { name, environment, scopes, labels })
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
