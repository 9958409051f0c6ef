/** The agent against the real API and a real gateway. The program is played by the test, or by a shell script. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openStore, runAgent } from '../../../client/src/agent.ts'
import { memoryStore, type Store, StoreError } from '../../../client/src/index.ts'
import { apiHouse, type CreatedBody, claimedCredential, reached, redeem, type TriggeredBody, trigger } from '../../api/support.ts'
import { eventually } from '../../support/house.ts'
import { agentPlace, keyIn, startAgent, usedFrom } from './support.ts'

const at = apiHouse({})
const place = () => agentPlace(at.client.url)
const start = startAgent
const program = (keyFile: string): void => usedFrom(keyFile, (key) => at.house.use(key))

async function rotated({ credentialId }: CreatedBody, policy: object = {}): Promise<TriggeredBody> {
  const { body } = await trigger(at.client, credentialId, policy)
  const { rotationId } = body
  await reached(at.client, rotationId, 'monitoring')
  return body
}

test('claims the new key, writes it, tells the program, and is done when gateways have seen it in use', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, directory, config } = place()
  const agent = start({ config: config('echo $KEYTURN_KEY_ID >> told; env > environment'), firstKey: credential.token })
  await agent.said('switching')
  program(keyFile)
  await agent.said('switched')
  expect(keyIn(keyFile)).toBe(credential.token)
  expect(statSync(keyFile).mode & 0o777).toBe(0o640)
  const { rotationId } = await rotated(credential)
  await reached(at.client, rotationId, 'completed')
  await agent.said('switched', 2)
  const { value } = (await agent.store.read()) ?? {}
  expect(value).toMatchObject({ current: { token: keyIn(keyFile) }, previous: { token: credential.token } })
  expect(readFileSync(join(directory, 'told'), 'utf8')).toBe(`${credential.keyId}\n${value?.current?.keyId}\n`)
  expect(`${readFileSync(join(directory, 'environment'), 'utf8')}${JSON.stringify(agent.events)}`).not.toMatch(/kt_prod_/)
  const audit = await at.house.db.query<{ action: string }>(
    "select action from audit where detail ->> 'keyId' = $1 and action like 'claim.%'",
    [value?.current?.keyId],
  )
  expect(audit).toEqual([{ action: 'claim.used' }])
})

test('puts the old key back when the program does not come up with the new one, and tries again with the key that it holds', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, directory, config } = place()
  writeFileSync(join(directory, 'works-with'), credential.token)
  const script = 'cat key >> tried; echo >> tried; [ -e all-is-well ] || cmp -s key works-with'
  const agent = start({ config: config(script), firstKey: credential.token })
  program(keyFile)
  // While the new key is tried, the program uses it, too.
  const { rotationId } = await rotated(credential, { quietPeriod: '5m' })
  const back = await agent.said('put-back')
  expect(back).toMatchObject({ keyId: credential.keyId, detail: expect.stringMatching(/ended with 1$/) })
  await agent.said('put-back', 2)
  expect((await at.house.rotation(rotationId)).stage).toBe('monitoring')
  writeFileSync(join(directory, 'all-is-well'), '')
  await agent.said('switched', 2)
  expect(keyIn(keyFile)).not.toBe(credential.token)
  expect(agent.events.filter(({ type }) => type === 'claimed')).toHaveLength(1)
  expect(JSON.stringify(agent.events)).not.toMatch(/kt_prod_/)
})

test('puts the old key back when no gateway sees the new one in use', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, config } = place()
  await at.house.use(credential.token)
  const agent = start({ config: config('true', { used: '2s' }), firstKey: credential.token })
  await agent.said('switching')
  await at.house.use(credential.token)
  await agent.said('switched')
  await rotated(credential)
  const back = await agent.said('put-back')
  expect(back).toMatchObject({ detail: expect.stringContaining('no gateway has seen the key in use within 2 s') })
  expect(keyIn(keyFile)).toBe(credential.token)
})

test('killed between the claim and the program, it goes on where it was at the next start', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, config } = place()
  const store = memoryStore()
  const hanging = start({ config: config('sleep 0'), firstKey: credential.token, store })
  await hanging.said('switching')
  await hanging.stop()
  const { rotationId } = await rotated(credential)
  const { body } = await redeem(at.client, await at.house.claimCodeOf(rotationId))
  const stored = await store.read()
  if (stored?.value.current === undefined) throw new Error('there is no key')
  const current = { keyId: body.keyId, kind: 'bearer', token: body.token } as const
  await store.replace({ format: 1, current, previous: stored.value.current }, stored.version)
  expect(keyIn(keyFile)).toBe(credential.token)
  program(keyFile)
  start({ config: config('true'), store })
  await reached(at.client, rotationId, 'completed')
  expect(keyIn(keyFile)).toBe(body.token)
})

describe('of two hosts with one store', () => {
  const shared = { store: { vault: { path: 'shop/api-key' } } }

  /** One with a program, and one whose program takes its key from the store when it is told. */
  async function hosts() {
    const credential = await claimedCredential(at.client)
    const [here, there] = [place(), place()]
    const store = memoryStore()
    program(here.keyFile)
    const first = start({ config: here.config('true', undefined, shared), firstKey: credential.token, store })
    await first.said('switched')
    let away = false
    const fetching: typeof fetch = (...request) => (away ? Promise.reject(new TypeError('fetch failed')) : fetch(...request))
    const config = there.config('echo $KEYTURN_KEY_ID >> told', undefined, { ...shared, files: [] })
    return {
      first,
      second: () => start({ config, store, fetch: fetching }),
      setAway: (to: boolean) => {
        away = to
      },
      told: () => readFileSync(join(there.directory, 'told'), 'utf8').trim().split('\n'),
      /** The first host goes over to a new key. */
      async rotate() {
        const { rotationId } = (await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })).body
        await first.said('switched', 2)
        return (await at.house.rotation(rotationId)).newKeyId
      },
    }
  }

  test('the second tells its program of the key that the first has claimed, though the first uses it already', async () => {
    const { second, rotate, told, setAway } = await hosts()
    const agent = second()
    await agent.said('watching')
    setAway(true)
    await agent.said('api-away')
    const newKeyId = await rotate()
    setAway(false)
    expect(await agent.said('switched')).toMatchObject({ keyId: newKeyId })
    expect(told()).toEqual([newKeyId])
  })

  test('the second was down meanwhile: it tells its program when it starts', async () => {
    const { second, rotate, told } = await hosts()
    const before = second()
    await before.said('watching')
    await before.stop()
    const newKeyId = await rotate()
    await second().said('switched')
    expect(told()).toEqual([newKeyId])
  })
})

