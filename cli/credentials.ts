import { ENVIRONMENTS } from '@keyturn/contract'
import { Command, Option } from 'commander'
import type { CredentialAnswer } from './answers.ts'
import { command, withApi } from './context.ts'
import { credentialText } from './rendering.ts'

interface Created {
  readonly credentialId: string
  readonly keyId: string
  readonly claimUrl: string
  readonly claimExpiresAt: string
  readonly propagated: boolean
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
        .action(
          withApi(async ({ api, output }, clientId: string, body: { name: string; environment: string; scopes: string[] }) => {
            const { name, environment, scopes } = body
            const path = `/v1/clients/${encodeURIComponent(clientId)}/credentials`
            const created = await api.post<Created>(path, { name, environment, scopes })
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
