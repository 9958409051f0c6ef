/** The agent at the feed of the real API. */
import { describe, expect, test } from 'vitest'
import { News } from '../../../client/src/agent/news.ts'
import type { StoredKey } from '../../../client/src/index.ts'
import { newPair } from '../../../client/src/key-pairs.ts'
import {
  apiHouse,
  type CreatedBody,
  claimedCredential,
  type HandedOutBody,
  newClient,
  reached,
  trigger,
} from '../../api/support.ts'
import { agentPlace, startAgent } from './support.ts'

// Keys that sign do so for the address that their client knows.
const at = apiHouse({}, async () => ({ config: { publicUrl: 'http://127.0.0.1:0' } }))
const NEVER = new AbortController().signal
const LONG_MS = 60_000

async function held(kind: 'bearer' | 'ed25519'): Promise<{ credentialId: string; key: StoredKey }> {
  if (kind === 'bearer') {
    const { credentialId, keyId, token } = await claimedCredential(at.client)
    return { credentialId, key: { keyId, kind, token } }
  }
  const made = { name: 'feed', environment: 'prod', scopes: ['read:prices'], kind }
  const { claim, credentialId } = (
    await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, made)
  ).body
  const privateKey = await newPair(kind)
  const publicKey = Buffer.from(privateKey.x, 'base64url').toString('base64')
  const { keyId } = (await at.client.post<HandedOutBody>(`/v1/claims/${claim}`, { publicKey }, { token: 'none' })).body
  return { credentialId, key: { keyId, kind, privateKey } }
}

describe.each(['bearer', 'ed25519'] as const)('shown a key of kind %s', (kind) => {
  test('a rotation is heard of when it begins, with one question open; what was told before is not heard of again', async () => {
    const { credentialId, key } = await held(kind)
    const asked: string[] = []
    const counting: typeof fetch = (input, init) => {
      asked.push(String(input).replace(/^.*\?/, ''))
      return fetch(input, init)
    }
    const news = new News({ api: at.client.url, fetch: counting, timeoutMs: 10_000, now: Date.now })
    await news.wait(key, LONG_MS, NEVER)
    expect(asked).toEqual(['wait=0s'])
    const waiting = news.wait(key, LONG_MS, NEVER)
    await expect.poll(() => asked.length).toBe(2)
    const { rotationId } = (await trigger(at.client, credentialId)).body
    const since = Date.now()
    await waiting
    // Far sooner than the time would have been over.
    expect(Date.now() - since).toBeLessThan(LONG_MS / 2)
    expect(asked).toEqual(['wait=0s', expect.stringMatching(/^wait=\d\ds&after=0$/)])
    await reached(at.client, rotationId, 'monitoring')
    const quiet = Date.now()
    await news.wait(key, 2_500, NEVER)
    expect(Date.now() - quiet).toBeGreaterThanOrEqual(2_400)
    expect(asked.at(-1)).toMatch(/&after=[1-9]\d*$/)
  })
})

test('an agent that asks once an hour claims the new key at once', async () => {
  const { credentialId, token } = await claimedCredential(at.client)
  const { config } = agentPlace(at.client.url)
  const agent = startAgent({ config: config('true', { used: false }, { interval: '1h' }), firstKey: token })
  await agent.said('switched')
  await trigger(at.client, credentialId)
  await agent.said('claimed')
  await agent.said('switched', 2)
})

test('a key that is accepted no more has no feed: it is waited for as if there were none', async () => {
  const { key } = await held('bearer')
  const news = new News({ api: at.client.url, fetch, timeoutMs: 10_000, now: Date.now })
  const since = Date.now()
  await news.wait({ ...key, token: `${'token' in key ? key.token : ''}x` } as StoredKey, 1_500, NEVER)
  expect(Date.now() - since).toBeGreaterThanOrEqual(1_400)
})
