/** What a client does with its keys, its store and the answers of a provider: no request of it is lost to a rotation. */
import {
  type Client,
  type ClientEvent,
  type ClientOptions,
  createClient,
  memoryStore,
  type Store,
  type StoredCredential,
  StoreError,
} from '@keyturn/client'
import { formatRotationNotice, HEADERS, newKeyId, newToken } from '@keyturn/contract'
import type { JWK } from 'jose'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { eventually } from '../support/house.ts'
import { handedOut, Provider, type ProviderKey, someCode } from './provider.ts'

interface Scene {
  readonly provider: Provider
  readonly old: ProviderKey
  readonly store: Store
  readonly events: ClientEvent[]
  open(options?: Partial<ClientOptions>): Client
  call(client: Client, init?: RequestInit): Promise<number>
}

async function scene(): Promise<Scene> {
  const provider = await Provider.start()
  const old = provider.issue()
  const store = memoryStore()
  const events: ClientEvent[] = []
  return {
    provider,
    old,
    store,
    events,
    open(options = {}) {
      const api = `${provider.url}/control/`
      const client = createClient({ store, credential: old.token, api, onEvent: (event) => events.push(event), ...options })
      onTestFinished(() => client.close())
      return client
    },
    async call(client, init) {
      const response = await client.fetch(`${provider.url}/v1/orders?x=1`, init)
      await response.arrayBuffer()
      return response.status
    },
  }
}

const adopted = (client: Client, keyId: string): Promise<unknown> =>
  eventually(async () => (await client.keyId()) === keyId, `key ${keyId} adopted`, 10_000)
/** The same store, for a process that hears of nothing. */
const unwatched = ({ read, replace }: Store): Store => ({ read, replace })
const stored = async (store: Store) => (await store.read())?.value
const streamOf = (...chunks: string[]): RequestInit =>
  ({
    method: 'POST',
    body: new ReadableStream({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk))
        controller.close()
      },
    }),
    duplex: 'half',
  }) as RequestInit

test('shows the key beside what the caller sends, and puts what it was given into an empty store', async () => {
  const { provider, old, store, open, call } = await scene()
  const client = open()
  expect(await call(client, { method: 'POST', body: 'buy', headers: { 'x-own': 'yes' } })).toBe(200)
  const [seen] = provider.seen
  expect(seen).toMatchObject({ keyId: old.keyId, method: 'POST', url: '/v1/orders?x=1', body: 'buy' })
  expect(seen?.headers['x-own']).toBe('yes')
  expect(await stored(store)).toEqual({ format: 1, current: { keyId: old.keyId, kind: 'bearer', token: old.token } })
  await client.fetch(new Request(`${provider.url}/b`, { method: 'PUT', body: 'x', headers: { 'x-two': '2' } }))
  expect(provider.seen.at(-1)).toMatchObject({ method: 'PUT', url: '/b', body: 'x', headers: { 'x-two': '2' } })
})

test('a notice has the successor claimed once, stored, and used; the old key is kept', async () => {
  const { provider, old, store, events, open, call } = await scene()
  const client = open()
  const next = provider.rotate(old)
  expect(await Promise.all(Array.from({ length: 20 }, () => call(client)))).toEqual(Array(20).fill(200))
  await adopted(client, next.keyId)
  expect(await call(client)).toBe(200)
  expect(provider.seen.at(-1)?.keyId).toBe(next.keyId)
  expect(provider.claims).toHaveLength(1)
  expect(await stored(store)).toEqual({
    format: 1,
    current: { keyId: next.keyId, kind: 'bearer', token: next.token, version: 2 },
    previous: { keyId: old.keyId, kind: 'bearer', token: old.token },
  })
  expect(events.map(({ type }) => type)).toEqual(['adopted', 'claimed'])
})

test('of twenty that share a store one claims, and all use the new key', async () => {
  const { provider, old, open, call } = await scene()
  const clients = Array.from({ length: 20 }, () => open())
  const next = provider.rotate(old)
  await Promise.all(clients.map((client) => call(client)))
  for (const client of clients) await adopted(client, next.keyId)
  expect(provider.claims).toHaveLength(1)
})

