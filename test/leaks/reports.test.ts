/** Reports as their senders make them, over HTTP, up to what is recorded. No worker: nothing is done about them here. */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hmslHash } from '../../registry/hmsl.ts'
import { sightingsOf } from '../../registry/leaks.ts'
import type { ServedApi } from '../support/api.ts'
import { type House, testToken } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import {
  fileWith,
  gitguardianHeaders,
  githubHeaders,
  keyList,
  leakOf,
  newSigningKey,
  post,
  type ReportAnswer,
  type SigningKey,
  startApi,
} from '../support/reporting.ts'

const REPORTER = 'reporter-token-of-this-test'
const GITGUARDIAN = 'signature-token-of-this-test'
const key = newSigningKey()
const retired = newSigningKey()
const keysFile = fileWith(keyList(key, { ...retired, current: false }))

let house: House
let api: ServedApi
beforeAll(async () => {
  house = await openHouse({
    time: 'real',
    gateways: 0,
    worker: false,
    collector: false,
    leaks: { reporterToken: REPORTER, gitguardianToken: GITGUARDIAN, githubKeys: keysFile },
  })
  api = await startApi(house)
})
afterAll(async () => {
  await api.stop()
  await house.close()
})

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const operator = () => ({ authorization: `Bearer ${house.config.operatorToken}` })
const asOperator = <T = ReportAnswer>(body: unknown) =>
  post<T>(api, '/v1/leaks', typeof body === 'string' ? body : JSON.stringify(body), operator())
const asGithub = <T = { token_hash: string; token_type: string; label: string }[]>(body: string, signedBy: SigningKey = key) =>
  post<T>(api, '/v1/leaks/github', body, githubHeaders(signedBy, body))
const asGitguardian = <T = { leaks: ReportAnswer[] }>(body: string, at?: number) =>
  post<T>(api, '/v1/leaks/gitguardian', body, gitguardianHeaders(GITGUARDIAN, body, at))
const count = async (): Promise<number> => (await house.db.query<{ n: number }>('select count(*) as n from leaks'))[0]?.n ?? 0
type Problem = { code: string; detail?: string; errors?: { path: string; message: string }[] }