test('with a store of its own, it tells a program that uses the key nothing at its start; one that does not, again', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, directory, config } = place()
  const script = 'echo $KEYTURN_KEY_ID >> told'
  const told = (): string[] => readFileSync(join(directory, 'told'), 'utf8').trim().split('\n')
  const store = memoryStore()
  const agent = start({ config: config(script, { used: false }), firstKey: credential.token, store })
  await agent.said('switched')
  const { rotationId } = (await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })).body
  await agent.said('switched', 2)
  await agent.stop()
  const { newKeyId } = await at.house.rotation(rotationId)
  const again = start({ config: config(script, { used: false }), store })
  await again.said('switched')
  expect(told()).toEqual([credential.keyId, newKeyId, newKeyId])
  await again.stop()

  await at.house.use(keyIn(keyFile))
  await eventually(
    async () => (await at.client.get<{ lastUsedAt?: string }>('/v1/keys/self', { token: keyIn(keyFile) })).body.lastUsedAt,
    'the use',
  )
  let looks = 0
  const counting: typeof fetch = (...request) => {
    looks += String(request[0]).endsWith('/v1/keys/self') ? 1 : 0
    return fetch(...request)
  }
  const last = start({ config: config(script, { used: false }), store, fetch: counting })
  await eventually(() => looks > 2, 'three looks')
  expect(last.events.map(({ type }) => type)).toEqual(['watching'])
  expect(told()).toHaveLength(3)
})