test('the pair is in the store before the claim is sent, and whoever finds it goes on with it', async () => {
  const { provider, old, store, open, call } = await scene()
  const first = open({ fetch: dying(provider) })
  const next = provider.rotate(old)
  expect(await call(first)).toBe(200)
  // The answer to the first claim never arrives, and its process is gone.
  await eventually(() => provider.claims.length === 1, 'a claim')
  await first.close()
  expect(await stored(store)).toMatchObject({ current: { keyId: old.keyId }, pending: { privateKey: { crv: 'P-256' } } })
  const second = open({ abandonedMs: 50 })
  expect(await call(second)).toBe(200)
  await adopted(second, next.keyId)
  expect(provider.claims.map(({ status }) => status)).toEqual([200, 200])
  expect(new Set(provider.claims.map(({ recipient }) => recipient)).size).toBe(1)
})

/** Claims get through, and nothing comes back. */
const dying =
  (provider: Provider): typeof fetch =>
  async (input, init) => {
    const answer = fetch(input, init)
    if (!String(input).startsWith(`${provider.url}/control`)) return answer
    await answer
    return new Promise((_, reject) => init?.signal?.addEventListener('abort', () => reject(init.signal?.reason)))
  }

describe('when the new key is refused', () => {
  test('the old one is taken, for the same request, and the new one tried again later', async () => {
    const { provider, old, open, call, events } = await scene()
    let now = Date.now()
    const client = open({ now: () => now })
    const next = provider.rotate(old)
    await call(client)
    await adopted(client, next.keyId)
    next.state = 'deactivated'
    expect(await call(client, { method: 'POST', body: 'sell' })).toBe(200)
    expect(provider.seen.slice(-2)).toMatchObject([
      { keyId: next.keyId, status: 401 },
      { keyId: old.keyId, status: 200, body: 'sell' },
    ])
    expect(events.at(-1)).toEqual({ type: 'fell-back', keyId: old.keyId, refused: next.keyId })
    expect(await call(client)).toBe(200)
    expect(provider.seen.at(-2)?.status).toBe(200)
    next.state = 'active'
    now += 2_000
    expect(await call(client)).toBe(200)
    expect(provider.seen.at(-1)?.keyId).toBe(next.keyId)
    expect(provider.claims).toHaveLength(1)
  })

  test('a body that can be read once arrives, whole and once', async () => {
    const { provider, old, open, call } = await scene()
    const client = open()
    const next = provider.rotate(old)
    await call(client)
    await adopted(client, next.keyId)
    next.state = 'deactivated'
    expect(await call(client, streamOf('one', 'two'))).toBe(200)
    expect(provider.seen.filter(({ method }) => method === 'POST')).toMatchObject([
      { keyId: old.keyId, body: 'onetwo', status: 200 },
    ])
  })

  test('a rotation after that one was rolled back is followed', async () => {
    const { provider, old, open, call } = await scene()
    const client = open()
    const second = provider.rotate(old)
    await call(client)
    await adopted(client, second.keyId)
    second.state = 'deactivated'
    delete old.successor
    expect(await call(client)).toBe(200)
    old.successor = provider.issue(3)
    expect(await call(client)).toBe(200)
    await adopted(client, old.successor.keyId)
    expect(await call(client)).toBe(200)
  })
})

