/** An agent that begins with a claim, against the real API. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type AgentOptions, readFirst, runAgent } from '../../../client/src/agent.ts'
import { createClient, memoryStore, type Store, StoreError } from '../../../client/src/index.ts'
import { fileStore } from '../../../client/src/node.ts'
import { apiHouse, type CreatedBody, newClient, newCredential, redeem } from '../../api/support.ts'
import { agentPlace, keyIn, startAgent, usedFrom } from './support.ts'

// Keys that sign do so for the address that their client knows.
const at = apiHouse({}, async () => ({ config: { publicUrl: 'http://127.0.0.1:0' } }))
const NEVER = new AbortController().signal
const UNWATCHED = { used: false }

const auditOf = ({ keyId }: Pick<CreatedBody, 'keyId'>): Promise<{ action: string }[]> =>
  at.house.db.query("select action from audit where detail ->> 'keyId' = $1 and action like 'claim.%' order by seq", [keyId])

/** Starts an agent that is to end by itself. */
const run = (options: Omit<AgentOptions, 'tell'>): Promise<void> => runAgent({ ...options, tell: () => undefined }, NEVER)

test('claims the first key, stores it, writes it, and has the program use it; the claim is used once', async () => {
  const created = await newCredential(at.client)
  const { keyFile, directory, config } = agentPlace(at.client.url)
  const store = fileStore(join(directory, 'store.json'))
  const first = readFirst({ kind: 'bearer' }, { claim: `https://keys.example.com/claim#${created.claim}\n` })
  usedFrom(keyFile, (key) => at.house.use(key))
  const agent = startAgent({ config: config('true', undefined, { credentialId: created.credentialId }), store, ...first })
  await agent.said('switched')
  const { credentialId, keyId } = created
  expect((await store.read())?.value).toEqual({
    format: 1,
    credentialId,
    current: { keyId, kind: 'bearer', token: keyIn(keyFile) },
  })
  await agent.stop()
  const again = startAgent({ config: config('true'), store, ...first })
  await again.said('watching')
  expect(await auditOf(created)).toEqual([{ action: 'claim.used' }])
  expect(JSON.stringify([agent.events, again.events])).not.toMatch(new RegExp(`kt_prod_|${created.claim}`))
})

test.each(['hmac-sha256', 'ed25519'] as const)('%s: claims a first key that signs', async (kind) => {
  const made = { name: 'feed', environment: 'prod', scopes: ['read:prices'], kind }
  const created = (await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, made)).body
  const { config } = agentPlace(at.client.url)
  const agent = startAgent({ config: config('true', UNWATCHED, { kind }), firstClaim: created.claim })
  expect(await agent.said('switched')).toMatchObject({ keyId: created.keyId })
  expect((await agent.store.read())?.value.current).toMatchObject({ kind, keyId: created.keyId })
  expect(at.house.gateways.map(({ cache }) => cache.get(created.keyId)?.state)).toEqual(['active'])
})

test('killed before the answer is stored, it gets the same key at the next start, without being given the claim again', async () => {
  const created = await newCredential(at.client)
  const { keyFile, config } = agentPlace(at.client.url)
  const store = memoryStore()
  const dying: Store = {
    ...store,
    replace: (next, ...rest) => (next.current === undefined ? store.replace(next, ...rest) : Promise.reject(new Error('killed'))),
  }
  await expect(run({ config: config('true', UNWATCHED), store: dying, firstClaim: created.claim })).rejects.toThrow('killed')
  expect((await store.read())?.value).toMatchObject({ pending: { claim: created.claim } })
  // A program with the library must not take it for an empty store.
  await expect(createClient({ store, api: at.client.url }).keyId()).rejects.toThrow('start the agent')

  const agent = startAgent({ config: config('true', UNWATCHED), store })
  await agent.said('switched')
  const { value } = (await store.read()) ?? {}
  expect(value).toMatchObject({ current: { keyId: created.keyId, token: keyIn(keyFile) } })
  expect(value).not.toHaveProperty('pending')
  expect(await auditOf(created)).toEqual([{ action: 'claim.used' }, { action: 'claim.repeated' }])
})

test('an answer that is lost, and a store that is away for a while, cost no key', async () => {
  const created = await newCredential(at.client)
  const { keyFile, config } = agentPlace(at.client.url)
  let asked = 0
  const losing: typeof fetch = async (...request) => {
    const response = await fetch(...request)
    asked += 1
    if (asked === 1) throw new TypeError('fetch failed')
    return response
  }
  const store = memoryStore()
  // Before the claim is written, before the answer is kept, and when it is to be.
  const away = [1, 3, 6, 8]
  let called = 0
  const shaky = <T>(work: () => Promise<T>): Promise<T> => {
    called += 1
    return away.includes(called) ? Promise.reject(new StoreError('unreachable', 'it does not answer')) : work()
  }
  const kept: Store = {
    read: () => shaky(() => store.read()),
    replace: (next, after) => shaky(() => store.replace(next, after)),
  }
  const agent = startAgent({ config: config('true', UNWATCHED), store: kept, fetch: losing, firstClaim: created.claim })
  await agent.said('claim-delayed')
  await agent.said('store-failed', away.length)
  await agent.said('switched')
  expect(keyIn(keyFile)).toMatch(/^kt_prod_/)
  expect(await auditOf(created)).toEqual([{ action: 'claim.used' }, { action: 'claim.repeated' }])
})

test('a claim that somebody else has used: says so, and asks no more than once; another claim, or a key, is then taken', async () => {
  const stolen = await newCredential(at.client)
  await redeem(at.client, stolen.claim)
  const { config } = agentPlace(at.client.url)
  const store = memoryStore()
  for (let start = 0; start < 2; start++)
    await expect(run({ config: config('true'), store, firstClaim: stolen.claim })).rejects.toThrow('claim-used')
  expect(await auditOf(stolen)).toEqual([{ action: 'claim.used' }, { action: 'claim.second-try' }])
  const other = await newCredential(at.client)
  const agent = startAgent({ config: config('true', UNWATCHED), store, firstClaim: other.claim })
  expect(await agent.said('claimed')).toMatchObject({ keyId: other.keyId })
  await agent.said('switched')
  await agent.stop()

  const given = memoryStore()
  await expect(run({ config: config('true'), store: given, firstClaim: stolen.claim })).rejects.toThrow('claim-used')
  const { token } = (await redeem(at.client, (await newCredential(at.client)).claim)).body
  await startAgent({ config: config('true', UNWATCHED), store: given, firstKey: token }).said('switched')
})
