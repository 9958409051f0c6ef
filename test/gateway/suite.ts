/** What every way in does, whichever it is. */
import { parseRotationNotice } from '@keyturn/contract'
import { beforeAll, describe, expect, test } from 'vitest'
import { signMessage, signPlain } from './signatures/signing.ts'
import { issueKey } from './support.ts'
import { type Answered, ask, type Front, type Seen, type World } from './world.ts'

export interface Traits {
  /** It sees the API's answers, and counts its refusals; it sees the bodies of requests as well. */
  readonly seesAnswers?: boolean
  /** The server refuses a field that came twice by itself, before it asks anybody. */
  readonly ownAnswerToTwice?: number
}

const IDENTITY = ['keyturn-client', 'keyturn-credential', 'keyturn-key-id', 'keyturn-scopes']

const seen = (answer: Answered): Seen => JSON.parse(answer.body) as Seen
const code = ({ body }: Answered): unknown => (JSON.parse(body) as { code?: unknown }).code
const bearer = (token: string): string[] => ['Authorization', `Bearer ${token}`]

/** What a caller can tell of an answer, but the hour. */
const told = ({ status, headers, body }: Answered) => {
  const { date, server, connection, 'keep-alive': _, 'transfer-encoding': __, 'content-length': ___, via, ...rest } = headers
  return { status, body, headers: rest }
}