describe('after a rotation that was rolled back', () => {
  /** The store has the new key as the current one, which is dead; the old one lives, and has another successor. */
  async function rolledBack({ provider, old, store }: Pick<Scene, 'provider' | 'old' | 'store'>): Promise<{ next: ProviderKey }> {
    const dead = provider.rotate(old)
    dead.state = 'deactivated'
    const [current, previous] = [dead, old].map(
      ({ keyId, token, version }) => ({ keyId, version, kind: 'bearer', token }) as const,
    )
    if (current === undefined || previous === undefined) throw new Error('there are two')
    await store.replace({ format: 1, current, previous }, (await store.read())?.version)
    const next = provider.issue(3)
    old.successor = next
    return { next }
  }

  const isClaimed = async (store: Store, { keyId }: ProviderKey): Promise<void> => {
    await eventually(async () => (await stored(store))?.current?.keyId === keyId, 'the new key in the store', 10_000)
  }

  test('a claim whose process was killed is ended with the key that it was begun with, also by one that has seen no notice', async () => {
    const at = await scene()
    const { next } = await rolledBack(at)
    const first = at.open({ fetch: dying(at.provider) })
    expect(await at.call(first)).toBe(200)
    await eventually(() => at.provider.claims.length === 1, 'a claim')
    await first.close()
    await at.open({ abandonedMs: 50 }).keyId()
    await isClaimed(at.store, next)
    expect((await stored(at.store))?.current).toMatchObject({ token: next.token, version: 3 })
    expect(await stored(at.store)).toMatchObject({ previous: { keyId: at.old.keyId } })
    expect(at.provider.claims.map(({ status }) => status)).toEqual([200, 200])
  })

  test('a claim that an older version has begun waits for a notice, which says whose successor it is', async () => {
    const at = await scene()
    const { next } = await rolledBack(at)
    const first = at.open({ fetch: dying(at.provider) })
    await at.call(first)
    await eventually(() => at.provider.claims.length === 1, 'a claim')
    await first.close()
    const { value, version } = (await at.store.read()) ?? expect.fail()
    const { keyId, ...pending } = (value.current && value.pending) ?? expect.fail()
    expect(keyId).toBe(at.old.keyId)
    await at.store.replace({ ...(value as StoredCredential), pending }, version)
    const client = at.open({ abandonedMs: 50 })
    await client.keyId()
    await at.open({ abandonedMs: 50 }).keyId()
    expect(await at.call(client)).toBe(200)
    await eventually(async () => (await at.call(client)) === 200 && (await client.keyId()) === next.keyId, 'the new key')
    expect(at.provider.claims.map(({ status }) => status)).toEqual([200, 200])
  })

  test('a claim that is handed over replaces the dead key, and the one that is accepted stays', async () => {
    const at = await scene()
    await rolledBack(at)
    const next = at.provider.issue(3)
    await at.open().claim(someCode())
    expect(await stored(at.store)).toMatchObject({ current: { keyId: next.keyId }, previous: { keyId: at.old.keyId } })
  })

  test('the next rotation is followed, also where a claim was handed over', async () => {
    const at = await scene()
    const client = at.open()
    const dead = at.provider.issue(2)
    await client.claim(someCode())
    expect(await client.keyId()).toBe(dead.keyId)
    dead.state = 'deactivated'
    const next = at.provider.issue(3)
    at.old.successor = next
    expect(await at.call(client)).toBe(200)
    await isClaimed(at.store, next)
    expect(await stored(at.store)).toMatchObject({ previous: { keyId: at.old.keyId } })
  })

  test('a process that is killed at any step of the claim loses no key, and nothing is claimed twice', async () => {
    const { provider } = await scene()
    let isKilled = true
    for (let steps = 0; isKilled; steps++) {
      const at = { provider, old: provider.issue(), store: memoryStore() }
      const { next } = await rolledBack(at)
      const before = provider.claims.length
      const api = `${provider.url}/control/`
      const url = `${provider.url}/v1/orders`
      const { died, step } = mortal(steps)
      const victim = createClient({
        store: { read: () => step(at.store.read), replace: (...written) => step(() => at.store.replace(...written)) },
        api,
        fetch: (...asked) => (String(asked[0]).startsWith(api) ? step(() => fetch(...asked)) : fetch(...asked)),
      })
      victim.fetch(url).catch(() => undefined)
      isKilled = await Promise.race([died.then(() => true), isClaimed(at.store, next).then(() => false)])
      const heir = createClient({ store: at.store, api, abandonedMs: 20 })
      onTestFinished(() => heir.close())
      await heir.keyId()
      await eventually(async () => {
        const { status } = await heir.fetch(url)
        expect([steps, status]).toEqual([steps, 200])
        return (await heir.keyId()) === next.keyId
      }, `the new key after ${steps} steps`)
      const claims = provider.claims.slice(before)
      expect([steps, new Set(claims.map(({ status }) => status))]).toEqual([steps, new Set([200])])
      expect(new Set(claims.map(({ recipient }) => recipient)).size).toBe(1)
    }
  })

  /** A process that is killed after so many steps: nothing that it does then has any effect. */
  function mortal(steps: number) {
    let left = steps
    let die: () => void
    const died = new Promise<void>((resolve) => {
      die = resolve
    })
    const live = async (): Promise<void> => {
      left -= 1
      if (left >= 0) return
      die()
      await new Promise(() => undefined)
    }
    const step = async <T>(work: () => Promise<T>): Promise<T> => {
      await live()
      const result = await work()
      await live()
      return result
    }
    return { died, step }
  }
})

