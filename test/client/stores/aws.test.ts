/** Secrets Manager, as Moto's server answers for it. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type AwsOptions, awsStore } from '../../../client/src/aws.ts'
import { findMoto, type Moto, startMoto } from '../../support/moto.ts'
import { behavesAsStore, codeOf, holding, NOBODY, newKey, PENDING, type Place } from './behaviour.ts'

vi.setConfig({ hookTimeout: 600_000 })
const REGION = 'eu-central-1'
const KEYS = { accessKeyId: 'testing', secretAccessKey: 'testing' }

const packages = await findMoto((what) => process.stderr.write(`${what}\n`))
let moto: Moto
beforeAll(async () => {
  if (packages !== undefined) moto = await startMoto(packages)
})
afterAll(() => moto?.stop())

async function call<T = Record<string, unknown>>(action: string, input: object): Promise<T> {
  const response = await fetch(moto.endpoint, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-target': `secretsmanager.${action}`,
      // Moto reads the region out of it, and checks no signature.
      authorization: `AWS4-HMAC-SHA256 Credential=testing/20260101/${REGION}/secretsmanager/aws4_request`,
    },
    body: JSON.stringify(input),
  })
  if (!response.ok) throw new Error(`${action}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}

function fresh(secretId = `acme/${randomBytes(4).toString('hex')}`) {
  const at = async (stage: string): Promise<Record<string, string>> => {
    const { SecretString } = await call<{ SecretString: string }>('GetSecretValue', { SecretId: secretId, VersionStage: stage })
    return JSON.parse(SecretString)
  }
  return {
    secretId,
    at,
    store: (more: Partial<AwsOptions> = {}) =>
      awsStore({ secretId, region: REGION, endpoint: moto.endpoint, credentials: async () => KEYS, ...more }),
    async put(fields: object) {
      const SecretString = JSON.stringify(fields)
      const version = { ClientRequestToken: crypto.randomUUID(), SecretString }
      await call('CreateSecret', { Name: secretId, ...version }).catch(() =>
        call('PutSecretValue', { SecretId: secretId, ...version }),
      )
    },
    seen: () => at('AWSCURRENT'),
    async stages() {
      const { VersionIdsToStages } = await call<{ VersionIdsToStages: Record<string, string[]> }>('DescribeSecret', {
        SecretId: secretId,
      })
      return Object.fromEntries(Object.entries(VersionIdsToStages).map(([id, stages]) => [id, [...stages].sort()]))
    },
  } satisfies Place & Record<string, unknown>
}

describe.skipIf(packages === undefined)('a secret of AWS Secrets Manager', () => {
  behavesAsStore(fresh)

  test('the labels move as in a rotation of its own: AWSPENDING while it is under way, then AWSCURRENT; AWSPREVIOUS stays at the old key', async () => {
    const place = fresh()
    const [old, next] = [newKey(), newKey()]
    const store = place.store()
    const made = await store.replace(holding(old), undefined)
    const claiming = await store.replace(holding(old, { pending: PENDING }), made)
    expect(await place.stages()).toMatchObject({ [made]: ['AWSCURRENT'], [claiming]: ['AWSPENDING', 'KEYTURN'] })
    expect(await place.at('AWSCURRENT')).not.toHaveProperty('keyturn.pending')

    const switched = await store.replace(holding(next, { previous: old }), claiming)
    expect((await place.stages())[switched]).toEqual(['AWSCURRENT', 'AWSPENDING', 'KEYTURN'])
    expect((await place.at('AWSPREVIOUS'))['token']).toBe(old.token)
    const settled = await store.replace(holding(next), switched)
    expect(await place.stages()).toMatchObject({ [switched]: ['AWSCURRENT', 'AWSPENDING'], [settled]: ['KEYTURN'] })
    expect((await place.at('AWSPREVIOUS'))['token']).toBe(old.token)
    expect((await store.read())?.value).toEqual(holding(next))

    const again = await store.replace(holding(next, { pending: PENDING }), settled)
    const givenUp = await store.replace(holding(next), again)
    const stages = await place.stages()
    expect([stages[again] ?? [], stages[givenUp]]).toEqual([[], ['KEYTURN']])
    expect(Object.values(stages).flat()).not.toContain('AWSPENDING')
  })

  test('the first key in a secret that has other fields leaves them there; of several that come at once, one is first', async () => {
    const place = fresh()
    await place.put({ region: 'eu' })
    const [one, other] = [newKey(), newKey()]
    const outcomes = await Promise.all([one, other].map((key) => codeOf(place.store().replace(holding(key), undefined))))
    expect(outcomes.sort()).toEqual(['conflict', 'no error'])
    expect(await place.seen()).toMatchObject({ region: 'eu', token: expect.stringMatching(/^kt_/) })
    const { value, version } = (await place.store().read()) ?? expect.fail()
    const next = newKey()
    await place.store().replace(holding(next, { previous: value.current ?? expect.fail() }), version)
    expect(await place.seen()).toMatchObject({ region: 'eu', token: next.token })
  })

  test('who stops after the write and before AWSCURRENT has moved leaves nothing that the next reader does not finish', async () => {
    const place = fresh()
    const [old, next] = [newKey(), newKey()]
    const made = await place.store().replace(holding(old), undefined)
    const claiming = await place.store().replace(holding(old, { pending: PENDING }), made)
    const dying: typeof fetch = async (input, init) => {
      const text = await (input as Request).clone().text()
      if (text.includes('"VersionStage":"AWSCURRENT"') && text.includes('MoveTo')) throw new Error('killed')
      return fetch(input, init)
    }
    expect(await codeOf(place.store({ fetch: dying }).replace(holding(next, { previous: old }), claiming))).toBe('unreachable')
    expect((await place.seen())['token']).toBe(old.token)
    expect((await place.store().read())?.value).toEqual(holding(next, { previous: old }))
    expect((await place.seen())['token']).toBe(next.token)
  })

  test('says what is wrong: a bare token, bytes, a secret marked for deletion, no permission, no server', async () => {
    const bare = fresh()
    await call('CreateSecret', { Name: bare.secretId, SecretString: newKey().token })
    const refusal = await bare
      .store()
      .read()
      .catch((thrown: unknown) => thrown)
    expect(refusal).toMatchObject({ code: 'unreadable', message: expect.stringContaining('Make it one, {"token": "<the key>"}') })
    expect(JSON.stringify([String(refusal), refusal])).not.toContain('kt_prod_')
    const bytes = fresh()
    await call('CreateSecret', { Name: bytes.secretId, SecretBinary: 'AAAA' })
    expect(await codeOf(bytes.store().read())).toBe('unreadable')

    const gone = fresh()
    await gone.store().replace(holding(newKey()), undefined)
    await call('DeleteSecret', { SecretId: gone.secretId })
    await expect(gone.store().read()).rejects.toMatchObject({ code: 'failed', message: expect.stringContaining('deletion') })
    expect(await codeOf(gone.store({ endpoint: NOBODY }).read())).toBe('unreachable')

    // Moto lets everybody in.
    const refusing = (type: string, status: number): typeof fetch =>
      vi.fn(async () => new Response(JSON.stringify({ __type: `com.amazon#${type}`, message: 'no' }), { status }))
    for (const [type, status, code] of [
      ['AccessDeniedException', 400, 'not-allowed'],
      ['ExpiredTokenException', 400, 'not-allowed'],
      ['InvalidSignatureException', 400, 'not-allowed'],
      ['ThrottlingException', 400, 'unreachable'],
      ['InternalServiceError', 500, 'unreachable'],
      ['LimitExceededException', 400, 'no-space'],
    ] as const) {
      expect([type, await codeOf(gone.store({ fetch: refusing(type, status) }).read())]).toEqual([type, code])
    }
  })

  test('credentials come from the environment, or from the endpoint of the container and are kept until shortly before their end', async () => {
    const place = fresh()
    const options = { secretId: place.secretId, region: REGION, endpoint: moto.endpoint }
    expect(await codeOf(awsStore(options).read())).toBe('not-allowed')
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'testing').stubEnv('AWS_SECRET_ACCESS_KEY', 'testing')
    expect(await awsStore(options).read()).toBeUndefined()
    vi.unstubAllEnvs()

    let asked = 0
    let endsInMs = 3_600_000
    vi.stubEnv('AWS_CONTAINER_CREDENTIALS_FULL_URI', 'http://169.254.170.23/v1/credentials')
    vi.stubEnv('AWS_CONTAINER_AUTHORIZATION_TOKEN', 'of the pod')
    const send: typeof fetch = async (input, init) => {
      if (typeof input !== 'string') return fetch(input, init)
      asked += 1
      expect(new Headers(init?.headers).get('authorization')).toBe('of the pod')
      const Expiration = new Date(Date.now() + endsInMs).toISOString()
      return Response.json({ AccessKeyId: 'a', SecretAccessKey: 'b', Token: 'c', Expiration })
    }
    const store = awsStore({ ...options, fetch: send })
    await store.read()
    await store.read()
    expect(asked).toBe(1)
    endsInMs = 60_000
    const short = awsStore({ ...options, fetch: send })
    await short.read()
    const after = asked
    await short.read()
    expect(asked).toBeGreaterThan(after)
    vi.unstubAllEnvs()
  })
})