export function behavesAsAGateway(name: string, world: () => World, open: () => Promise<Front>, traits: Traits = {}): void {
  describe(name, () => {
    let front: Front
    beforeAll(async () => {
      front = await open()
    })

    test('accepts a right key and says who calls; the key, and what the caller says of who it is, end here', async () => {
      const { record, token } = world().keys.good
      for (const shown of [bearer(token), ['X-API-Key', token]]) {
        const answered = await ask(new URL('/things?x=1', front.url), [
          ...['Keyturn-Client', 'cli_someoneelse', 'KEYTURN-SCOPES', '*', 'Keyturn-Key-Id', 'x', 'keyturn-key-rotation', 'x'],
          ...['Keyturn_Client', 'cli_someoneelse', 'X-Mine', 'mine'],
          ...shown,
        ])
        expect(answered.status).toBe(200)
        const { headers, url, method, caller } = seen(answered)
        expect([method, url]).toEqual(['GET', '/things?x=1'])
        const expected = [record.clientId, record.credentialId, record.keyId, 'orders:read']
        expect(IDENTITY.map((field) => headers[field])).toEqual(expected.map((value) => [value]))
        expect(headers['x-mine']).toEqual(['mine'])
        expect(headers['keyturn_client']).toBeUndefined()
        expect(headers['keyturn-key-rotation']).toBeUndefined()
        expect(answered.body).not.toContain(token)
        expect(answered.headers['keyturn-key-rotation']).toBeUndefined()
        if (caller !== undefined) expect(caller).toBe(record.keyId)
      }
    })

    test('passes on a body', async () => {
      const answered = await ask(front.url, bearer(world().keys.good.token), 'POST', Buffer.alloc(300_000, 'x'))
      expect(answered.status).toBe(200)
      expect(seen(answered)).toMatchObject({ method: 'POST', body: 300_000 })
    })

    test('refuses unknown, wrong, expired, revoked, suspended, over-long and unreadable keys with one and the same answer', async () => {
      const { good, revoked, compromised, suspended, expired, foreign } = world().keys
      const altered = `${good.token.slice(0, -1)}${good.token.endsWith('0') ? '1' : '0'}`
      const tokens = [revoked, compromised, suspended, expired, foreign, issueKey()].map(({ token }) => token)
      tokens.push(altered, 'nonsense', 'x'.repeat(2_000), `caf\u00e9${good.token}`, `${good.token}\u00a0`, `${good.token} x`)
      const answers = await Promise.all(tokens.map((token) => ask(front.url, bearer(token))))
      for (const answered of answers) expect(told(answered)).toEqual(told(answers[0] as Answered))
      expect(answers[0]).toMatchObject({
        status: 401,
        headers: { 'www-authenticate': 'Bearer', 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
      })
      expect(code(answers[0] as Answered)).toBe('invalid-key')
    })

    test('asks for a key where none is shown', async () => {
      const answered = await ask(new URL(`/?api_key=${world().keys.good.token}`, front.url), ['Authorization', 'Basic eDp5'])
      expect([answered.status, code(answered)]).toEqual([401, 'missing-key'])
    })

    test('refuses two keys, even equal ones: twice in one field, in one value, in both fields', async () => {
      const { token } = world().keys.good
      const twice = await ask(front.url, [...bearer(token), ...bearer(token)])
      if (traits.ownAnswerToTwice === undefined) expect([twice.status, code(twice)]).toEqual([401, 'invalid-key'])
      else expect(twice.status).toBe(traits.ownAnswerToTwice)
      for (const headers of [
        ['X-API-Key', token, 'X-API-Key', token],
        bearer(`${token}, Bearer ${token}`),
        [...bearer(token), 'X-API-Key', token],
      ]) {
        const answered = await ask(front.url, headers)
        expect([answered.status, code(answered)]).toEqual([401, 'invalid-key'])
      }
    })

    test('asks for the scopes of the route', async () => {
      const { good, writer } = world().keys
      const refused = await ask(front.orders, bearer(good.token), 'POST', Buffer.from('pay'))
      expect([refused.status, code(refused), refused.headers['content-type']]).toEqual([
        403,
        'missing-scope',
        'application/problem+json',
      ])
      expect((await ask(front.orders, bearer(writer.token), 'POST', Buffer.from('pay'))).status).toBe(200)
    })

    test('keeps a key to its addresses and methods', async () => {
      const { getOnly, fromHome, fromElsewhere } = world().keys
      const elsewhere = await ask(front.url, [...bearer(fromElsewhere.token), 'X-Forwarded-For', '192.0.2.1'])
      expect([elsewhere.status, code(elsewhere)]).toEqual([403, 'address-not-allowed'])
      expect((await ask(front.url, bearer(fromHome.token))).status).toBe(200)
      const fields = [...bearer(getOnly.token), 'X-Forwarded-Method', 'GET']
      const posted = await ask(front.url, fields, 'POST', Buffer.from('pay'))
      expect([posted.status, code(posted)]).toEqual([403, 'method-not-allowed-for-key'])
      expect((await ask(front.url, fields)).status).toBe(200)
    })

    test('tells the holder of an old key of its rotation, in the fields of RFC 9745 and RFC 8594, too', async () => {
      const { headers } = await ask(front.url, bearer(world().keys.old.token))
      expect(parseRotationNotice(String(headers['keyturn-key-rotation']))).toEqual({
        sunset: new Date('2026-02-01T00:00:00Z'),
        successor: 2,
      })
      expect(headers['deprecation']).toBe('@1768003200')
      expect(headers['sunset']).toBe('Sun, 01 Feb 2026 00:00:00 GMT')
    })

    test('accepts signed requests, once; a token that signs is not to be shown', async () => {
      const { signer, edwards } = world().keys
      const url = new URL('/things?x=1', front.url)
      for (const fields of [
        await signMessage(signer, { url }),
        await signMessage(edwards, { url }),
        signPlain(signer, { url }),
      ]) {
        const answered = await ask(url, Object.entries(fields).flat())
        expect([answered.status, seen(answered).url]).toEqual([200, '/things?x=1'])
        expect(['signer', 'edwards'].map((key) => world().keys[key as 'signer'].record.keyId)).toContain(
          seen(answered).headers['keyturn-key-id']?.[0],
        )
        const again = await ask(url, Object.entries(fields).flat())
        expect([again.status, code(again)]).toEqual([401, 'request-replayed'])
      }
      const altered = await ask(new URL('/things?x=2', url), Object.entries(await signMessage(signer, { url })).flat())
      expect([altered.status, code(altered)]).toEqual([401, 'invalid-key'])
      const shown = await ask(url, bearer(signer.token))
      expect([shown.status, code(shown)]).toEqual([401, 'invalid-key'])
      const both = await ask(url, [
        ...bearer(world().keys.good.token),
        ...Object.entries(await signMessage(signer, { url })).flat(),
      ])
      expect([both.status, code(both)]).toEqual([401, 'invalid-key'])
    })

    test('compares the body of a signed request with its digest where it sees it, and refuses one where it does not', async () => {
      const { signer, edwards } = world().keys
      const body = Buffer.alloc(300_000, 'x')
      const post = { method: 'POST', url: front.orders, body }
      for (const sign of [() => signMessage(signer, post), () => signPlain(signer, post)]) {
        const answered = await ask(front.orders, Object.entries(await sign()).flat(), 'POST', body)
        if (traits.seesAnswers !== true) {
          expect([answered.status, code(answered)]).toEqual([401, 'signature-malformed'])
          continue
        }
        expect([answered.status, seen(answered).body]).toEqual([200, 300_000])
        const other = await ask(front.orders, Object.entries(await sign()).flat(), 'POST', Buffer.alloc(300_000, 'y'))
        expect(other.status).toBe(401)
        expect(['digest-mismatch', 'invalid-key']).toContain(code(other))
      }
      if (traits.seesAnswers !== true) return
      const forbidden = await ask(front.orders, Object.entries(await signMessage(edwards, post)).flat(), 'POST', body)
      expect([forbidden.status, code(forbidden)]).toEqual([403, 'missing-scope'])
      const large = Buffer.alloc(1_048_577)
      const signed = await signMessage(signer, { ...post, body: large })
      const refused = await ask(front.orders, Object.entries(signed).flat(), 'POST', large)
      expect([refused.status, code(refused)]).toEqual([413, 'too-large'])
    })

    if (traits.seesAnswers !== true) return
    test('counts what the API behind refuses', async () => {
      const { gateway, keys } = world()
      const counted = async () =>
        Number(/^keyturn_gateway_upstream_refusals_total (\d+)$/m.exec(await gateway.metrics.metrics())?.[1])
      const before = await counted()
      expect((await ask(new URL('/refused', front.url), bearer(keys.good.token))).status).toBe(401)
      await ask(front.url, bearer(keys.good.token))
      await ask(front.orders, bearer(keys.good.token))
      expect(await counted()).toBe(before + 1)
    })
  })
}