describe('bodies that can be read once', () => {
  test('arrive when a key that has just been accepted is refused', async () => {
    const { provider, old, open, call } = await scene()
    const client = open()
    const next = provider.rotate(old)
    await call(client)
    await adopted(client, next.keyId)
    await call(client)
    next.state = 'deactivated'
    const parts = Array.from({ length: 20 }, (_, i) => `${i} `)
    expect(await call(client, streamOf(...parts))).toBe(200)
    expect(provider.seen.slice(-2)).toMatchObject([
      { keyId: next.keyId, status: 401 },
      { keyId: old.keyId, body: parts.join('') },
    ])
    const request = new Request(`${provider.url}/c`, { method: 'POST', body: 'of a request object' })
    expect((await client.fetch(request)).status).toBe(200)
    expect(provider.seen.at(-1)).toMatchObject({ body: 'of a request object', headers: { 'content-length': '19' } })
  })

  test('are streamed: of a long one only a part is held', async () => {
    const { provider, open, call } = await scene()
    const client = open()
    await call(client)
    const chunk = 'x'.repeat(100_000)
    expect(await call(client, streamOf(...Array<string>(50).fill(chunk)))).toBe(200)
    expect(provider.seen.at(-1)?.body).toHaveLength(5_000_000)
  })

  test('are sent with a key that has just been accepted, without asking first', async () => {
    const { provider, open, call } = await scene()
    const client = open()
    await call(client)
    expect(await call(client, streamOf('a'))).toBe(200)
    expect(provider.seen.map(({ method }) => method)).toEqual(['GET', 'POST'])
  })

  test('prove the new key by a HEAD request', async () => {
    const { provider, old, open, call } = await scene()
    const client = open()
    const next = provider.rotate(old)
    await call(client)
    await adopted(client, next.keyId)
    expect(await call(client, streamOf('a'))).toBe(200)
    expect(provider.seen.slice(1).map(({ method, keyId }) => [method, keyId])).toEqual([
      ['HEAD', next.keyId],
      ['POST', next.keyId],
    ])
  })

  test('of a process that has slept through a rotation are not lost', async () => {
    const { provider, old, store, open, call } = await scene()
    let now = Date.now()
    const [sleeper, other] = [open({ now: () => now, store: unwatched(store) }), open()]
    await call(sleeper)
    const next = provider.rotate(old)
    await call(other)
    await adopted(other, next.keyId)
    old.state = 'deactivated'
    now += 3_600_000
    expect(await call(sleeper, streamOf('still', 'here'))).toBe(200)
    expect(provider.seen.filter(({ method }) => method === 'POST')).toMatchObject([{ keyId: next.keyId, body: 'stillhere' }])
  })
})

test('a process whose key is refused reads the store, and tries again with the key that another one has put there', async () => {
  const { provider, old, store, open, call } = await scene()
  const [late, other] = [open({ store: unwatched(store) }), open()]
  await call(late)
  const next = provider.rotate(old)
  await call(other)
  await adopted(other, next.keyId)
  old.state = 'deactivated'
  let now = Date.now()
  const later = open({ store: unwatched(store), now: () => now })
  expect(await call(later)).toBe(200)
  now += 2_000
  await eventually(async () => (await call(late)) === 200, 'the late one with the new key', 5_000)
  expect(await late.keyId()).toBe(next.keyId)
})

