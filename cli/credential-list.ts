import { command, withApi } from './context.ts'
import { plain, table } from './output.ts'

interface CredentialPage {
  readonly credentials: readonly {
    readonly credentialId: string
    readonly name: string
    readonly environment: string
    readonly clientId: string
    readonly clientName: string
  }[]
  readonly next?: string
}

const CLIENT_ID = /^cli_/

export const listCommand = () =>
  command('list', 'list credentials, and whose they are')
    .option('--client <client>', 'of this client alone: an id, or a name')
    .option('--after <credential>', 'those after this one')
    .action(
      withApi(async ({ api, output }, { client, after }: { client?: string; after?: string }) => {
        const of = client === undefined ? {} : CLIENT_ID.test(client) ? { client } : { clientName: client }
        const page = await api.get<CredentialPage>('/v1/credentials', { ...of, after })
        output.result(page, () =>
          page.credentials.length === 0
            ? 'no credentials'
            : table(
                ['credential', 'name', 'environment', 'client', 'client name'],
                page.credentials.map((each) => [
                  each.credentialId,
                  plain(each.name),
                  each.environment,
                  each.clientId,
                  plain(each.clientName),
                ]),
              ),
        )
        if (page.next !== undefined) output.note(`There are more: --after ${page.next}`)
      }),
    )