describe('a report by token or hash', () => {
  test('is one incident for each token, however it is named', async () => {
    const { token } = await house.credential()
    const first = await asOperator({ token, source: 'a person' })
    expect([first.status, first.body]).toEqual([
      202,
      { leakId: expect.stringMatching(/^leak_/), isNew: true, matched: 'live', status: 'open' },
    ])
    const hashes = [sha256(token), sha256(token).toUpperCase(), createHash('sha256').update(token).digest('base64')]
    for (const tokenSha256 of hashes) {
      expect((await asOperator({ tokenSha256, source: 'a scanner' })).body).toMatchObject({
        leakId: first.body.leakId,
        isNew: false,
      })
    }
  })

  test('G5: the token is stored nowhere, not even where it stands in an address or a name', async () => {
    const { token } = await house.credential()
    const foreign = 'sk_live_51Hxxxxxxxxxxxxxxxxxxxx'
    const { body } = await asOperator({ token, source: `found ${token}`, url: `https://example.com/?k=${token}` })
    await asOperator({ token: foreign, source: 'a person', url: `https://example.com/${foreign}` })
    await asOperator({ tokenSha256: sha256('x'), source: 'a person', url: `https://example.com/${token}` })
    expect(await sightingsOf(house.db, body.leakId, 10)).toMatchObject([
      { source: 'found [redacted]', url: 'https://example.com/?k=[redacted]' },
    ])
    const secrets = [token, token.split('_')[3] ?? '', foreign]
    for (const table of ['leaks', 'leak_sightings', 'audit', 'keys']) {
      const rows = JSON.stringify(await house.db.query(`select t::text from ${table} t`))
      for (const secret of secrets) expect(rows.includes(secret), table).toBe(false)
    }
  })

  test('says what the token is: live, old key of a rotation, dead, none of ours', async () => {
    const live = await house.credential()
    const dead = await house.credential()
    await house.db.tx(async (tx) => {
      const { compromiseKeyIn } = await import('../../registry/keys.ts')
      await compromiseKeyIn(tx, { keyId: dead.keyId, at: new Date(), actor: 'test', reason: 'test' })
    })
    const of = async (token: string) => (await asOperator({ token, source: 'test' })).body
    expect(await of(live.token)).toMatchObject({ matched: 'live', status: 'open' })
    expect(await of(dead.token)).toMatchObject({ matched: 'dead', status: 'closed' })
    expect(await of(testToken())).toMatchObject({ matched: 'unknown', status: 'closed' })
    expect(await of('tm_prod_anotherBrand')).toMatchObject({ matched: 'unknown', status: 'closed' })
  })

  test('a token that turns out to be ours later is taken up with the next report', async () => {
    const { keyId, token } = await house.credential()
    const { token: other } = await house.credential()
    const [row] = await house.db.query<{ leak_id: string }>(
      `insert into leaks (leak_id, token_hash, matched, status, reported_at, closed_at)
       values ('leak_0000000000000000', $1, 'unknown', 'closed', now(), now()) returning leak_id`,
      [`sha256:${sha256(token)}`],
    )
    const answer = await asOperator({ token, source: 'test' })
    expect(answer.body).toMatchObject({ leakId: row?.leak_id, matched: 'live', status: 'open', isNew: false })
    expect((await leakOf(house, answer.body.leakId)).keyId).toBe(keyId)
    expect((await asOperator({ token: other, source: 'test' })).body.leakId).not.toBe(row?.leak_id)
  })

  test('five sources at once are one incident with five sources', async () => {
    const { token } = await house.credential()
    const github = JSON.stringify([{ token, type: 'kt', url: 'https://github.com/a/b', source: 'commit' }])
    const guardian = JSON.stringify({ action: 'incident_triggered', incident: { hmsl_hash: await hmslHash(token) } })
    const answers = await Promise.all([
      asOperator({ token, source: 'a person' }),
      asOperator({ tokenSha256: sha256(token), source: 'a scanner', url: 'https://example.com/1' }),
      asOperator({ tokenSha256: sha256(token), source: 'a scanner', url: 'https://example.com/2' }),
      asGithub(github),
      asGitguardian(guardian),
    ])
    expect(answers.map(({ status }) => status)).toEqual([202, 202, 202, 200, 200])
    const [first] = answers
    const leakId = first.body.leakId
    expect(await sightingsOf(house.db, leakId, 10)).toHaveLength(5)
    expect(
      await house.db.query('select from leaks l join keys k using (key_id) where k.verifier_sha256 = $1', [
        createHash('sha256').update(token).digest('base64'),
      ]),
    ).toHaveLength(1)
    const audited = await house.db.query<{ action: string; actor: string }>(
      'select action, actor from audit where subject = $1 order by seq',
      [leakId],
    )
    expect(audited.map(({ action }) => action)).toEqual(['leak.reported', ...Array(4).fill('leak.sighted')])
    expect(new Set(audited.map(({ actor }) => actor))).toEqual(new Set(['operator', 'github', 'gitguardian']))
  })

  test('the same report again is counted, and changes nothing else', async () => {
    const { token } = await house.credential()
    const one = { token, source: 'test', url: 'https://example.com' }
    const { body } = await asOperator(one)
    const entries = await house.db.query('select from audit')
    for (let i = 0; i < 3; i++) expect((await asOperator(one)).body).toMatchObject({ leakId: body.leakId, isNew: false })
    expect(await sightingsOf(house.db, body.leakId, 10)).toMatchObject([{ times: 4 }])
    expect(await house.db.query('select from audit')).toHaveLength(entries.length)
  })
})

describe('who may report', () => {
  test('a reporter may report, learns nothing of the token, and may do nothing else', async () => {
    const { token } = await house.credential()
    const reporter = { authorization: `Bearer ${REPORTER}` }
    const { status, body } = await post<ReportAnswer>(api, '/v1/leaks', JSON.stringify({ token, source: 'x' }), reporter)
    expect([status, Object.keys(body).sort()]).toEqual([202, ['isNew', 'leakId']])
    for (const path of [
      '/v1/leaks',
      `/v1/leaks/${body.leakId}`,
      `/v1/leaks/${body.leakId}/report`,
      '/v1/audit',
      '/v1/rotations',
    ]) {
      expect((await api.client.get(path, { token: REPORTER })).status, path).toBe(401)
    }
  })

  test('nobody else may: nothing is recorded', async () => {
    const before = await count()
    for (const authorization of ['', 'Bearer wrong-token-of-this-test', `Basic ${REPORTER}`]) {
      const answer = await post<Problem>(api, '/v1/leaks', JSON.stringify({ token: testToken(), source: 'x' }), {
        authorization,
      })
      expect([answer.status, answer.body.code]).toEqual([401, 'reporter-token-required'])
    }
    expect(await count()).toBe(before)
  })
})

