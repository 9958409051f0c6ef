/** `keyturn notify preview`: what a client is sent, before it is sent. It holds no claim, whatever the policy says. */
import type { RotationId } from '@keyturn/contract'
import { CHANNELS, type Channel, LANGUAGES, type Language } from '@keyturn/contract/channels'
import { NOTIFICATION_KINDS, type NotificationKind } from '@keyturn/contract/rotation'
import { Command, Option } from 'commander'
import type { Facts } from '../activities/messages/facts.ts'
import { command, outputOf } from './context.ts'
import { Failure, UsageFailure } from './failure.ts'
import { serverConfig, withRegistry } from './servers.ts'

interface PreviewOptions {
  readonly message: NotificationKind
  readonly channel: Channel
  readonly language?: Language
  readonly timeZone?: string
  readonly rotation?: string
  readonly messages?: string
  readonly html?: true
}

const SAMPLE_URL = 'https://keys.example.com'

export function notifyCommands(): Command {
  return new Command('notify')
    .description('what clients are told')
    .addCommand(
      command('preview', 'show a message as a client gets it, with sample data or with a rotation’s')
        .addOption(new Option('--message <message>', 'what it tells').choices(NOTIFICATION_KINDS).makeOptionMandatory())
        .addOption(new Option('--channel <channel>').choices(CHANNELS).default('email'))
        .addOption(new Option('--language <language>').choices(LANGUAGES))
        .option('--time-zone <zone>', 'as the IANA names it: Europe/Berlin')
        .option('--rotation <rotation>', 'of which it tells; read from the registry')
        .option('--messages <file>', 'texts of your own; KEYTURN_MESSAGES_FILE unless given')
        .option('--html', 'the HTML of an e-mail')
        .action(preview),
    )
}

async function preview(options: PreviewOptions, self: Command): Promise<void> {
  const { channel, html } = options
  const output = outputOf(self)
  const facts = await (options.rotation === undefined ? sample(options) : ofRotation(options.rotation, options))
  const { publicUrl, signInUrl } = await addresses(options)
  if (channel === 'webhook') {
    const { webhookBody } = await import('../activities/messages/webhook.ts')
    const body = webhookBody(facts, publicUrl)
    return output.result(body, () => JSON.stringify(body, null, 2))
  }
  const [{ letterOf }, { emailOf }, { slackMessageOf }] = await Promise.all([
    import('../activities/messages/letter.ts'),
    import('../activities/messages/email.ts'),
    import('../activities/messages/slack.ts'),
  ])
  const letter = letterOf(facts, { texts: await textsOf(options), publicUrl, signInUrl })
  if (channel === 'slack') {
    const message = slackMessageOf(letter)
    return output.result(message, () => JSON.stringify(message, null, 2))
  }
  const email = emailOf(letter)
  output.result(email, () => (html === true ? email.html : `Subject: ${email.subject}\n\n${email.text}`).trimEnd())
}

async function addresses({ rotation }: PreviewOptions): Promise<{ publicUrl: string; signInUrl?: string | undefined }> {
  if (rotation === undefined) return { publicUrl: SAMPLE_URL }
  const { publicUrl, delivery } = await serverConfig(['listen', 'delivery'])
  return { publicUrl, signInUrl: delivery.signInUrl }
}

async function textsOf({ messages }: PreviewOptions) {
  const [{ loadTexts }, { ConfigError }] = await Promise.all([
    import('../activities/messages/own-texts.ts'),
    import('../infra/config.ts'),
  ])
  const file = messages ?? process.env['KEYTURN_MESSAGES_FILE']
  try {
    return loadTexts(file === '' ? undefined : file)
  } catch (error) {
    throw error instanceof ConfigError ? new Failure(error.message, 'docs/notifications.md has the fields.') : error
  }
}

async function sample({ message, language, timeZone }: PreviewOptions): Promise<Facts> {
  const { sampleFacts } = await import('../activities/messages/sample.ts')
  const at = new Date()
  return sampleFacts(message, {
    at,
    ...(language === undefined ? {} : { language }),
    ...(timeZone === undefined ? {} : { timeZone: knownZone(timeZone) }),
  })
}

async function ofRotation(rotation: string, { message, language, timeZone }: PreviewOptions): Promise<Facts> {
  const { postgresUrl } = await serverConfig(['postgres'])
  const [{ factsOf }, { RegistryError }] = await Promise.all([
    import('../activities/messages/facts.ts'),
    import('../registry/errors.ts'),
  ])
  const about = { rotationId: rotation as RotationId }
  const facts = await withRegistry(postgresUrl, 5, (db) => factsOf({ db }, { message, about }, new Date())).catch(
    (error: unknown) => {
      throw error instanceof RegistryError ? new UsageFailure(error.message, '`keyturn status` lists rotations.') : error
    },
  )
  if (facts === undefined) throw new Failure(`The client of ${rotation} has no need any more to hear "${message}"`)
  const client = {
    ...facts.client,
    ...(language === undefined ? {} : { language }),
    ...(timeZone === undefined ? {} : { timeZone: knownZone(timeZone) }),
  }
  return { ...facts, client }
}

function knownZone(timeZone: string): string {
  try {
    new Intl.DateTimeFormat('en', { timeZone })
    return timeZone
  } catch {
    throw new UsageFailure(`${timeZone} is no time zone`, 'Name it as the IANA does: Europe/Berlin.')
  }
}
