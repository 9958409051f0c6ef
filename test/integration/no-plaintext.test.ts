/**
 * G5, over everything at once: rotations of every kind with API, worker, collector, leak listener and gateways as processes that log all they can,
 * and then a search for every secret in every place.
 */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { encodeEvent, LEAK_REPORT_TYPE, type RotationId } from '@keyturn/contract'
import getPort from 'get-port'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { webhookSecrets } from '../../activities/channels/web.ts'
import { createKafka, createPublisher } from '../../activities/kafka.ts'
import { openDatabase } from '../../registry/database.ts'
import { startKeyturn } from '../cli/office.ts'
import { placeIn, trustKeyturn } from '../support/clients-vault.ts'
import { eventually, House } from '../support/house.ts'
import { findBao, startBao } from '../support/openbao.ts'
import {
  environmentOf,
  type GatewayProcess,
  type Running,
  startGatewayProcess,
  startProgram,
  startUpstream,
} from '../support/processes.ts'
import { createDatabase, uniqueTopics } from '../support/servers.ts'
import { type Found, readTables, readTopics, readWorkflows, watchArguments } from './places.ts'
import { Secrets } from './secrets.ts'

const MINUTE = 60_000
const bao = await findBao((what) => process.stderr.write(`${what}\n`))
const secrets = new Secrets()
/** What came back that was not to hand out a secret: bodies and headers. */
const answers: Found[] = []
const notices: { type: string; claimUrl?: string }[] = []

let house: House
let dropRole: () => Promise<void>
let api = ''
let programs: Running[] = []
let gateways: GatewayProcess[] = []
let stopOthers: () => Promise<void>
let clientId = ''
let keyturn: (...args: string[]) => Promise<{ code: number | null; stdout: string; stderr: string }>
const commands: Found[] = []
const argumentsSeen = watchArguments()

beforeAll(async () => {
  const { topics } = await uniqueTopics()
  house = await House.open(
    {
      postgresUrl: await databaseWithPassword(),
      kafkaBrokers: inject('kafkaBrokers'),
      topics,
      temporalAddress: inject('temporalAddress'),
      workflowBundle: inject('workflowBundle'),
    },
    { time: 'real', gateways: 0, worker: false, collector: false },
  )
  secrets.add('the operator token', house.config.operatorToken)
  secrets.add('the key-encryption key', house.config.kek)
  const port = await getPort({ host: '127.0.0.1' })
  api = `http://127.0.0.1:${port}`
  const env = {
    ...environmentOf(house, 'trace'),
    KEYTURN_LISTEN: `127.0.0.1:${port}`,
    KEYTURN_PUBLIC_URL: api,
    KEYTURN_LEAK_AT_ONCE: 'read:*',
  }
  programs = ['api-server', 'rotation-worker', 'usage-collector', 'leak-listener'].map((name) =>
    startProgram(`workers/${name}.ts`, env),
  )
  const upstream = await startUpstream()
  gateways = await Promise.all(
    ['gw-1', 'gw-2'].map((id) =>
      startGatewayProcess(house, id, { KEYTURN_GATEWAY_UPSTREAM: upstream.url, KEYTURN_LOG_LEVEL: 'trace' }),
    ),
  )
  await eventually(
    () =>
      fetch(`${api}/readyz`).then(
        ({ ok }) => ok,
        () => false,
      ),
    () => `the API: ${programs[0]?.output()}`,
    2 * MINUTE,
  )
  const webhook = await startWebhook()
  stopOthers = async () => {
    upstream.server.close()
    webhook.close()
  }
  const operator = { KEYTURN_API: api, KEYTURN_TOKEN: house.config.operatorToken }
  keyturn = async (...args) => {
    const finished = await startKeyturn(args, { cwd: '/', env: operator }).finished
    commands.push({ place: `output of keyturn ${args[0]}`, bytes: Buffer.from(finished.stdout + finished.stderr) })
    return finished
  }
  const client = await ask('POST', '/v1/clients', { name: 'Acme', contacts: [{ channel: 'webhook', url: webhook.url }] })
  clientId = String(client['clientId'])
  webhook.verifyWith(webhookSecrets(house.sealer, clientId).join())
}, 5 * MINUTE)

afterAll(async () => {
  argumentsSeen.stop()
  for (const program of [...programs, ...gateways]) await program.stop()
  await stopOthers()
  await house.close()
  await dropRole()
})

