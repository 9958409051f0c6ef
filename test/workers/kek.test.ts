/** Key-encryption keys at the start of a process: the right ones, and wrapped by the transit engine of a real OpenBao. */
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { ConfigError, loadConfig } from '../../infra/config.ts'
import { withUnwrappedKeks } from '../../infra/kek.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { startApiServer } from '../../workers/api-server.ts'
import { startKeyturn } from '../cli/office.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type Bao, findBao, startBao } from '../support/openbao.ts'
import { environmentOf, startProgram } from '../support/processes.ts'

vi.setConfig({ testTimeout: 240_000, hookTimeout: 600_000 })
const newKek = (): string => randomBytes(32).toString('base64')

let house: House
let bao: Bao | undefined
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
  const command = await findBao((what) => process.stderr.write(`${what}\n`))
  bao = command === undefined ? undefined : await startBao(command)
})
afterAll(async () => {
  await bao?.stop()
  await house.close()
})

const environment = (more: Readonly<Record<string, string>>) => ({
  ...environmentOf(house),
  KEYTURN_LISTEN: '127.0.0.1:0',
  ...more,
})
const configOf = async (more: Readonly<Record<string, string>>) => loadConfig(await withUnwrappedKeks(environment(more)))
async function refusal(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(ConfigError)
  return (error as ConfigError).message
}

/** Does something with an API that has these keys. */
async function withApi<T>(
  more: Readonly<Record<string, string>>,
  work: (api: { url: string; post(path: string, body?: object): Promise<Record<string, string>> }) => Promise<T>,
): Promise<T> {
  const config = await configOf(more)
  const server = await startApiServer(config, house.log)
  try {
    return await work({
      url: server.url,
      async post(path, body) {
        const headers = {
          authorization: `Bearer ${config.operatorToken}`,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        }
        const response = await fetch(server.url + path, {
          method: 'POST',
          headers,
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        })
        return (await response.json()) as Record<string, string>
      },
    })
  } finally {
    await server.stop()
  }
}

test('G5: a change from a key that transit has wrapped to another: both open, `keyturn reseal` moves, the old one goes', async ({
  skip,
}) => {
  if (bao === undefined) return skip('OpenBao can not be had here')
  await bao.call('sys/mounts/transit', { type: 'transit' })
  await bao.call('transit/keys/keyturn')
  await bao.call('transit/keys/another')
  await bao.call('sys/policies/acl/keyturn', { policy: 'path "transit/decrypt/keyturn" { capabilities = ["update"] }' })
  const { auth } = await bao.call('auth/token/create', { policies: ['keyturn'] })
  const wrapped = String((await bao.call('transit/datakey/wrapped/keyturn', { bits: 256 })).data?.['ciphertext'])
  expect(wrapped).toMatch(/^vault:v1:/)
  const transit = { KEYTURN_KEK_TRANSIT: `${bao.address}/transit/keyturn`, KEYTURN_KEK_TRANSIT_TOKEN: auth?.client_token ?? '' }
  const old = { KEYTURN_KEK: wrapped, ...transit }
  const next = newKek()

  const made = await withApi(old, async ({ post }) => {
    const { clientId } = await post('/v1/clients', { name: 'Acme' })
    return post(`/v1/clients/${clientId}/credentials`, { name: 'feed', environment: 'prod', scopes: [] })
  })
  // Unwrapped again, it is the same key; without it nothing is done.
  expect((await configOf(old)).kek).toEqual((await configOf(old)).kek)
  const alone = await refusal(startApiServer(await configOf({ KEYTURN_KEK: next }), house.log))
  expect(alone).toMatch(/KEYTURN_KEK: the registry holds 1 secret sealed under [0-9a-f]{8}, and this is [0-9a-f]{8}\./)
  const resealed = await withApi({ ...old, KEYTURN_KEK: `${next},${wrapped}` }, async ({ url }) => {
    const env = { KEYTURN_API: url, KEYTURN_TOKEN: house.config.operatorToken }
    return startKeyturn(['reseal', '--reason', 'yearly'], { cwd: tmpdir(), env }).finished
  })
  expect(resealed).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(
      /^1 secret moved to key-encryption key \w{8}\nNothing is left under another: the old key can be taken away\.\n$/,
    ),
  })
  const handedOut = await withApi({ KEYTURN_KEK: next }, ({ post }) => post(`/v1/claims/${made['claim']}`))
  expect(handedOut['token']).toMatch(/^kt_prod_/)

  const wrong = await refusal(configOf({ ...old, KEYTURN_KEK_TRANSIT_TOKEN: 'not-a-token' }))
  expect(wrong).toContain('does not let this token decrypt')
  expect(await refusal(configOf({ KEYTURN_KEK: wrapped }))).toContain('KEYTURN_KEK_TRANSIT says who unwraps it')
  const root = { KEYTURN_KEK_TRANSIT_TOKEN: bao.token }
  expect(await refusal(configOf({ ...old, ...root, KEYTURN_KEK_TRANSIT: `${bao.address}/transit/another` }))).toContain(
    'can not unwrap it (400)',
  )
  const away = { KEYTURN_KEK_TRANSIT: 'http://127.0.0.1:1/transit/keyturn', KEYTURN_STARTUP_WAIT: '1s' }
  expect(await refusal(configOf({ ...old, ...away }))).toContain('the transit engine at 127.0.0.1:1 does not answer')
  // In the open, or behind what only looks like this machine: nothing is sent there.
  for (const address of ['http://bao.example/transit/keyturn', 'http://localhost:8200@bao.example/transit/keyturn'])
    expect(await refusal(configOf({ ...old, KEYTURN_KEK_TRANSIT: address }))).toContain('KEYTURN_KEK_TRANSIT: not usable')
})

