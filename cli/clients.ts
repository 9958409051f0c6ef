import { Command } from 'commander'
import { type ClientAnswer, clientText, pathOf } from './client-answer.ts'
import { contactCommands } from './contacts.ts'
import { command, withApi } from './context.ts'
import { collect } from './options.ts'
import { updateClientCommand } from './update-client.ts'

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
      command('show', 'show a client, and how it is told')
        .argument('<client>')
        .action(
          withApi(async ({ api, output }, clientId: string) => {
            const client = await api.get<ClientAnswer>(pathOf(clientId))
            output.result(client, () => clientText(client))
          }),
        ),
    )
    .addCommand(updateClientCommand())
    .addCommand(contactCommands())
}
