/** E-mail by SMTP. */
import { createTransport } from 'nodemailer'
import type { Email } from '../messages/email.ts'
import { Undelivered } from './undelivered.ts'

/** Of each step; a server that checks senders may take a while to greet. */
const STEP_TIMEOUT_MS = 8_000
/** Of the whole conversation: less than the activity has. */
const TIMEOUT_MS = 20_000

export interface Mailer {
  /** @param id the same for every attempt at one message, so that mail programs show it once @throws Undelivered */
  send(to: string, email: Email, id: string): Promise<void>
  close(): void
}

export function createMailer({ url, from }: { readonly url: string; readonly from: string }): Mailer {
  const domain = /@([^@>\s]+)>?$/.exec(from)?.[1] ?? 'localhost'
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: 5,
    connectionTimeout: STEP_TIMEOUT_MS,
    greetingTimeout: STEP_TIMEOUT_MS,
    socketTimeout: STEP_TIMEOUT_MS,
    disableFileAccess: true,
    disableUrlAccess: true,
  } as Parameters<typeof createTransport>[0])
  return {
    async send(to, { subject, text, html }, id) {
      let late: NodeJS.Timeout | undefined
      const timeout = new Promise<never>((_, reject) => {
        late = setTimeout(() => reject(Object.assign(new Error(), { code: 'ETIMEDOUT' })), TIMEOUT_MS)
      })
      // Nobody is to answer a machine, and no absence note is to be sent to it (RFC 3834).
      const headers = { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' }
      const sending = transport.sendMail({
        from,
        to: { name: '', address: to },
        subject,
        text,
        html,
        headers,
        messageId: `<${id}@${domain}>`,
      })
      sending.catch(() => {})
      try {
        await Promise.race([sending, timeout])
      } catch (error) {
        throw undelivered(error, to.slice(to.lastIndexOf('@') + 1))
      } finally {
        clearTimeout(late)
      }
    },
    close: () => transport.close(),
  }
}

/** What servers answer may repeat the address, or worse. */
function undelivered(error: unknown, host: string): Undelivered {
  const { code = 'error', responseCode, command } = error as { code?: string; responseCode?: number; command?: string }
  if (responseCode === undefined) return new Undelivered(`the mail server could not be reached for ${host} (${code})`)
  // That ours is not let in is no word of the one who is written to.
  const refused = responseCode >= 500 && (code === 'EENVELOPE' || code === 'EMESSAGE')
  return new Undelivered(
    `the mail server answered ${responseCode}${command === undefined ? '' : ` to ${command.slice(0, 20)}`} for ${host}`,
    { refused },
  )
}