describe('GitHub', () => {
  test("the published examples verify: today's, and the one before it", async () => {
    const examples = [
      {
        identifier: 'f9525bf080f75b3506ca1ead061add62b8633a346606dc5fe544e29231c6ee0d',
        pem: '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsz9ugWDj5jK5ELBK42ynytbo38gP\nHzZFI03Exwz8Lh/tCfL3YxwMdLjB+bMznsanlhK0RwcGP3IDb34kQDIo3Q==\n-----END PUBLIC KEY-----\n',
        signature: 'MEUCIFLZzeK++IhS+y276SRk2Pe5LfDrfvTXu6iwKKcFGCrvAiEAhHN2kDOhy2I6eGkOFmxNkOJ+L2y8oQ9A2T9GGJo6WJY=',
        body: '[{"token":"some_token","type":"some_type","url":"some_url","source":"some_source"}]',
      },
      {
        identifier: 'example',
        pem: 'MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4RpJqUqkCmRCBnYERxZanmcpzQSXs1X/AljlKkbJ8qpVIW4clayyef9gWhFbNHWAA==',
        signature: 'MEUCIQDKZokqnCjrRtw0tni+2Ltvl/uiMJ1EGumEsp1BsNr32AIgQY1YXD2nlj+XNfGK4rBfkMJ1JDOQcYXxa2sY8FNkrKc=',
        body: '[{"token":"some_token","type":"some_type","url":"some_url"}]',
      },
    ]
    const before = readFileSync(keysFile, 'utf8')
    // The list is another one from now on, without a restart.
    writeFileSync(keysFile, keyList(key, ...examples))
    try {
      for (const { identifier, signature, body } of examples) {
        const answer = await post<unknown>(api, '/v1/leaks/github', body, {
          'github-public-key-identifier': identifier,
          'github-public-key-signature': signature,
        })
        expect([answer.status, answer.body]).toEqual([
          200,
          [{ token_hash: sha256('some_token'), token_type: 'some_type', label: 'false_positive' }],
        ])
      }
    } finally {
      writeFileSync(keysFile, before)
    }
  })

  test('answers each token with a label, in order', async () => {
    const { token } = await house.credential()
    const stranger = testToken()
    const { status, body } = await asGithub(
      JSON.stringify([
        { token: stranger, type: 'keyturn_token', url: '', source: 'commit' },
        { token, type: 'keyturn_token', url: 'https://github.com/a/b' },
        { token: stranger, type: 'other' },
      ]),
    )
    expect([status, body]).toEqual([
      200,
      [
        { token_hash: sha256(stranger), token_type: 'keyturn_token', label: 'false_positive' },
        { token_hash: sha256(token), token_type: 'keyturn_token', label: 'true_positive' },
        { token_hash: sha256(stranger), token_type: 'other', label: 'false_positive' },
      ],
    ])
  })

  test.each([
    ['an altered body', 403, 'signature-invalid', (body: string) => [`${body} `, githubHeaders(key, body)]],
    [
      'another key than the identifier says',
      403,
      'signature-invalid',
      (body: string) => [body, githubHeaders({ ...newSigningKey(), identifier: key.identifier }, body)],
    ],
    [
      'an identifier that nobody knows',
      401,
      'signing-key-unknown',
      (body: string) => [body, githubHeaders(newSigningKey(), body)],
    ],
    ['a key that is not current any more', 403, 'signing-key-retired', (body: string) => [body, githubHeaders(retired, body)]],
    ['no signature', 401, 'signature-missing', (body: string) => [body, { 'github-public-key-identifier': key.identifier }]],
    ['no identifier', 401, 'signature-missing', (body: string) => [body, { 'github-public-key-signature': 'MEUCIQ==' }]],
    [
      'a signature that is none',
      403,
      'signature-invalid',
      (body: string) => [body, { ...githubHeaders(key, body), 'github-public-key-signature': 'AAAA' }],
    ],
    [
      'a signature in another form',
      403,
      'signature-invalid',
      (body: string) => [body, { ...githubHeaders(key, body), 'github-public-key-signature': '!!' }],
    ],
  ] as [string, number, string, (body: string) => [string, Record<string, string>]][])(
    '%s is refused with %i %s, and nothing is recorded',
    async (_, status, code, make) => {
      const { token } = await house.credential()
      const before = await count()
      const [body, headers] = make(JSON.stringify([{ token, type: 't', url: 'u' }]))
      const answer = await post<Problem>(api, '/v1/leaks/github', body, headers)
      expect([answer.status, answer.body.code]).toEqual([status, code])
      expect(answer.body.detail).toBeTruthy()
      expect(await count()).toBe(before)
    },
  )

  test.each([
    ['not JSON', 'token: x', 400, 'not-json'],
    ['no array', '{"token":"x"}', 400, 'invalid-request'],
    ['an entry without a token', '[{"token":"a"},{"type":"t"}]', 400, 'invalid-request'],
    ['an entry whose token is a number', '[{"token":17}]', 400, 'invalid-request'],
    ['nothing', '', 400, 'not-json'],
  ])('%s, rightly signed, is refused as a whole', async (_, body, status, code) => {
    const before = await count()
    const answer = await asGithub<Problem>(body)
    expect([answer.status, answer.body.code]).toEqual([status, code])
    expect(await count()).toBe(before)
  })

  test('an empty list is no leak', async () => expect(await asGithub('[]')).toMatchObject({ status: 200, body: [] }))

  test('10,000 tokens in one report are all recorded and labelled', async () => {
    const ours = await Promise.all(Array.from({ length: 5 }, () => house.credential()))
    const tokens = Array.from({ length: 10_000 }, (_, i) => ours[i / 2_000]?.token ?? testToken())
    const body = JSON.stringify(
      tokens.map((token, i) => ({
        token,
        type: 'keyturn_token',
        url: `https://github.com/octocat/Hello-World/blob/12345600b9cbe38a219f39a9941c9319b600c002/${i}`,
        source: 'content',
      })),
    )
    const before = await count()
    const answer = await asGithub(body)
    expect(answer.status).toBe(200)
    expect(answer.body.map(({ token_hash }) => token_hash)).toEqual(tokens.map(sha256))
    expect(answer.body.filter(({ label }) => label === 'true_positive').map(({ token_hash }) => token_hash)).toEqual(
      ours.map(({ token }) => sha256(token)),
    )
    expect((await count()) - before).toBe(10_000)
    const again = await asGithub(body)
    expect(again.body).toEqual(answer.body)
    expect((await count()) - before).toBe(10_000)
  })

  test('a body of 10 MB is refused in words', async () => {
    const body = JSON.stringify([{ token: testToken(), type: 'x'.repeat(10_000_000) }])
    const answer = await asGithub<Problem>(body)
    expect([answer.status, answer.body.code]).toEqual([413, 'too-large'])
    expect(answer.body.detail).toContain('8192 KiB')
  })

  test('what is not JSON by its media type is refused before it is read', async () => {
    const answer = await post<Problem>(api, '/v1/leaks/github', 'x', { 'content-type': 'text/plain' })
    expect([answer.status, answer.body.code]).toEqual([415, 'unsupported-media-type'])
  })
})

