/** Bodies that are not what they should be: each flaw is named by its field, and nothing comes of the rest. */
import type { CredentialId, ProblemCode } from '@keyturn/contract'
import { beforeAll, describe, expect, test } from 'vitest'
import type { RequestOptions } from '../support/api.ts'
import { apiHouse, newClient, newCredential, refusedWithoutTrace } from './support.ts'

// Nobody works on workflows here: what slipped through would show as one that was started.
const at = apiHouse({ gateways: 0, worker: false, collector: false })
let clientId = ''
let credentialId = '' as CredentialId
beforeAll(async () => {
  clientId = await newClient(at.client)
  credentialId = (await newCredential(at.client, clientId)).credentialId
})

const refused = (path: string, options: RequestOptions) => refusedWithoutTrace(at, credentialId, ['POST', path, options])

/** A field that is wrong, and what is said of it. */
type Flaw = readonly [path: string, message: RegExp | string]
const errorsOf = (flaws: readonly Flaw[]) =>
  flaws.map(([path, message]) => ({ path, message: typeof message === 'string' ? message : expect.stringMatching(message) }))

describe('a body that can not be read', () => {
  test.each<[what: string, body: string, code: ProblemCode, detail: RegExp]>([
    ['half an object', '{"name": "Ac', 'not-json', /can not be read as JSON/],
    ['something after the object', '{"name": "Acme"} {}', 'not-json', /can not be read as JSON/],
    ['a form', 'name=Acme', 'not-json', /can not be read as JSON/],
    ['a prototype', '{"name": "Acme", "__proto__": {"admin": true}}', 'not-json', /can not be read as JSON/],
    ['30,000 brackets', '['.repeat(30_000), 'not-json', /can not be read as JSON/],
    ['more than 64 KiB', JSON.stringify({ name: 'x'.repeat(64 * 1024) }), 'too-large', /at most 64 KiB/],
  ])('%s', async (_, body, code, detail) => {
    expect(await refused('/v1/clients', { body })).toMatchObject({ code, detail: expect.stringMatching(detail) })
  })

  test.each(['', 'null', '[]', '"Acme"', '12', 'true', '[{"name":"Acme"}]'])('%j is JSON, and no object', async (body) => {
    const { code, errors } = await refused('/v1/clients', { body })
    expect([code, errors]).toEqual(['invalid-request', [{ path: '', message: 'send a JSON object' }]])
  })

  test.each(['text/plain', 'application/x-www-form-urlencoded', 'application/merge-patch+json', 'nonsense'])(
    'of type %s',
    async (type) => {
      const body = '{"name": "Acme"}'
      expect(await refused('/v1/clients', { body, headers: { 'content-type': type } })).toMatchObject({
        code: 'unsupported-media-type',
        detail: 'Send the body as application/json.',
      })
    },
  )
})

const MANY = Array.from({ length: 101 }, (_, i) => `scope-${i}`)
const HOOK = { channel: 'webhook', url: 'https://acme.example/hook' }
const REQUIRED: readonly Flaw[] = [
  ['/name', 'is missing'],
  ['/environment', 'is missing'],
  ['/scopes', 'is missing'],
]
const NAME = /expected a name of 1 to 100 printable characters without spaces around it/