/** A database under a password that is nobody else's. */
async function databaseWithPassword(): Promise<string> {
  const url = new URL(await createDatabase())
  const password = randomBytes(24).toString('base64url')
  secrets.add("PostgreSQL's password", password)
  const role = `keyturn_test_${randomBytes(6).toString('hex')}`
  const owner = url.href
  const asOwner = async (statement: string): Promise<void> => {
    const db = openDatabase(owner)
    await db.query(statement)
    await db.close()
  }
  await asOwner(`create role ${role} login password '${password}' in role "${url.username}"`)
  dropRole = () => asOwner(`drop role ${role}`)
  url.username = role
  url.password = password
  return url.href
}

/** Receives webhooks, and checks that they are signed. */
async function startWebhook(): Promise<{ url: string; verifyWith(secret: string): void; close(): void }> {
  let receiver: Webhook | undefined
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    receiver?.verify(body, request.headers as Record<string, string>)
    const { type, data } = JSON.parse(body) as { type: string; data: { claimUrl?: string } }
    if (data.claimUrl !== undefined) secrets.add(`the claim of ${type}`, data.claimUrl.split('/').at(-1) ?? '')
    notices.push({ type, ...(data.claimUrl === undefined ? {} : { claimUrl: data.claimUrl }) })
    response.end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    verifyWith(secret) {
      secrets.add('the secret of the webhook', secret.replace('whsec_', ''))
      secrets.add('the secret of the webhook, decoded', Buffer.from(secret.replace('whsec_', ''), 'base64'))
      receiver = new Webhook(secret)
    },
    close: () => server.close(),
  }
}

type Body = Readonly<Record<string, unknown>>

