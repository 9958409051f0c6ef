/** E-mail over real SMTP conversations. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { createMailer } from '../../activities/channels/mail.ts'
import { decoded, mailServer } from '../support/mail-server.ts'

const EMAIL = { subject: 'Neuer Schlüssel', text: 'Grüße\n', html: '<p>Grüße</p>' }
const FROM = '"Example API" <keys@api.example>'

const mailer = (url: string, times?: Parameters<typeof createMailer>[1]) => {
  const made = createMailer({ url, from: FROM }, times)
  onTestFinished(() => made.close())
  const send = (to: string, email: typeof EMAIL, id: string, signal = new AbortController().signal) =>
    made.send(to, email, id, signal)
  return { send }
}

test('a mail is delivered as text and as HTML, from whom it should be, and says that a machine has written it', async () => {
  const server = await mailServer()
  await mailer(server.url).send('ops@acme.example', EMAIL, 'msg_1')
  const [mail = expect.fail()] = server.mails
  expect([mail.from, mail.to]).toEqual(['keys@api.example', ['ops@acme.example']])
  for (const header of [
    /^Message-ID: <msg_1@api\.example>$/im,
    /^Auto-Submitted: auto-generated$/m,
    /^From: "?Example API"? <keys@api\.example>$/m,
  ])
    expect(mail.source).toMatch(header)
  expect(mail.source).toMatch(/^Content-Type: multipart\/alternative/m)
  expect(decoded(mail.source)).toContain('<p>Grüße</p>')
})

test.each([
  ['550 there is no such box', 550, true],
  ['552 the box is full for good', 552, true],
  ['450 the box is busy', 450, false],
  ['451 greylisted', 451, false],
] as const)('%s: refused for good is %s', async (_, responseCode, refused) => {
  const server = await mailServer({ recipient: () => responseCode })
  await expect(mailer(server.url).send('secret-name@acme.example', EMAIL, 'msg_1')).rejects.toMatchObject({
    refused,
    message: `the mail server answered ${responseCode} to RCPT TO for acme.example`,
  })
  expect(server.mails).toEqual([])
})

test('a server that wants to see a sender twice gets the mail the second time', async () => {
  const server = await mailServer({ recipient: (before) => (before === 0 ? 451 : undefined) })
  const { send } = mailer(server.url)
  await expect(send('ops@acme.example', EMAIL, 'msg_1')).rejects.toMatchObject({ refused: false })
  await send('ops@acme.example', EMAIL, 'msg_1')
  expect(server.mails).toHaveLength(1)
})

test('what a server says of the content counts, too', async () => {
  const server = await mailServer({ content: () => 554 })
  await expect(mailer(server.url).send('ops@acme.example', EMAIL, 'msg_1')).rejects.toMatchObject({ refused: true })
})

test('a server that lets us not in is our trouble, not the contact’s: no refusal', async () => {
  const server = await mailServer({ password: 'right' })
  const url = server.url.replace('smtp://', 'smtp://keys:wr0ng-s3cret@')
  await expect(mailer(url).send('ops@acme.example', EMAIL, 'msg_1')).rejects.toMatchObject({
    refused: false,
    message: expect.not.stringContaining('wr0ng-s3cret'),
  })
})

test('a server that says nothing is given up, and tried again', async () => {
  const server = createServer(() => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const { port } = server.address() as { port: number }
  await expect(mailer(`smtp://127.0.0.1:${port}`).send('ops@acme.example', EMAIL, 'msg_1')).rejects.toMatchObject({
    refused: false,
    message: 'the mail server could not be reached for acme.example (ETIMEDOUT)',
  })
})

test('what was called undelivered is not sent when the server has time again', async () => {
  let release = () => {}
  const busy = new Promise<void>((resolve) => {
    release = resolve
  })
  const server = await mailServer({ ready: () => busy })
  const { send } = mailer(server.url, { turnMs: 300, conversationMs: 1_000 })
  const tried = await Promise.allSettled(Array.from({ length: 12 }, (_, i) => send('ops@acme.example', EMAIL, `msg_${i}`)))
  const whys = tried.map((each) => (each.status === 'rejected' ? String(each.reason.message) : 'sent'))
  expect(whys.filter((why) => why.endsWith('(ETIMEDOUT)'))).toHaveLength(5)
  expect(whys.filter((why) => why.startsWith('the mail server is too slow'))).toHaveLength(7)
  const given = new AbortController()
  const cancelled = send('ops@acme.example', EMAIL, 'msg_cancelled', given.signal)
  given.abort()
  await expect(cancelled).rejects.toMatchObject({ refused: false })
  release()
  // In their turn, those before it would have been sent before it.
  await send('ops@acme.example', EMAIL, 'msg_last')
  expect(server.mails.map(({ source }) => /^Message-ID: <(\w+)@/im.exec(source)?.[1])).toEqual(['msg_last'])
})

test('mails that wait for others lose none of their time by that', async () => {
  const server = await mailServer({ ready: () => new Promise((resolve) => setTimeout(resolve, 300)) })
  const { send } = mailer(server.url, { turnMs: 60_000, conversationMs: 2_000 })
  await Promise.all(Array.from({ length: 40 }, (_, i) => send('ops@acme.example', EMAIL, `msg_${i}`)))
  expect(server.mails).toHaveLength(40)
})

test('nobody can put a line of their own into a mail', async () => {
  const server = await mailServer()
  const email = { ...EMAIL, subject: 'Hello\r\nBcc: everybody@acme.example\r\n\r\nand more' }
  await mailer(server.url).send('ops@acme.example', email, 'msg_1')
  const [mail = expect.fail()] = server.mails
  expect(mail.to).toEqual(['ops@acme.example'])
  expect(mail.source).not.toMatch(/^Bcc:/m)
})