describe('GitGuardian', () => {
  const event = (hmsl: string, more: object = {}): string =>
    JSON.stringify({
      source: 'GitGuardian',
      timestamp: '2022-06-23T09:10:24.594597Z',
      action: 'new_occurrence',
      message: 'A new occurrence has been detected for this incident.',
      target_user: 'GitGuardian',
      incident: {
        id: 31605,
        secret_hash: 'xxx',
        hmsl_hash: hmsl,
        gitguardian_url: 'https://dashboard.gitguardian.com/workspace/1/incidents/1',
        share_url: null,
      },
      occurrence: { id: 1234, url: 'https://github.com/user/repo/commit/123#diff', matches: [], filepath: 'a.js' },
      ...more,
    })

  test('a token is known by the only thing that its webhook brings: its own hash', async () => {
    const { token, keyId } = await house.credential()
    const { status, body } = await asGitguardian(event(await hmslHash(token)))
    expect(status).toBe(200)
    const [answer] = body.leaks
    if (answer === undefined) throw new Error('no leak was recorded')
    expect(await leakOf(house, answer.leakId)).toMatchObject({
      keyId,
      matched: 'live',
      hash: { kind: 'sha256', hex: sha256(token) },
    })
    expect(await sightingsOf(house.db, answer.leakId, 5)).toMatchObject([
      {
        source: 'gitguardian',
        url: 'https://github.com/user/repo/commit/123#diff',
        foundAt: new Date('2022-06-23T09:10:24.594Z'),
      },
    ])
  })

  test('a hash of none of our tokens is recorded as unknown', async () => {
    const hmsl = await hmslHash(testToken())
    const { body } = await asGitguardian(event(hmsl))
    expect(await leakOf(house, body.leaks[0]?.leakId as ReportAnswer['leakId'])).toMatchObject({
      matched: 'unknown',
      hash: { kind: 'hmsl', hex: hmsl },
    })
  })

  test('a token of ours that stands in the event is taken, too', async () => {
    const { token, keyId } = await house.credential()
    const { body } = await asGitguardian(event('', { occurrence: { matches: [{ match: `key=${token}` }] } }))
    expect((await leakOf(house, body.leaks[0]?.leakId as ReportAnswer['leakId'])).keyId).toBe(keyId)
  })

  test.each(['incident_resolved', 'incident_assigned', 'incident_ignored', 'something_new'])(
    '%s tells of no leak',
    async (action) => {
      const { token } = await house.credential()
      const before = await count()
      expect(await asGitguardian(event(await hmslHash(token), { action }))).toMatchObject({ status: 200, body: { leaks: [] } })
      expect(await count()).toBe(before)
    },
  )

  test('the hash is the one that GitGuardian makes', async () => {
    // hashlib.scrypt(b"hello", salt=hashlib.sha256(b"GitGuardian").digest(), n=2048, r=8, p=1, dklen=32)
    expect(await hmslHash('hello')).toBe('9c5e58ea929286e18d9de75f1f2686bf842f1cdac1e2af9e8ff115974e730ca3')
  })

  test.each([
    ['an altered body', 'signature-invalid', 403, (body: string) => [`${body} `, gitguardianHeaders(GITGUARDIAN, body)]],
    ['another token', 'signature-invalid', 403, (body: string) => [body, gitguardianHeaders('another-signature-token', body)]],
    [
      'a timestamp of two minutes ago',
      'timestamp-stale',
      403,
      (body: string) => [body, gitguardianHeaders(GITGUARDIAN, body, Date.now() - 120_000)],
    ],
    [
      'a timestamp in two minutes',
      'timestamp-stale',
      403,
      (body: string) => [body, gitguardianHeaders(GITGUARDIAN, body, Date.now() + 120_000)],
    ],
    [
      'a timestamp that was moved',
      'signature-invalid',
      403,
      (body: string) => [
        body,
        { ...gitguardianHeaders(GITGUARDIAN, body, Date.now() - 120_000), timestamp: String(Math.floor(Date.now() / 1000)) },
      ],
    ],
    [
      'no timestamp',
      'signature-missing',
      401,
      (body: string) => [body, { 'gitguardian-signature': gitguardianHeaders(GITGUARDIAN, body)['gitguardian-signature'] ?? '' }],
    ],
    [
      'a signature of another kind',
      'signature-missing',
      401,
      (body: string) => [body, { ...gitguardianHeaders(GITGUARDIAN, body), 'gitguardian-signature': 'md5=00' }],
    ],
  ] as [string, string, number, (body: string) => [string, Record<string, string>]][])(
    '%s is refused with %s, and nothing is recorded',
    async (_, code, status, make) => {
      const { token } = await house.credential()
      const before = await count()
      const [body, headers] = make(event(await hmslHash(token)))
      const answer = await post<Problem>(api, '/v1/leaks/gitguardian', body, headers)
      expect([answer.status, answer.body.code]).toEqual([status, code])
      expect(await count()).toBe(before)
    },
  )
})