/** A request as the operator. */
async function ask(method: string, path: string, body?: object): Promise<Body> {
  const response = await raw(api, method, path, {
    headers: { authorization: `Bearer ${house.config.operatorToken}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (response.status >= 300) throw new Error(`${method} answered ${response.status}`)
  return response.body
}

/** A request whose answer is to hold no secret, whatever was in the request. */
async function raw(
  base: string,
  method: string,
  path: string,
  init: RequestInit = {},
): Promise<{ status: number; body: Body; text: string }> {
  const response = await fetch(base + path, { ...init, method })
  const text = await response.text()
  const headers = [...response.headers].flat().join('\n')
  // The one route that hands a claim to the operator; the claim is searched for everywhere else.
  const handsOut = path.endsWith('/credentials') && response.status === 201
  if (!handsOut) answers.push({ place: `answer ${response.status} to ${method}`, bytes: Buffer.from(`${headers}\n${text}`) })
  return { status: response.status, text, body: text.startsWith('{') ? (JSON.parse(text) as Body) : {} }
}

/** Fetches a secret where it is handed out. */
async function redeem(path: string, headers: Readonly<Record<string, string>> = {}): Promise<string> {
  const response = await fetch(api + path, { method: 'POST', headers })
  const { token } = (await response.json()) as { token?: string }
  if (response.status !== 200 || token === undefined) throw new Error(`no secret: ${response.status}`)
  secrets.addToken('a token', token)
  return token
}

async function newCredential(name: string, kind = 'bearer'): Promise<{ credentialId: string; claim: string }> {
  const what = { name, environment: 'prod', scopes: ['read:prices'], kind }
  const made = await ask('POST', `/v1/clients/${clientId}/credentials`, what)
  const claim = String(made['claim'])
  secrets.add('the claim of a credential', claim)
  return { credentialId: String(made['credentialId']), claim }
}

const rotate = async (credentialId: string, more: object): Promise<RotationId> => {
  const windows = { overlap: '1h', quietPeriod: '0s', regretWindow: '0s' }
  const body = { trigger: 'manual', reason: 'a test', ...windows, ...more }
  return (await ask('POST', `/v1/credentials/${credentialId}/rotations`, body))['rotationId'] as RotationId
}

/** The claim of the newest notice of a kind. */
const noticed = (kind: string, after = 0): Promise<string> =>
  eventually(
    () =>
      notices
        .slice(after)
        .findLast(({ type }) => type === `keyturn.rotation.${kind}`)
        ?.claimUrl?.slice(api.length),
    `the notice ${kind}`,
    MINUTE,
  )

const ended = (rotationId: RotationId, stage: string): Promise<unknown> =>
  eventually(async () => (await house.rotation(rotationId)).stage === stage, `${rotationId} ${stage}`, MINUTE)

const use = async (token: string): Promise<number[]> => Promise.all(gateways.map((gateway) => gateway.call(token)))

test(
  'G5: no secret is left in histories, topics, tables, logs, arguments, errors or metrics',
  async () => {
    // Claimed once, tried twice; rotated with the successor fetched in-band; the old key still asked for after its end.
    const one = await newCredential('one')
    const first = await redeem(`/v1/claims/${one.claim}`)
    expect((await raw(api, 'POST', `/v1/claims/${one.claim}`)).status).toBe(410)
    expect(await use(first)).toEqual([200, 200])
    const completed = await rotate(one.credentialId, {})
    const claimOfSecond = await noticed('introduced')
    const second = await redeem('/v1/successor', { authorization: `Bearer ${first}` })
    expect((await raw(api, 'POST', '/v1/successor', { headers: { authorization: `Bearer ${first}` } })).status).toBe(410)
    expect((await raw(api, 'POST', claimOfSecond)).status).toBe(410)
    expect(await use(second)).toEqual([200, 200])
    await ended(completed, 'completed')
    expect(await use(first)).toEqual([401, 401])

    // Rolled back after the new key was in use.
    const before = notices.length
    const rolledBack = await rotate(one.credentialId, { quietPeriod: '30m' })
    const third = await redeem(await noticed('introduced', before))
    expect(await use(third)).toEqual([200, 200])
    await ask('POST', `/v1/rotations/${rolledBack}/roll-back`, { reason: 'it does not work' })
    await ended(rolledBack, 'rolled-back')
    expect(await use(third)).toEqual([401, 401])

    // An emergency, asked for on the command line.
    const emergency = await keyturn('emergency', one.credentialId, '--reason', 'found in a repository', '--watch')
    expect(emergency.code).toBe(0)
    const fourth = await redeem(await noticed('emergency'))
    expect(await use(fourth)).toEqual([200, 200])
    expect(await use(second)).toEqual([401, 401])

    // A claim that nobody takes in time: what it sealed is known here alone.
    const two = await newCredential('two')
    const fifth = await redeem(`/v1/claims/${two.claim}`)
    const forgotten = await newCredential('forgotten')
    const held = await rotate(two.credentialId, { overlap: '20s' })
    await openClaims()
    await house.db.query(
      `update claims set expires_at = now() from keys where keys.key_id = claims.key_id and keys.credential_id = $1`,
      [forgotten.credentialId],
    )
    await ended(held, 'held')
    expect((await raw(api, 'POST', `/v1/claims/${forgotten.claim}`)).body['code']).toBe('claim-expired')

    // Signing keys are never shown, so Kafka has not even their hashes.
    const signing = await newCredential('signing', 'hmac-sha256')
    const sixth = await redeem(`/v1/claims/${signing.claim}`)
    const beforeSigning = notices.length
    const rotated = await rotate(signing.credentialId, {})
    const seventh = await redeem(await noticed('introduced', beforeSigning))
    expect((await raw(api, 'POST', '/v1/successor', { headers: { authorization: `Bearer ${sixth}` } })).status).toBe(403)
    expect(await use(seventh)).toEqual([401, 401])
    await ask('POST', `/v1/rotations/${rotated}/deactivate-now`, { reason: 'a test' })
    await ended(rotated, 'completed')

    await writtenIntoAVault()
    await requestsWithSecrets([first, fourth, fifth, sixth, one.claim])
    await ask('POST', `/v1/rotations/${held}/escalate`, { reason: 'nobody came' })
    await ended(held, 'completed')
    await leaks(fourth)

    const places = await everything()
    expect(secrets.search(places)).toEqual([])
    const hashes = new Secrets()
    for (const token of [sixth, seventh]) hashes.add('a hash', createHash('sha256').update(token).digest())
    const { keys } = house.config.topics
    expect(hashes.search(places.filter(({ place }) => place.startsWith(keys)))).toEqual([])
    expect(hashes.search(places.filter(({ place }) => place === 'table public.keys'))).not.toEqual([])
  },
  15 * MINUTE,
)

/** A key that nobody fetches: Keyturn is refused at the client's Vault first, and then writes it there. */
async function writtenIntoAVault(): Promise<void> {
  if (bao === undefined) return
  const vault = await startBao(bao)
  try {
    await trustKeyturn(vault, { api, issuer: api })
    const place = placeIn(vault)
    const { credentialId, claim } = await newCredential('written')
    await redeem(`/v1/claims/${claim}`)
    await ask('PATCH', `/v1/credentials/${credentialId}`, { delivery: place.delivery })
    const rotationId = await rotate(credentialId, {})
    await ended(rotationId, 'held')
    await place.allow(credentialId)
    await ask('POST', `/v1/rotations/${rotationId}/resume`, { reason: 'the role is there' })
    await ended(rotationId, 'monitoring')
    const { token = '' } = (await place.fields()).data
    secrets.addToken('a token that was written', token)
    // Its use is all the evidence that a quiet period of nothing waits for.
    expect(await use(token)).toEqual([200, 200])
    await ended(rotationId, 'completed')
  } finally {
    await vault.stop()
  }
}

/** A key in use leaks: an operator reports the token, and says it in every field; somebody else puts its hash on the topic. */
async function leaks(token: string): Promise<void> {
  const where = { source: `a scan for ${token}`, url: `https://example.com/?k=${token}` }
  const { leakId } = await ask('POST', '/v1/leaks', { token, ...where })
  const tokenSha256 = createHash('sha256').update(token).digest('hex')
  const publisher = createPublisher(createKafka(house.config.kafkaBrokers, 'test', house.log))
  const data = { tokenSha256, source: 'a scanner' }
  const value = encodeEvent({ type: LEAK_REPORT_TYPE, source: '/a/scanner', subject: tokenSha256, time: new Date(), data })
  await publisher.send(house.config.topics.leaks, [{ key: tokenSha256, value }])
  await publisher.stop()
  await eventually(
    async () => {
      const report = await ask('GET', `/v1/leaks/${leakId}/report`)
      return report['status'] === 'closed' && (report['sources'] as unknown[]).length === 2
    },
    'the incident is closed, with both reports in it',
    3 * MINUTE,
  )
  expect(
    (
      await raw(api, 'GET', `/v1/leaks/${leakId}/report.md`, {
        headers: { authorization: `Bearer ${house.config.operatorToken}` },
      })
    ).status,
  ).toBe(200)
}

/** Learns the secrets that are sealed in claims at the moment. */
async function openClaims(): Promise<void> {
  const rows = await house.db.query<{ key_id: string; kek_id: string; nonce: Buffer; ciphertext: Buffer }>(
    `select key_id, kek_id, nonce, ciphertext from claims where state = 'open'`,
  )
  expect(rows.length).toBeGreaterThan(0)
  for (const { key_id, kek_id, nonce, ciphertext } of rows)
    secrets.addToken('a token that nobody has fetched', house.sealer.open({ kekId: kek_id, nonce, ciphertext }, key_id))
}

/** What people and programs send by mistake: each in a header, a path, a query and a body, to the API and to a gateway. */
async function requestsWithSecrets(texts: readonly string[]): Promise<void> {
  const operator = { authorization: `Bearer ${house.config.operatorToken}` }
  const json = { ...operator, 'content-type': 'application/json' }
  const gateway = gateways[0]?.url ?? ''
  const statuses: number[] = []
  const send = async (...given: Parameters<typeof raw>): Promise<void> => {
    statuses.push((await raw(...given)).status)
  }
  for (const text of texts) {
    await send(api, 'GET', '/v1/gateways', { headers: { authorization: `Bearer ${text}` } })
    await send(api, 'GET', '/v1/gateways', { headers: { authorization: text, 'x-api-key': text, cookie: `key=${text}` } })
    for (const path of [`/v1/credentials/${text}`, `/v1/rotations/${text}`, `/${text}`, `/v1/claims/${text}x`, `/v1/%ff${text}`])
      await send(api, 'GET', path, { headers: operator })
    await send(api, 'POST', `/v1/claims/${text}x`)
    await send(api, 'POST', `/v1/gateways/${text}/gone`, { headers: json, body: '{"reason": ""}' })
    await send(api, 'GET', `/v1/rotations?stage=${text}&${text}=1`, { headers: operator })
    await send(api, 'POST', '/v1/clients', { headers: json, body: `{"name": "${text}` })
    await send(api, 'POST', '/v1/clients', { headers: json, body: `{"name": "Acme", "${text}": 1}` })
    await send(api, 'POST', '/v1/clients', { headers: json, body: JSON.stringify({ name: `Acme ${text}` }) })
    await send(api, 'POST', '/v1/clients', { headers: { ...operator, 'content-type': text }, body: text })
    const rotation = { trigger: 'manual', reason: `somebody has ${text}, rotate` }
    const credential = `/v1/credentials/crd_0123456789abcdef/rotations`
    await send(api, 'POST', credential, { headers: json, body: JSON.stringify(rotation) })
    await send(api, 'POST', credential, { headers: json, body: JSON.stringify({ ...rotation, reason: 'x', overlap: text }) })
    await send(api, 'POST', '/v1/successor', { headers: { authorization: `Bearer ${text}x`, 'user-agent': `feed/1.0 ${text}` } })
    await send(gateway, 'GET', `/${text}?api_key=${text}`, { headers: { authorization: `Basic ${text}` } })
    await send(gateway, 'GET', '/', { headers: { authorization: `Bearer ${text}`, 'x-api-key': text } })
    await send(gateway, 'GET', '/', { headers: { authorization: `Bearer ${text}x`, 'user-agent': text } })
  }
  expect(statuses.filter((status) => status < 400 || status > 499)).toEqual([])
  // These are accepted: the key belongs there, and its holder says it again in the user agent.
  const [, accepted = ''] = texts
  const talkative = { authorization: `Bearer ${accepted}`, 'user-agent': `feed/1.0 (${accepted})`, 'x-forwarded-for': accepted }
  for (const { url } of gateways) expect((await fetch(`${url}/v1/ticker`, { headers: talkative })).status).toBe(200)
  const claimed = await newCredential('talkative')
  await redeem(`/v1/claims/${claimed.claim}`, { 'user-agent': `curl ${accepted}` })
  expect((await raw(api, 'POST', `/v1/claims/${claimed.claim}`, { headers: { 'user-agent': accepted } })).status).toBe(410)
  const listed = await keyturn('audit', 'list', '--limit', '1000')
  expect(listed.code).toBe(0)
}

/** Reads every place; each must hold something that belongs there, or the search would prove nothing. */
async function everything(): Promise<Found[]> {
  await eventually(
    async () => (await house.db.query(`select from key_sources where user_agent like '%looks like a key%'`)).length > 0,
    'the usage of the key whose holder says it twice',
    MINUTE,
  )
  const metrics: Found[] = []
  for (const url of [api, ...gateways.map((gateway) => gateway.url)])
    metrics.push({ place: `metrics of ${url}`, bytes: Buffer.from(await (await fetch(`${url}/metrics`)).text()) })
  await eventually(
    async () => (await readWorkflows(house.client, house.config.taskQueue)).length >= 8,
    'four runs, listed',
    MINUTE,
  )
  const logs: Found[] = []
  for (const program of [...gateways, ...programs]) {
    program.child.kill('SIGTERM')
    expect(await program.ended).toBe('exit code 0')
    logs.push({ place: `log of ${program.child.spawnargs.at(-1)}`, bytes: Buffer.from(program.output()) })
  }
  const workflows = await readWorkflows(house.client, house.config.taskQueue)
  const messages = await readTopics(house.config.kafkaBrokers, Object.values(house.config.topics))
  const rows = await readTables(house.db)
  const processArguments = argumentsSeen.stop()

  const contain = (places: readonly Found[], text: string): void =>
    expect(places.some(({ bytes }) => bytes.includes(text))).toBe(true)
  const [rotation] = await house.db.query<{ rotation_id: string; new_key_id: string }>('select * from rotations limit 1')
  contain(workflows, rotation?.rotation_id ?? 'none')
  contain(messages, rotation?.new_key_id ?? 'none')
  for (const topic of Object.values(house.config.topics)) expect(messages.some(({ place }) => place.startsWith(topic))).toBe(true)
  for (const table of ['claims', 'audit', 'keys', 'key_sources', 'receipts', 'clients'])
    expect(rows.some(({ place }) => place === `table public.${table}`)).toBe(true)
  contain(rows, 'claim.second-try')
  if (bao !== undefined) contain(rows, 'secret.delivered')
  contain(rows, 'removed: looks like a key')
  for (const log of logs) expect(log.bytes.length).toBeGreaterThan(100)
  contain(logs, '"path":"/v1/claims/:claim"')
  contain(metrics, 'keyturn_api_request_duration_seconds')
  contain(processArguments, 'workers/rotation-worker.ts')
  contain(processArguments, 'cli/keyturn.js')
  contain(answers, 'operator-token-required')
  contain(commands, 'completed')
  return [...workflows, ...messages, ...rows, ...logs, ...metrics, ...processArguments, ...answers, ...commands]
}

test('G5: the search finds what is there, in each form', () => {
  const known = new Secrets()
  const token = `kt_prod_${'k'.repeat(16)}_${'Zz9'.repeat(20).slice(0, 49)}`
  known.addToken('a token', token)
  const secret = token.slice(-49, -6)
  for (const encoding of ['utf8', 'base64', 'base64url', 'hex'] as const) {
    for (const text of [token, secret]) {
      const bytes = Buffer.from(`before ${Buffer.from(text).toString(encoding)} after`)
      expect(known.search([{ place: 'here', bytes }])).not.toEqual([])
    }
  }
  expect(known.search([{ place: 'here', bytes: Buffer.from(token.slice(0, -49)) }])).toEqual([])
})
