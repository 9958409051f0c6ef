/** A real SMTP server that keeps what it gets, and refuses what it is told to refuse. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { SMTPServer } from 'smtp-server'
import { onTestFinished } from 'vitest'

export interface Mail {
  readonly from: string
  readonly to: readonly string[]
  /** As it came over the wire. */
  readonly source: string
}

export interface MailServerOptions {
  /** The code with which a recipient is refused, by how many were asked for before. */
  readonly recipient?: (before: number, address: string) => number | undefined
  /** The same for the mail itself. */
  readonly content?: (before: number) => number | undefined
  /** What each conversation waits for before its recipient is named. */
  readonly ready?: () => Promise<unknown>
  readonly password?: string
  /** It outlives the test; `close` ends it. */
  readonly keep?: boolean
}

export async function mailServer({ recipient, content, ready, password, keep = false }: MailServerOptions = {}) {
  const mails: Mail[] = []
  let recipients = 0
  let contents = 0
  const refusal = (responseCode: number | undefined): Error | null =>
    responseCode === undefined ? null : Object.assign(new Error('refused'), { responseCode })
  const server = new SMTPServer({
    authOptional: password === undefined,
    allowInsecureAuth: true,
    disabledCommands: ['STARTTLS'],
    onAuth: (auth, _, callback) => callback(auth.password === password ? null : new Error('no'), { user: auth.username ?? '' }),
    onMailFrom: (_, __, callback) => void Promise.resolve(ready?.()).then(() => callback()),
    onRcptTo: ({ address }, _, callback) => callback(refusal(recipient?.(recipients++, address))),
    onData(stream, { envelope }, callback) {
      text(stream).then((source) => {
        const refused = refusal(content?.(contents++))
        if (refused === null)
          mails.push({
            from: envelope.mailFrom === false ? '' : envelope.mailFrom.address,
            to: envelope.rcptTo.map(({ address }) => address),
            source: source.replaceAll('\r\n', '\n'),
          })
        callback(refused)
      }, callback)
    },
  })
  // Connections that the tests break off.
  server.on('error', () => {})
  server.listen(0, '127.0.0.1')
  await once(server.server, 'listening')
  const close = () => new Promise<void>((resolve) => server.close(() => resolve()))
  if (!keep) onTestFinished(close)
  return { mails, close, url: `smtp://127.0.0.1:${(server.server.address() as AddressInfo).port}` }
}

/** Quoted-printable and base64 parts read. */
export const decoded = (source: string): string =>
  source
    .split(/^--.*$/m)
    .map((part) => {
      const [head = '', ...body] = part.trim().split('\n\n')
      const text = body.join('\n\n')
      if (/^Content-Transfer-Encoding: base64$/im.test(head)) return Buffer.from(text, 'base64').toString('utf8')
      if (!/^Content-Transfer-Encoding: quoted-printable$/im.test(head)) return part
      const bytes = text
        .replaceAll('=\n', '')
        .replace(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
      return Buffer.from(bytes, 'latin1').toString('utf8')
    })
    .join('\n')