describe('a 401 that no other key helps against', () => {
  test('is the answer, as the first key got it, and neither key is blamed', async () => {
    const { provider, old, open, call, events } = await scene()
    const client = open()
    const next = provider.rotate(old)
    await call(client)
    await adopted(client, next.keyId)
    provider.status = 401
    expect(await call(client)).toBe(401)
    provider.status = 200
    expect(await call(client)).toBe(200)
    expect(provider.seen.at(-1)?.keyId).toBe(next.keyId)
    expect(events.map(({ type }) => type)).not.toContain('fell-back')
  })
})

describe('a claim that is refused', () => {
  test('is not tried again, by nobody who shares the store', async () => {
    const { provider, old, store, open, call, events } = await scene()
    provider.rotate(old)
    provider.refusals.push('claim-used', 'claim-used', 'claim-used')
    const [first, second] = [open(), open()]
    await call(first)
    await eventually(() => events.length > 0, 'a refusal')
    expect(events).toMatchObject([{ type: 'claim-refused', code: 'claim-used' }])
    for (let i = 0; i < 5; i++) expect(await Promise.all([call(first), call(second), call(open())])).toEqual([200, 200, 200])
    expect(provider.claims).toHaveLength(1)
    expect(await stored(store)).toMatchObject({
      current: { keyId: old.keyId },
      refused: { keyId: old.keyId, code: 'claim-used' },
    })
    expect(await stored(store)).not.toHaveProperty('pending')
  })

  test('is tried again when its time has come', async () => {
    const { provider, old, open, call, events } = await scene()
    let now = Date.now()
    const client = open({ now: () => now })
    const next = provider.rotate(old)
    provider.refusals.push('no-successor')
    await call(client)
    await eventually(() => events.length > 0, 'a refusal')
    now += 60_000
    await eventually(async () => (await call(client)) === 200 && (await client.keyId()) === next.keyId, 'the new key')
  })
})

test('an API that fails is asked again, with the same pair, not sooner than it says', async () => {
  const { provider, old, open, call, events } = await scene()
  provider.refusals.push('dependency-unavailable', { status: 429, headers: { 'retry-after': '1' } }, { status: 502 })
  const client = open()
  const next = provider.rotate(old)
  const began = performance.now()
  await call(client)
  await adopted(client, next.keyId)
  expect(performance.now() - began).toBeGreaterThan(1_000)
  expect(events.filter(({ type }) => type === 'claim-delayed')).toHaveLength(3)
  expect(new Set(provider.claims.map(({ recipient }) => recipient)).size).toBe(1)
})

test('an API that is away for hours costs few writes, of all that share the store, and one of them goes on in the end', async () => {
  const [old, next] = [newKeyId(), newKeyId()].map((keyId) => ({
    keyId,
    token: newToken({ brand: 'kt', environment: 'prod', keyId }),
  }))
  if (old === undefined || next === undefined) throw new Error('there are two')
  const kept = memoryStore()
  let writes = 0
  const store: Store = {
    read: kept.read,
    replace: (...written) => {
      writes += 1
      return kept.replace(...written)
    },
  }
  const notice = { [HEADERS.rotation]: formatRotationNotice({ sunset: new Date(4_102_444_800_000), successor: 2 }) }
  let isAway = true
  const claims: number[] = []
  const answering: typeof fetch = async (input, init) => {
    if (!String(input).startsWith('http://control.test')) return new Response('hello', { headers: notice })
    claims.push(Date.now())
    if (isAway) return Response.json({ code: 'dependency-unavailable' }, { status: 503 })
    const { recipient } = JSON.parse(new TextDecoder().decode(init?.body as Uint8Array)) as { recipient: JWK }
    return Response.json(await handedOut(next, recipient))
  }
  const client = () => {
    const made = createClient({
      store,
      credential: old.token,
      api: 'http://control.test',
      fetch: answering,
      // Read anew, for the clock is another one soon.
      now: () => Date.now(),
    })
    onTestFinished(() => made.close())
    return made
  }
  const clients = [client(), client(), client()]
  for (const each of clients) await each.fetch('http://api.test')
  await eventually(() => claims.length === 1, 'a claim')
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  onTestFinished(() => void vi.useRealTimers())
  // The first pause is of the real clock.
  while (claims.length === 1) await new Promise(setImmediate)
  await vi.advanceTimersByTimeAsync(50 * 60_000)
  expect(claims.length).toBeGreaterThan(80)
  // With 100 younger than a day, a secret of AWS has room for no other.
  expect(writes).toBeLessThan(20)
  // One at a time asks, and none of the others comes between.
  const pauses = claims.slice(10).map((at, i) => at - (claims[i + 9] ?? 0))
  expect(Math.min(...pauses)).toBeGreaterThan(20_000)

  // Whichever of them it was.
  for (const each of clients.slice(1)) await each.close()
  isAway = false
  const last = claims.length
  await vi.advanceTimersByTimeAsync(7 * 60_000)
  vi.useRealTimers()
  await eventually(async () => (await stored(kept))?.current?.keyId === next.keyId, 'the new key')
  expect(claims).toHaveLength(last + 1)
})