describe('bad input', () => {
  test.each([
    ['not JSON', '{"token": kt_prod_', 'not-json', undefined],
    ['no object', '"x"', 'invalid-request', ''],
    ['neither token nor hash', '{"source":"x"}', 'invalid-request', ''],
    ['both token and hash', `{"source":"x","token":"a","tokenSha256":"${sha256('a')}"}`, 'invalid-request', ''],
    ['a hash of another length', '{"source":"x","tokenSha256":"abc"}', 'invalid-request', '/tokenSha256'],
    ['no source', '{"token":"x"}', 'invalid-request', '/source'],
    ['an empty list', '[]', 'invalid-request', ''],
    ['a field that is none', '{"token":"x","source":"y","colour":"blue"}', 'invalid-request', '/colour'],
    ['a time that is none', '{"token":"x","source":"y","at":"yesterday"}', 'invalid-request', '/at'],
  ])('%s is refused with a code and the field', async (_, body, code, path) => {
    const before = await count()
    const answer = await asOperator<Problem>(body)
    expect([answer.status, answer.body.code, answer.body.errors?.[0]?.path]).toEqual([400, code, path])
    expect(await count()).toBe(before)
  })

  test('a list is taken as a whole, and refused as a whole', async () => {
    const before = await count()
    const bad = await asOperator<Problem>([{ token: testToken(), source: 'x' }, { source: 'x' }])
    expect(bad.body.errors).toEqual([{ path: '/1', message: 'give one of tokenSha256 and token' }])
    expect(await count()).toBe(before)
    const good = await asOperator<{ leaks: ReportAnswer[] }>([
      { token: testToken(), source: 'x' },
      { token: testToken(), source: 'x' },
    ])
    expect([good.status, good.body.leaks.map(({ isNew }) => isNew)]).toEqual([202, [true, true]])
    expect(await count()).toBe(before + 2)
  })

  test('G5: no answer repeats a secret that was put where it does not belong', async () => {
    const token = testToken()
    for (const body of [
      `{"${token}":1,"source":"x"}`,
      `{"source":"x","token":"y" ${token}`,
      `{"tokenSha256":"${token}","source":"x"}`,
    ]) {
      const answer = await asOperator<Problem>(body)
      expect(answer.status).toBe(400)
      expect(JSON.stringify(answer.body)).not.toContain(token)
    }
  })
})

