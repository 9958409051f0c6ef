/** E-mail by SMTP. */
import { createTransport } from 'nodemailer'
import type { Email } from '../messages/email.ts'
import { createTurns } from './turns.ts'
import { Undelivered } from './undelivered.ts'

/** Of each step; a server that checks senders may take a while to greet. */
const STEP_TIMEOUT_MS = 8_000
/** So long a mail waits until one of the connections is free, and so long its conversation may take: together less than the activity has. */
const TIMES = { turnMs: 8_000, conversationMs: 18_000 }
const CONNECTIONS = 5

export interface Mailer {
  /**
   * What is undelivered is not sent later, unless the server has all of it and has not answered yet.
   * @param id the same for every attempt at one message, so that mail programs show it once
   * @throws Undelivered
   */
  send(to: string, email: Email, id: string, signal: AbortSignal): Promise<void>
  close(): void
}

/** @param times instead of ours, for tests */
export function createMailer({ url, from }: { readonly url: string; readonly from: string }, times = TIMES): Mailer {
  const domain = /@([^@>\s]+)>?$/.exec(from)?.[1] ?? 'localhost'
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: CONNECTIONS,
    connectionTimeout: STEP_TIMEOUT_MS,
    greetingTimeout: STEP_TIMEOUT_MS,
    socketTimeout: STEP_TIMEOUT_MS,
    disableFileAccess: true,
    disableUrlAccess: true,
  } as Parameters<typeof createTransport>[0])
  const turns = createTurns(CONNECTIONS)
  return {
    async send(to, { subject, text, html }, id, signal) {
      const host = to.slice(to.lastIndexOf('@') + 1)
      const end = await turns.take(times.turnMs)
      if (end === undefined)
        throw new Undelivered(`the mail server is too slow for all that is to be sent, and nothing was for ${host}`)
      const late = AbortSignal.timeout(times.conversationMs)
      try {
        await transport.sendMail({
          from,
          to: { name: '', address: to },
          subject,
          text,
          html,
          // Nobody is to answer a machine, and no absence note is to be sent to it (RFC 3834).
          headers: { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' },
          messageId: `<${id}@${domain}>`,
          signal: AbortSignal.any([late, signal]),
        })
      } catch (error) {
        throw undelivered(late.aborted ? { code: 'ETIMEDOUT' } : error, host)
      } finally {
        end()
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