test('G3: what gateways open is moved only when they have heard of it: `keyturn reseal` names the one that has not', async () => {
  const [old, next] = [newKek(), newKek()]
  const keyId = await withApi({ KEYTURN_KEK: old }, async ({ post }) => {
    const { clientId } = await post('/v1/clients', { name: 'Acme' })
    const signing = { name: 'signing', environment: 'prod', scopes: [], kind: 'hmac-sha256' }
    const made = await post(`/v1/clients/${clientId}/credentials`, signing)
    await post(`/v1/claims/${made['claim']}`)
    return made['keyId'] as KeyId
  })
  await house.announceSilentGateway('gw-silent')
  await withApi({ KEYTURN_KEK: `${next},${old}` }, async ({ url, post }) => {
    const env = { KEYTURN_API: url, KEYTURN_TOKEN: house.config.operatorToken }
    const reseal = () => startKeyturn(['reseal'], { cwd: tmpdir(), env }).finished
    const silent = await reseal()
    expect([silent.code, silent.stdout]).toEqual([
      1,
      expect.stringMatching(/^\d+ secrets? moved to [\s\S]*\ngw-silent still needs the old key: /),
    ])
    await post('/v1/gateways/gw-silent/gone', { reason: 'it never was' })
    const heard = await reseal()
    expect([heard.code, heard.stdout]).toEqual([
      0,
      expect.stringMatching(/^0 secrets moved [\s\S]*the old key can be taken away/),
    ])
  })
  // Nobody opens it any more: processes with any key may start.
  await compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'the test is over' })
})

test('a process with the wrong key says so, and does nothing', async () => {
  const { keyId } = await house.credential()
  await house.db.query(
    `update claims set state = 'open', ended_at = null, kek_id = '0badcafe', nonce = 'x', ciphertext = 'x' where key_id = $1`,
    [keyId],
  )
  const worker = startProgram('workers/rotation-worker.ts', environment({}))
  onTestFinished(() => worker.kill())
  expect(await worker.ended).toBe('exit code 1')
  expect(worker.output()).toMatch(
    /KEYTURN_KEK: the registry holds 1 secret sealed under 0badcafe, and this is [0-9a-f]{8}\. Give that key as the second one/,
  )
})

test('a key in a file: only its owner may read it; two lines are two keys', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-kek-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'kek')
  const [first, second] = [newKek(), newKek()]
  writeFileSync(path, `${first}\n${second}\n`, { mode: 0o600 })
  const read = () => loadConfig({ KEYTURN_KEK_FILE: path }, ['kek'])
  expect(read()).toMatchObject({ kek: Buffer.from(first, 'base64'), previousKek: Buffer.from(second, 'base64') })
  chmodSync(path, 0o644)
  expect(read).toThrow('KEYTURN_KEK_FILE: others than its owner can read the file; `chmod 600` it')
  const flawsOf = (kek: string) => () => loadConfig({ KEYTURN_KEK: kek }, ['kek'])
  expect(flawsOf([first, second, newKek()].join())).toThrow('KEYTURN_KEK: more than two')
  expect(flawsOf(`${first},${first}`)).toThrow('KEYTURN_KEK: the same key twice')
  expect(flawsOf(`${first},c2hvcnQ=`)).toThrow('KEYTURN_KEK: not 32 bytes in base64')
  expect(flawsOf(' , ')).toThrow('KEYTURN_KEK: not 32 bytes in base64')
})
