import { Command } from 'commander'
import { command, withApi } from './context.ts'
import { collect } from './options.ts'
import { plain } from './output.ts'

interface ClientAnswer {
  readonly clientId: string
  readonly name: string
  readonly contacts: readonly { readonly url: string }[]
}

const clientText = ({ clientId, name, contacts }: ClientAnswer): string =>
  [`${clientId}  ${plain(name)}`, ...contacts.map(({ url }) => `webhook  ${plain(url)}`)].join('\n')

export function clientCommands(): Command {
  return new Command('client')
    .description('accounts that call your API')
    .addCommand(
      command('create', 'create a client')
        .requiredOption('--name <name>')
        .option('--webhook <url>', 'where to tell it of rotations; may be given more than once', collect)
        .action(
          withApi(async ({ api, output }, { name, webhook = [] }: { name: string; webhook?: string[] }) => {
            const contacts = webhook.map((url) => ({ channel: 'webhook', url }))
            const client = await api.post<ClientAnswer>('/v1/clients', { name, contacts })
            output.result(client, () => clientText(client))
          }),
        ),
    )
    .addCommand(
      command('show', 'show a client')
        .argument('<client>')
        .action(
          withApi(async ({ api, output }, clientId: string) => {
            const client = await api.get<ClientAnswer>(`/v1/clients/${encodeURIComponent(clientId)}`)
            output.result(client, () => clientText(client))
          }),
        ),
    )
}
