/** Webhooks as Standard Webhooks has them: the published example verifies; what is wrong, old or repeated does not. */
import { WebhookError, type WebhookOptions, webhookVerifier } from '@keyturn/client'
import { Webhook } from 'standardwebhooks'
import { describe, expect, test } from 'vitest'

/** The example of the specification and of its reference libraries. */
const EXAMPLE = {
  secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
  body: '{"test": 2432232314}',
  headers: {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  },
}
const AT = 1_614_265_330_000
const verifier = (options: Partial<WebhookOptions> = {}) => webhookVerifier({ secret: EXAMPLE.secret, now: () => AT, ...options })
const refusal = async (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'taken',
    (error: unknown) => (error instanceof WebhookError ? error.code : Promise.reject(error)),
  )
const { body, headers } = EXAMPLE

test('the published example verifies, in whatever form it arrives', async () => {
  const message = { id: headers['webhook-id'], at: new Date(AT), body }
  expect(await verifier().verify(body, headers)).toEqual(message)
  expect(await verifier().verify(Buffer.from(body), new Headers(headers))).toEqual(message)
  const capitals = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toUpperCase(), value]))
  expect(await verifier().verify(body, capitals)).toEqual(message)
})

test('one of several signatures and one of several secrets is enough', async () => {
  const many = { ...headers, 'webhook-signature': `v1a,AAAA v1,AAAA v1 v1,%%% ${headers['webhook-signature']}` }
  expect(await verifier({ secret: ['whsec_bmV3IG9uZQ==', EXAMPLE.secret] }).verify(body, many)).toMatchObject({ body })
})

test('what the reference library signs is taken', async () => {
  const now = Date.now()
  const signature = new Webhook(EXAMPLE.secret).sign('msg_1', new Date(now), 'grüße')
  const sent = { 'webhook-id': 'msg_1', 'webhook-timestamp': String(Math.floor(now / 1_000)), 'webhook-signature': signature }
  expect(await verifier({ now: Date.now }).verify('grüße', sent)).toMatchObject({ id: 'msg_1', body: 'grüße' })
})

describe('refused', () => {
  const changed = (change: Record<string, string | undefined>) => ({ ...headers, ...change })
  test.each([
    ['another body', `${body} `, headers, 'signature-wrong'],
    ['another id', body, changed({ 'webhook-id': 'msg_other' }), 'signature-wrong'],
    ['another time', body, changed({ 'webhook-timestamp': '1614265331' }), 'signature-wrong'],
    [
      'another version',
      body,
      changed({ 'webhook-signature': headers['webhook-signature'].replace('v1', 'v2') }),
      'signature-wrong',
    ],
    ['a signature cut off', body, changed({ 'webhook-signature': headers['webhook-signature'].slice(0, -5) }), 'signature-wrong'],
    ['no id', body, changed({ 'webhook-id': undefined }), 'malformed'],
    ['no signature', body, changed({ 'webhook-signature': '' }), 'malformed'],
    ['a time with more behind it', body, changed({ 'webhook-timestamp': '1614265330x' }), 'malformed'],
    // The dots part what is signed: with one in the id, two messages would have one signature.
    ['an id with a dot', body, changed({ 'webhook-id': 'msg.1' }), 'malformed'],
  ])('%s', async (_, sent, fields, code) => {
    expect(await refusal(verifier().verify(sent, fields))).toBe(code)
  })

  test.each([
    [299_000, 'taken'],
    [301_000, 'too-old'],
    [-299_000, 'taken'],
    [-301_000, 'too-new'],
  ])('%i ms later: %s', async (later, code) => {
    expect(await refusal(verifier({ now: () => AT + later }).verify(body, headers))).toBe(code)
  })

  test('with another secret, and a secret that is none', async () => {
    expect(await refusal(verifier({ secret: 'whsec_bmV3IG9uZQ==' }).verify(body, headers))).toBe('signature-wrong')
    await expect(verifier({ secret: 'whsec_?' }).verify(body, headers)).rejects.toThrow('not base64')
    await expect(verifier({ secret: 'whsec_' }).verify(body, headers)).rejects.toThrow('empty')
  })
})

describe('a repeated message', () => {
  test('is refused for as long as its time would let it in, be it one of many at once', async () => {
    let now = AT - 299_000
    const one = verifier({ now: () => now })
    const at = await Promise.all(Array.from({ length: 10 }, () => refusal(one.verify(body, headers))))
    expect(at.filter((code) => code === 'taken')).toHaveLength(1)
    for (const later of [0, 60_000, 299_000]) {
      now = AT + later
      expect(await refusal(one.verify(body, headers))).toBe('repeated')
    }
  })

  test('is taken when the first could not be dealt with', async () => {
    const one = verifier()
    await one.verify(body, headers)
    await one.forget(headers['webhook-id'])
    expect(await refusal(one.verify(body, headers))).toBe('taken')
  })

  test('is not remembered for a signature that does not fit', async () => {
    const one = verifier()
    expect(await refusal(one.verify(`${body} `, headers))).toBe('signature-wrong')
    expect(await refusal(one.verify(body, headers))).toBe('taken')
  })
})