test('while nobody answers at the API, requests go on, and closing ends the attempts', async () => {
  const { provider, old, open, call, events } = await scene()
  const client = open({ api: 'http://127.0.0.1:9/', timeoutMs: 500 })
  provider.rotate(old)
  for (let i = 0; i < 5; i++) expect(await call(client)).toBe(200)
  await eventually(() => events.some(({ type }) => type === 'claim-delayed'), 'a delay')
  await client.close()
  const { length } = events
  expect(await call(client)).toBe(200)
  expect(events).toHaveLength(length)
})

describe('with a claim that the provider has sent', () => {
  test.each(['', 'https://api.example.com/v1/claims/', 'https://api.example.com/claim#'])('after %j', async (before) => {
    const { provider, old, store, open, call } = await scene()
    const client = open()
    const next = provider.issue(2)
    expect(await client.claim(before + someCode())).toEqual({ keyId: next.keyId })
    expect(await stored(store)).toMatchObject({ current: { keyId: next.keyId }, previous: { keyId: old.keyId } })
    expect(await call(client)).toBe(200)
    expect(provider.seen.at(-1)?.keyId).toBe(next.keyId)
  })

  test('a refusal rejects, and what is no code is not sent', async () => {
    const { provider, open } = await scene()
    const client = open()
    provider.issue(2)
    provider.refusals.push('claim-expired')
    await expect(client.claim(someCode())).rejects.toMatchObject({ name: 'ClaimError', code: 'claim-expired' })
    await expect(client.claim('https://api.example.com/claim')).rejects.toThrow(TypeError)
    expect(provider.claims).toHaveLength(1)
  })
})

test('a handed-over claim that is refused keeps nobody from the next rotation, and forgets no refusal of before', async () => {
  const { provider, old, store, events, open, call } = await scene()
  let now = Date.now()
  const [first, second] = [open({ now: () => now }), open({ now: () => now })]
  provider.rotate(old)
  provider.refusals.push('no-successor', 'claim-expired')
  await call(first)
  await eventually(() => events.length === 1, 'a refusal')
  await expect(first.claim(someCode())).rejects.toMatchObject({ code: 'claim-expired' })
  expect(await stored(store)).toMatchObject({ refused: { code: 'no-successor' } })
  expect(await stored(store)).not.toHaveProperty('pending')
  for (const client of [first, second, first, second]) await call(client)
  await first.close()
  expect(provider.claims).toHaveLength(2)

  now += 60_000
  const third = open({ now: () => now })
  provider.refusals.push('claim-used')
  await expect(third.claim(someCode())).rejects.toMatchObject({ code: 'claim-used' })
  await eventually(async () => (await call(third)) === 200 && (await third.keyId()) === old.successor?.keyId, 'the new key')
  await adopted(second, old.successor?.keyId ?? '')
  expect(provider.claims.map(({ status }) => status)).toEqual([404, 410, 410, 200])
})

test('an aborted request ends, and nothing else does', async () => {
  const { provider, open, call } = await scene()
  const client = open()
  const leaving = new AbortController()
  leaving.abort()
  await expect(call(client, { signal: leaving.signal })).rejects.toMatchObject({ name: 'AbortError' })
  expect(await call(client)).toBe(200)
  expect(provider.seen).toHaveLength(1)
})