describe('reading', () => {
  test('leaks are listed, latest first and by pages, and each tells its sources', async () => {
    const { token, credentialId } = await house.credential()
    const { body } = await asOperator({ token, source: 'a person', url: 'https://example.com/a', at: '2026-01-01T00:00:00Z' })
    const read = async <T>(path: string): Promise<T> => (await api.client.get<T>(path)).body
    const page = await read<{ leaks: { leakId: string }[]; next: string }>('/v1/leaks?limit=1')
    expect(page.leaks).toMatchObject([
      { leakId: body.leakId, matched: 'live', tokenSha256: sha256(token), credentialId, sightings: 1 },
    ])
    expect((await read<{ leaks: unknown[] }>(`/v1/leaks?limit=1&before=${page.next}`)).leaks).not.toMatchObject([
      { leakId: body.leakId },
    ])
    expect((await read<{ leaks: unknown[] }>(`/v1/leaks?credential=${credentialId}`)).leaks).toHaveLength(1)
    expect(
      (await read<{ leaks: { matched: string }[] }>('/v1/leaks?matched=unknown')).leaks.every(
        ({ matched }) => matched === 'unknown',
      ),
    ).toBe(true)
    expect(await read(`/v1/leaks/${body.leakId}`)).toMatchObject({
      sources: [
        { source: 'a person', url: 'https://example.com/a', reporter: 'operator', times: 1, foundAt: '2026-01-01T00:00:00.000Z' },
      ],
    })
    expect(await read('/v1/leaks/leak_0000000000000001')).toMatchObject({ status: 404, code: 'unknown-leak' })
  })

  test('what outsiders write stays text in the Markdown of a report', async () => {
    const { body } = await asOperator({
      token: testToken(),
      source: 'x | y',
      url: 'https://e.com/#\n\n<script>`*_[a](javascript:1)',
    })
    for (const [path, accept] of [
      ['report.md', '*/*'],
      ['report', 'text/markdown'],
    ] as const) {
      const { headers, body: text } = await api.client.get<string>(`/v1/leaks/${body.leakId}/${path}`, { headers: { accept } })
      expect(headers.get('content-type')).toBe('text/markdown; charset=utf-8')
      expect(text).toContain('| x \\| y | https://e.com/\\#  \\<script\\>\\`\\*\\_\\[a\\](javascript:1) |')
      expect(text).toContain('| Token | none of ours |')
    }
    const json = await api.client.get(`/v1/leaks/${body.leakId}/report`, {
      headers: { accept: 'application/json, text/markdown' },
    })
    expect(json.body).toMatchObject({ leakId: body.leakId, matched: 'unknown', told: [], refusals: [] })
  })
})