test('a rotation that is rolled back after the switch: it goes back to the old key, which is accepted again', async () => {
  const credential = await claimedCredential(at.client)
  const { keyFile, config } = place()
  const agent = start({ config: config('true'), firstKey: credential.token })
  await agent.said('switching')
  program(keyFile)
  await agent.said('switched')
  const { rotationId } = (await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })).body
  await agent.said('switched', 2)
  expect(keyIn(keyFile)).not.toBe(credential.token)
  await at.client.post(`/v1/rotations/${rotationId}/roll-back`, { reason: 'the new key is refused elsewhere' })
  await reached(at.client, rotationId, 'rolled-back')
  await agent.said('switched', 3)
  expect(keyIn(keyFile)).toBe(credential.token)
})

test('an API that is away, and a store that can not be read, are said and waited for; the program keeps its key', async () => {
  const credential = await claimedCredential(at.client)
  const { config, directory, keyFile } = place()
  let away = true
  let unreadable = true
  const fetching: typeof fetch = (...request) => (away ? Promise.reject(new TypeError('fetch failed')) : fetch(...request))
  const held = memoryStore()
  const failing = async (): Promise<never> => {
    throw new StoreError('unreachable', 'the disk does not answer')
  }
  const store: Store = {
    read: (signal) => (unreadable ? failing() : held.read(signal)),
    replace: (...next) => (unreadable ? failing() : held.replace(...next)),
  }
  writeFileSync(keyFile, credential.token)
  const agent = start({ config: config('echo >> told', { used: false }), firstKey: credential.token, store, fetch: fetching })
  expect(await agent.said('store-failed', 2)).toMatchObject({ code: 'unreachable', message: 'the disk does not answer' })
  unreadable = false
  await agent.said('api-away')
  // While it follows a key, too.
  away = false
  await agent.said('watching')
  unreadable = true
  await agent.said('store-failed', agent.events.filter(({ type }) => type === 'store-failed').length + 2)
  expect(keyIn(keyFile)).toBe(credential.token)
  unreadable = false
  await trigger(at.client, credential.credentialId)
  await agent.said('switched')
  expect(keyIn(keyFile)).not.toBe(credential.token)
  expect(readFileSync(join(directory, 'told'), 'utf8')).toBe('\n')
})

describe('a store with the key of another credential', () => {
  test('is refused at the start, where it says whose key it holds', async () => {
    const credential = await claimedCredential(at.client)
    const { keyFile, config } = place()
    const store = memoryStore()
    const { keyId, token, credentialId } = credential
    await store.replace({ format: 1, credentialId, current: { keyId, kind: 'bearer', token } }, undefined)
    const options = { config: config('true', {}, { credentialId: 'crd_another' }), store, tell: () => undefined }
    await expect(runAgent(options, new AbortController().signal)).rejects.toMatchObject({ code: 'wrong-credential' })
    expect(existsSync(keyFile)).toBe(false)
  })

  test('is refused for what the API says of the key, where it does not; the program is not told of it', async () => {
    const [mine, other] = await Promise.all([claimedCredential(at.client), claimedCredential(at.client)])
    const { keyFile, directory, config } = place()
    writeFileSync(join(directory, '.env'), `SHOP_KEY=${other.token}\n`)
    const env = { env: join(directory, '.env'), variable: 'SHOP_KEY' }
    const of = config('echo >> told', { used: false }, { credentialId: mine.credentialId, store: env })
    const agent = start({ config: of, store: await openStore(of) })
    expect(await agent.said('store-failed')).toMatchObject({ code: 'wrong-credential' })
    writeFileSync(join(directory, '.env'), `SHOP_KEY=${mine.token}\n`)
    await agent.said('switched')
    expect(keyIn(keyFile)).toBe(mine.token)
    expect(agent.events.filter(({ type }) => type === 'watching')).toHaveLength(1)
    expect(readFileSync(join(directory, 'told'), 'utf8')).toBe('\n')
  })
})

test('has nothing to begin with: says so and ends', async () => {
  const { config } = place()
  const options = { config: config('true'), store: memoryStore(), tell: () => undefined }
  await expect(runAgent(options, new AbortController().signal)).rejects.toThrow('holds no key yet')
})