describe('a client or a credential', () => {
  test.each<[what: string, body: object, ...flaws: Flaw[]]>([
    ['without a name', {}, ['/name', 'is missing']],
    ['with a number for a name', { name: 12 }, ['/name', 'must be string']],
    ['with nothing for a name', { name: null }, ['/name', 'must be string']],
    ['with an empty name', { name: '' }, ['/name', 'must not be empty']],
    ['with a name of 101 characters', { name: 'x'.repeat(101) }, ['/name', 'must have 100 characters or fewer']],
    [
      'with a name of 100 letters and 300 accents',
      { name: 'e\u0301\u0302\u0303'.repeat(100) },
      ['/name', 'must have 100 characters or fewer'],
    ],
    ['with a name of spaces', { name: '   ' }, ['/name', NAME]],
    ['with a line break in its name', { name: 'Acme\nLtd' }, ['/name', NAME]],
    ['with a NUL in its name', { name: 'Acme\0Ltd' }, ['/name', NAME]],
    ['with half a surrogate pair in its name', { name: 'Acme \ud83d Ltd' }, ['/name', NAME]],
    [
      'with unknown fields',
      { name: 'Acme', admin: true, 'a/b': 1 },
      ['/admin', 'is not a field here'],
      ['/a~1b', 'is not a field here'],
    ],
    [
      'with a contact by post',
      { name: 'Acme', contacts: [{ ...HOOK, channel: 'post' }] },
      ['/contacts/0/channel', /must be|webhook/],
    ],
    ['with eleven contacts', { name: 'Acme', contacts: Array(11).fill(HOOK) }, ['/contacts', 'must have 10 items or fewer']],
    ...['ftp://acme.example', 'https://acme example', 'acme.example', 'https://a\0b', 'javascript:alert(1)'].map(
      (url): [string, object, Flaw] => [
        `with a webhook at ${JSON.stringify(url)}`,
        { name: 'Acme', contacts: [HOOK, { ...HOOK, url }] },
        ['/contacts/1/url', /expected an http or https URL/],
      ],
    ),
    [
      'with a webhook that is no URL',
      { name: 'Acme', contacts: [{ ...HOOK, url: 'https://[' }] },
      ['/contacts/0/url', 'is not a URL'],
    ],
    [
      'with a password in its webhook',
      { name: 'Acme', contacts: [{ ...HOOK, url: 'https://me:secret@acme.example' }] },
      ['/contacts/0/url', 'must not hold a user or a password'],
    ],
  ])('client %s', async (_, body, ...flaws) => {
    const problem = await refused('/v1/clients', { body })
    expect([problem.code, problem.errors]).toEqual(['invalid-request', errorsOf(flaws)])
    expect(JSON.stringify(problem)).not.toContain('secret')
  })

  test.each<[what: string, change: object, ...flaws: Flaw[]]>([
    ['with all missing', { name: undefined, environment: undefined, scopes: undefined }, ...REQUIRED],
    ['for an environment that there is not', { environment: 'production' }, ['/environment', 'must be one of: dev, test, prod']],
    ['with a scope in capitals', { scopes: ['orders:read', 'Orders'] }, ['/scopes/1', /expected a scope like orders:read/]],
    ['with a scope of two words', { scopes: ['orders read'] }, ['/scopes/0', /expected a scope like orders:read/]],
    ['with an empty scope', { scopes: [''] }, ['/scopes/0', /expected a scope like orders:read/]],
    ['with a scope of 101 characters', { scopes: ['x'.repeat(101)] }, ['/scopes/0', 'must have 100 characters or fewer']],
    ['with one scope twice', { scopes: ['a', 'a'] }, ['/scopes', 'must not hold the same item twice']],
    ['with 101 scopes', { scopes: MANY }, ['/scopes', 'must have 100 items or fewer']],
    ['with text for scopes', { scopes: 'orders:read' }, ['/scopes', 'must be array']],
    ['of a kind that is not supported', { kind: 'hmac' }, ['/kind', 'must be one of: bearer, hmac-sha256, ed25519']],
    ['with half a public key', { kind: 'ed25519', publicKey: 'MCow' }, ['/publicKey', /^must be 32 bytes in base64/]],
    ['with a public key that has no place', { publicKey: 'MCow' }, ['/publicKey', 'belongs to ed25519 alone']],
    ['with a secret of the client’s own', { secret: 'let me choose' }, ['/secret', 'is not a field here']],
  ])('credential %s', async (_, change, ...flaws) => {
    const body = { name: 'second', environment: 'prod', scopes: [], ...change }
    const problem = await refused(`/v1/clients/${clientId}/credentials`, { body })
    expect([problem.code, problem.errors]).toEqual(['invalid-request', errorsOf(flaws)])
  })

  test('credential with a name that the client has used in this environment', async () => {
    const body = { name: 'feed', environment: 'prod', scopes: [] }
    expect(await refused(`/v1/clients/${clientId}/credentials`, { body })).toMatchObject({
      status: 409,
      code: 'name-taken',
      detail: 'the client has a credential "feed" in prod already: choose another name',
    })
  })
})

const REASON = /expected why, for the audit log: 1 to 500 characters/

