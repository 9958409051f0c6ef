/** `keyturn client contacts`: where a client is told, in the order in which the contacts are tried. */
import { readFile } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { CHANNELS, type Channel } from '@keyturn/contract/channels'
import { Command } from 'commander'
import { type ClientAnswer, type Contact, contactsText, pathOf } from './client-answer.ts'
import { type ClientChange, changeClient, contactOf } from './client-change.ts'
import { command, withApi } from './context.ts'
import { UsageFailure } from './failure.ts'

interface AddOptions {
  readonly email?: string
  readonly webhook?: string
  readonly slack?: string
  readonly first?: true
  readonly dryRun?: boolean
}

const DRY_RUN = ['--dry-run', 'show what would change, and change nothing'] as const
const FORM = 'A list like [{"channel": "email", "address": "ops@acme.example"}], or {"contacts": […]}.'
const FIELDS = ['contacts', 'language', 'timeZone', 'quietHours', 'tell'] as const

export const contactCommands = (): Command =>
  new Command('contacts')
    .description('where a client is told')
    .addCommand(
      command('list', 'list its contacts, in the order in which they are tried')
        .argument('<client>')
        .action(
          withApi(async ({ api, output }, clientId: string) => {
            const client = await api.get<ClientAnswer>(pathOf(clientId))
            output.result({ contacts: client.contacts }, () => contactsText(client))
          }),
        ),
    )
    .addCommand(
      command('set', 'replace its contacts by those of a file: a JSON list, or an object with contacts and how it is told')
        .argument('<client>')
        .argument('[file]', 'standard input unless given')
        .option(...DRY_RUN)
        .action(
          withApi(async (context, clientId: string, file: string | undefined, { dryRun = false }: { dryRun?: boolean }) => {
            const change = await readChange(file)
            await changeClient(context, await context.api.get<ClientAnswer>(pathOf(clientId)), change, dryRun)
          }),
        ),
    )
    .addCommand(
      command('add', 'add one, as the last that is tried')
        .argument('<client>')
        .option('--email <address>')
        .option('--webhook <url>')
        .option('--slack <url>', 'a webhook of Slack, or of what understands the same')
        .option('--first', 'as the first that is tried')
        .option(...DRY_RUN)
        .action(
          withApi(async (context, clientId: string, { first, dryRun = false, ...given }: AddOptions) => {
            const contact = contactIn(given)
            const client = await context.api.get<ClientAnswer>(pathOf(clientId))
            const others = client.contacts.map(contactOf)
            const contacts = first === true ? [contact, ...others] : [...others, contact]
            await changeClient(context, client, { contacts }, dryRun)
          }),
        ),
    )
    .addCommand(
      command('remove', 'remove one')
        .argument('<client>')
        .argument('<contact>', 'its id, or its address')
        .option(...DRY_RUN)
        .action(
          withApi(async (context, clientId: string, which: string, { dryRun = false }: { dryRun?: boolean }) => {
            const client = await context.api.get<ClientAnswer>(pathOf(clientId))
            const isIt = ({ contactId, url, address }: ClientAnswer['contacts'][number]) =>
              [contactId, url, address].includes(which)
            if (!client.contacts.some(isIt))
              throw new UsageFailure(`${clientId} has no such contact`, `keyturn client contacts list ${clientId}`)
            const contacts = client.contacts.filter((contact) => !isIt(contact)).map(contactOf)
            await changeClient(context, client, { contacts }, dryRun)
          }),
        ),
    )

function contactIn({ email, webhook, slack }: AddOptions): Contact {
  const given: Contact[] = [
    ...(email === undefined ? [] : [{ channel: 'email' as const, address: email }]),
    ...(webhook === undefined ? [] : [{ channel: 'webhook' as const, url: webhook }]),
    ...(slack === undefined ? [] : [{ channel: 'slack' as const, url: slack }]),
  ]
  const [contact] = given
  if (contact === undefined || given.length > 1) throw new UsageFailure('Give one of --email, --webhook, --slack')
  return contact
}

/** What `client show --json` prints is taken, too. What the API says of contacts beside how to reach them is left out. */
async function readChange(file: string | undefined): Promise<ClientChange> {
  const where = file === undefined || file === '-' ? 'standard input' : file
  const value = parsed(where === file ? await readNamed(file) : await fromInput(), where)
  const fields = Array.isArray(value) ? { contacts: value } : value
  if (!isObject(fields) || !Array.isArray(fields['contacts']) || !fields['contacts'].every(isContact))
    throw new UsageFailure(`${where} holds no contacts; nothing was changed`, FORM)
  const told = FIELDS.filter((field) => fields[field] !== undefined).map((field) => [field, fields[field]])
  return { ...Object.fromEntries(told), contacts: fields['contacts'].map(contactOf) }
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isContact = (value: unknown): value is Contact => isObject(value) && CHANNELS.includes(value['channel'] as Channel)

async function fromInput(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('Contacts as JSON; Ctrl-D ends them:\n')
  return text(process.stdin)
}

const readNamed = (file: string): Promise<string> =>
  readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new UsageFailure(`${file} can not be read (${error.code ?? 'error'})`, 'Give the path of a JSON file.', {
      cause: error,
    })
  })

function parsed(json: string, where: string): unknown {
  try {
    return JSON.parse(json)
  } catch (error) {
    throw new UsageFailure(`${where} is not JSON; nothing was changed`, FORM, { cause: error })
  }
}