test('the key goes to no other origin than those that are named', async () => {
  const { provider, open, call } = await scene()
  expect(await call(open({ origins: [provider.url] }))).toBe(200)
  await expect(call(open({ origins: ['https://api.example.com'] }))).rejects.toThrow('none of the origins')
  expect(provider.seen).toHaveLength(1)
})

describe('a store', () => {
  const failing = (code: ConstructorParameters<typeof StoreError>[0]): Store => {
    const fail = async (): Promise<never> => {
      throw new StoreError(code, 'on purpose')
    }
    return { read: fail, replace: fail }
  }

  test('that can not be reached does not keep a program with a key from its work', async () => {
    const { open, call, events } = await scene()
    expect(await call(open({ store: failing('unreachable') }))).toBe(200)
    expect(events).toEqual([{ type: 'store-failed', code: 'unreachable', message: 'on purpose' }])
  })

  test('that throws anything ends no program, costs no request, and is asked again', async () => {
    const { provider, old, store, open, call, events } = await scene()
    let now = Date.now()
    /** Works the next so many times. */
    let works = 0
    const shaky = async <T>(work: () => Promise<T>): Promise<T> => {
      works -= 1
      if (works < 0) throw new TypeError('PRECIOUS')
      return work()
    }
    const theirs: Store = { read: () => shaky(store.read), replace: (...written) => shaky(() => store.replace(...written)) }
    const client = open({ store: theirs, now: () => now })
    expect(await call(client)).toBe(200)
    expect(events).toEqual([
      { type: 'store-failed', code: 'unreachable', message: 'The store threw TypeError. Trying again may help.' },
    ])
    now += 3_600_000
    expect(await call(client, streamOf('a', 'body'))).toBe(200)
    expect(events).toHaveLength(2)

    const next = provider.rotate(old)
    // Where the claim is to be written, and where the new key is.
    for (const allowed of [3, 2]) {
      works = allowed
      const before = events.length
      now += 60_000
      expect(await call(client)).toBe(200)
      await eventually(() => events.length > before, 'a failure')
    }
    works = 100
    await eventually(async () => {
      now += 60_000
      return (await call(client)) === 200 && (await client.keyId()) === next.keyId
    }, 'the new key')
    expect(JSON.stringify(events)).not.toContain('PRECIOUS')
    expect(new Set(provider.claims.map(({ recipient }) => recipient)).size).toBe(1)
  })

  test('that holds something else does', async () => {
    const { provider, open, call } = await scene()
    await expect(call(open({ store: failing('unreadable') }))).rejects.toMatchObject({ code: 'unreadable' })
    expect(provider.seen).toHaveLength(0)
  })

  test('that holds the key of another credential is not used', async () => {
    const { provider, old, store, open, call } = await scene()
    await store.replace({ format: 1, credentialId: 'crd_other', current: { keyId: 'x', kind: 'bearer', token: 'y' } }, undefined)
    const mine = open({ credential: { credentialId: 'crd_mine', token: old.token } })
    await expect(call(mine)).rejects.toMatchObject({ code: 'wrong-credential' })
    expect(provider.seen).toHaveLength(0)
  })

  test('that is full keeps its key, and so does the client; the claim ends when there is room', async () => {
    const { provider, old, store, open, call, events } = await scene()
    let full = false
    const tight: Store = {
      read: store.read,
      async replace(next, after) {
        if (full) throw new StoreError('no-space', 'on purpose')
        full = next.pending !== undefined
        return store.replace(next, after)
      },
    }
    const client = open({ store: tight })
    const next = provider.rotate(old)
    await call(client)
    await eventually(() => events.filter(({ type }) => type === 'store-failed').length >= 2, 'the second failure')
    expect(await call(client)).toBe(200)
    expect(provider.seen.map(({ keyId }) => keyId)).toEqual([old.keyId, old.keyId])
    full = false
    await adopted(client, next.keyId)
    expect(provider.claims).toHaveLength(1)
  })

  test('that is empty wants a key', async () => {
    const { call } = await scene()
    await expect(call(createClient({ store: memoryStore(), api: 'http://127.0.0.1:9' }))).rejects.toThrow(
      'give one as `credential`',
    )
  })
})