describe('a rotation or an order', () => {
  test.each<[what: string, code: ProblemCode, body: object, ...flaws: Flaw[]]>([
    ['with all missing', 'invalid-request', {}, ['/trigger', 'is missing'], ['/reason', 'is missing']],
    ['of an unknown trigger', 'invalid-request', { trigger: 'yearly' }, ['/trigger', 'must be one of: manual, emergency']],
    ['without a reason', 'invalid-request', { reason: undefined }, ['/reason', 'is missing']],
    ['with an empty reason', 'invalid-request', { reason: '' }, ['/reason', 'must not be empty']],
    ['with spaces for a reason', 'invalid-request', { reason: ' \n\t' }, ['/reason', REASON]],
    [
      'with a reason of 501 characters',
      'invalid-request',
      { reason: 'x'.repeat(501) },
      ['/reason', 'must have 500 characters or fewer'],
    ],
    [
      'with a reason of 200 letters and 600 accents',
      'invalid-request',
      { reason: 'e\u0301\u0302\u0303'.repeat(200) },
      ['/reason', 'must have 500 characters or fewer'],
    ],
    ['with a NUL in its reason', 'invalid-request', { reason: 'leaked\0' }, ['/reason', REASON]],
    ['with half a surrogate pair in its reason', 'invalid-request', { reason: 'leaked \udc00' }, ['/reason', REASON]],
    ['with an unknown end', 'invalid-request', { onDeadline: 'wait' }, ['/onDeadline', 'must be one of: hold, extend, force']],
    ['with a number for the overlap', 'invalid-request', { overlap: 14 }, ['/overlap', 'must be string']],
    ['with an unknown field', 'invalid-request', { dryRun: true }, ['/dryRun', 'is not a field here']],
    ['with a negative overlap', 'invalid-duration', { overlap: '-1d' }, ['/overlap', /"-1d" is not a duration: write 14d, /]],
    ['without any overlap', 'invalid-duration', { overlap: '0s' }, ['/overlap', 'must be longer than zero']],
    ['with an overlap of a month', 'invalid-duration', { overlap: 'P1M' }, ['/overlap', /is not a duration/]],
    ['with an overlap of two years', 'invalid-duration', { overlap: '731d' }, ['/overlap', 'must not be longer than 366d']],
    [
      'that waits a day for receipts',
      'invalid-duration',
      { receiptWait: '24h' },
      ['/receiptWait', /^must not be longer than 12h/],
    ],
    [
      'with an overlap beyond all numbers',
      'invalid-duration',
      { overlap: '99999999999999999999d' },
      ['/overlap', /at most 36500d/],
    ],
    [
      'with a quiet period longer than the overlap',
      'invalid-duration',
      { overlap: '1d', quietPeriod: '25h' },
      ['/quietPeriod', 'must not be longer than the overlap of 1d: the old key could never be quiet long enough'],
    ],
    [
      'with a quiet period longer than the overlap that stands when none is given',
      'invalid-duration',
      { quietPeriod: '15d' },
      ['/quietPeriod', /must not be longer than the overlap of 14d/],
    ],
    [
      'with nothing but nonsense for times',
      'invalid-duration',
      { overlap: 'soon', quietPeriod: '1 day', regretWindow: '-PT5M', receiptWait: '5' },
      ...['/overlap', '/quietPeriod', '/regretWindow', '/receiptWait'].map((path): Flaw => [path, /is not a duration/]),
    ],
  ])('rotation %s', async (what, code, change, ...flaws) => {
    const body = what === 'with all missing' ? {} : { trigger: 'manual', reason: 'test', ...change }
    const problem = await refused(`/v1/credentials/${credentialId}/rotations`, { body })
    expect([problem.code, problem.errors]).toEqual([code, errorsOf(flaws)])
  })

  test.each<[order: string, what: string, code: ProblemCode, body: object, flaw: Flaw]>([
    ['approve', 'without a reason', 'invalid-request', {}, ['/reason', 'is missing']],
    ['roll-back', 'with an empty reason', 'invalid-request', { reason: '' }, ['/reason', 'must not be empty']],
    ['hold', 'with a time', 'invalid-request', { reason: 'test', by: '1d' }, ['/by', 'is not a field here']],
    ['extend', 'by nothing', 'invalid-duration', { reason: 'test', by: '0s' }, ['/by', 'must be longer than zero']],
    ['extend', 'backwards', 'invalid-duration', { reason: 'test', by: '-1d' }, ['/by', /is not a duration/]],
    ['extend', 'by two years', 'invalid-duration', { reason: 'test', by: '731d' }, ['/by', 'must not be longer than 366d']],
  ])('%s %s', async (order, _, code, body, flaw) => {
    const problem = await refused(`/v1/rotations/rot_0000000000000000/${order}`, { body })
    expect([problem.code, problem.errors]).toEqual([code, errorsOf([flaw])])
  })

  test('a gateway is not declared gone without a reason', async () => {
    await at.house.announceSilentGateway('gw-silent')
    const { errors } = await refused('/v1/gateways/gw-silent/gone', { body: {} })
    expect(errors).toEqual([{ path: '/reason', message: 'is missing' }])
    expect((await at.house.propagation.gateways()).map(({ gatewayId }) => gatewayId)).toEqual(['gw-silent'])
  })
})
