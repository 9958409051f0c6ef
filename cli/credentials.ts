import { readFile } from 'node:fs/promises'
import { ENVIRONMENTS } from '@keyturn/contract/environment'
import { KEY_KINDS, type KeyKind } from '@keyturn/contract/key-kind'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { CredentialAnswer } from './answers.ts'
import { claimText } from './claim.ts'
import { command, withApi } from './context.ts'
import { listCommand } from './credential-list.ts'
import { readDeliveryFile } from './delivery.ts'
import { UsageFailure } from './failure.ts'
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
  readonly sequence?: 'required'
  readonly label?: Readonly<Record<string, string>>
  readonly kind?: KeyKind
  readonly publicKey?: string
  readonly delivery?: string
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
  readonly kind: KeyKind
  /** Absent where the public key is enrolled already. */
  readonly claimUrl?: string
  readonly claimPage?: string
  readonly claimExpiresAt?: string
  readonly propagated: boolean
}

const withLabel = (term: string, before: Record<string, string> = {}): Record<string, string> => {
  const equals = term.indexOf('=')
  if (equals < 1) throw new InvalidArgumentError('A label looks like team=rates.')
  return { ...before, [term.slice(0, equals)]: term.slice(equals + 1) }
}

function createdText({ credentialId, keyId, kind, claimUrl, claimPage, claimExpiresAt }: Created): string {
  const first = `${credentialId}  key ${keyId}`
  if (claimUrl === undefined) return `${first}\nThe client signs with the pair that it has: its public key is enrolled.`
  return `${first}\n${claimText({ kind, claimUrl, claimPage, claimExpiresAt })}`
}

/** Sent as it is: the API knows the forms. A private key must not leave this machine. */
async function readKeyFile(file: string): Promise<string> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new UsageFailure(`${file} can not be read (${error.code ?? 'error'})`, 'Give the path of a public key.', {
      cause: error,
    })
  })
  if (/PRIVATE KEY-----/.test(text))
    throw new UsageFailure(`${file} holds a private key`, 'Nothing was sent. Give the public half: openssl pkey -in FILE -pubout')
  return text.trim()
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
        .addOption(
          new Option('--sequence <sequence>', 'of keys that sign: every request has to be numbered').choices(['required']),
        )
        .option('--label <name=value>', 'for selectors: team=rates; may be given more than once', withLabel)
        .addOption(
          new Option('--kind <kind>', 'how its keys are shown: sent, or used to sign requests (bearer unless given)').choices(
            KEY_KINDS,
          ),
        )
        .option('--public-key <file>', "of --kind ed25519: the client's public key, so that there is nothing left to enrol")
        .option('--delivery <file>', 'how its new keys reach the client: a JSON file, as docs/delivery.md has it')
        .action(
          withApi(async ({ api, output }, { client, address, method, sequence, publicKey: file, ...options }: CreateOptions) => {
            const { name, environment, scope = [], label, kind } = options
            const publicKey = file === undefined ? undefined : await readKeyFile(file)
            const delivery = options.delivery === undefined ? undefined : await readDeliveryFile(options.delivery)
            const path = `/v1/clients/${encodeURIComponent(client)}/credentials`
            const created = await api.post<Created>(path, {
              name,
              environment,
              scopes: scope,
              labels: label,
              kind,
              publicKey,
              delivery,
              ...restriction(address, method, sequence),
            })
            output.result(created, () => createdText(created))
            if (!created.propagated) output.note('Not every gateway knows the key yet; it follows by itself.')
          }),
        ),
    )
    .addCommand(permissionsCommand())
    .addCommand(listCommand())
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
