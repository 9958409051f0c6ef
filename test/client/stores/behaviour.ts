/** What every store on a server does, whichever it is. */
import { newKeyId, newToken } from '@keyturn/contract'
import { expect, test } from 'vitest'
import { type Store, StoreConflict, type StoredCredential, type StoredKey, StoreError } from '../../../client/src/store.ts'
import type { FieldOptions } from '../../../client/src/stores/fields.ts'

const AT_ONCE = 20
const STEPS = 5

export const newKey = (): StoredKey & { token: string } => {
  const keyId = newKeyId()
  return { keyId, kind: 'bearer', token: newToken({ brand: 'kt', environment: 'prod', keyId }) }
}

export const holding = (current: StoredKey, more: Partial<StoredCredential> = {}): StoredCredential => ({
  format: 1,
  credentialId: 'crd_0123456789abcdef',
  current,
  ...more,
})

export const PENDING = {
  since: '2026-11-26T01:00:00.000Z',
  privateKey: { kty: 'EC', crv: 'P-256', x: 'eHh4', y: 'eXl5', d: 'c2VjcmV0LXNjYWxhcg' },
}

/** A place for one secret, as its owner and as programs see it. */
export interface Place {
  store(options?: FieldOptions): Store
  /** Puts fields there by hand. */
  put(fields: Readonly<Record<string, string>>): Promise<unknown>
  /** What a program reads that knows nothing of Keyturn. */
  seen(): Promise<Readonly<Record<string, string>>>
}

export const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error: unknown) => (error instanceof StoreError ? error.code : error instanceof StoreConflict ? 'conflict' : String(error)),
  )

/** @param fresh a place where nothing is yet */
export function behavesAsStore(fresh: () => Place): void {
  test('keeps what is written, and shows programs the key in use in a field of its own', async () => {
    const place = fresh()
    const store = place.store()
    expect(await store.read()).toBeUndefined()
    const [first, second] = [newKey(), newKey()]
    const version = await store.replace(holding(first), undefined)
    expect(await store.read()).toEqual({ value: holding(first), version })
    expect(await place.seen()).toMatchObject({ token: first.token, keyId: first.keyId })

    const claiming = await store.replace(holding(first, { pending: PENDING }), version)
    expect(await place.store().read()).toEqual({ value: holding(first, { pending: PENDING }), version: claiming })
    expect((await place.seen())['token']).toBe(first.token)

    const switched = await store.replace(holding(second, { previous: first }), claiming)
    expect((await place.seen())['token']).toBe(second.token)
    const settled = await store.replace(holding(second), switched)
    expect(await place.store().read()).toEqual({ value: holding(second), version: settled })
    expect((await place.seen())['token']).toBe(second.token)
  })

  test('the private half of an Ed25519 pair stands in the field as a JWK', async () => {
    const place = fresh()
    const privateKey = { kty: 'OKP', crv: 'Ed25519', x: 'eHh4', d: 'ZGRk' }
    const value = holding({ keyId: newKeyId(), kind: 'ed25519', privateKey })
    await place.store({ field: 'private-key' }).replace(value, undefined)
    expect(JSON.parse((await place.seen())['private-key'] ?? '')).toEqual(privateKey)
    expect((await place.store({ field: 'private-key' }).read())?.value).toEqual(value)
  })

  test('the claim of a first key is kept where there is no key yet; programs see no key, and then the one that was claimed', async () => {
    const place = fresh()
    const claiming = { format: 1, kind: 'hmac-sha256', pending: { ...PENDING, claim: 'a claim' } } as const
    const version = await place.store().replace(claiming, undefined)
    expect(await place.store().read()).toEqual({ value: claiming, version })
    expect(await place.seen()).not.toHaveProperty('token')
    const refused = { ...claiming, refused: 'claim-used' }
    const noted = await place.store().replace(refused, version)
    expect(await place.store().read()).toEqual({ value: refused, version: noted })
    const first = newKey()
    await place.store().replace(holding(first), noted)
    expect((await place.store().read())?.value).toEqual(holding(first))
    expect((await place.seen())['token']).toBe(first.token)
  })

  test('whoever has not seen the last write is refused, and nothing is overwritten', async () => {
    const store = fresh().store()
    const [first, second] = [newKey(), newKey()]
    const before = await store.replace(holding(first), undefined)
    const now = await store.replace(holding(second, { previous: first }), before)
    expect(await codeOf(store.replace(holding(newKey()), before))).toBe('conflict')
    expect(await codeOf(store.replace(holding(newKey()), undefined))).toBe('conflict')
    expect(await codeOf(store.replace(holding(newKey()), 'another'))).toBe('conflict')
    expect(await store.read()).toEqual({ value: holding(second, { previous: first }), version: now })
  })

  test(`of ${AT_ONCE} who write at the same time one wins each step, and no write is lost`, async () => {
    const place = fresh()
    const start = newKey()
    const firsts = await Promise.all(
      Array.from({ length: AT_ONCE }, (_, i) => codeOf(place.store().replace(holding(i === 0 ? start : newKey()), undefined))),
    )
    expect(firsts.sort()).toEqual([...Array<string>(AT_ONCE - 1).fill('conflict'), 'no error'])
    const before = (await place.store().read())?.value.current?.keyId

    const after = new Map<string, string>()
    const write = async (): Promise<void> => {
      const store = place.store()
      while (after.size < STEPS) {
        const key = newKey()
        const seen = await store.read()
        if (seen?.value.current === undefined) throw new Error('the secret has gone')
        const next = holding(key, { previous: seen.value.current })
        const outcome = await codeOf(store.replace(next, seen.version))
        if (outcome === 'no error') after.set(key.keyId, seen.value.current.keyId)
        else if (outcome !== 'conflict') throw new Error(outcome)
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, write))
    // Each took the place of another: followed back from the last, all of them are met.
    let steps = 0
    let at = (await place.store().read())?.value.current?.keyId
    for (; at !== before && at !== undefined && steps <= after.size; steps++) at = after.get(at)
    expect([at, steps]).toEqual([before, after.size])
  })

  test('a token that was there before Keyturn is taken on, and other fields stay as they are', async () => {
    const place = fresh()
    const [first, second] = [newKey(), newKey()]
    await place.put({ token: first.token, user: 'acme' })
    const found = await place.store().read()
    expect(found?.value).toEqual({ format: 1, current: first })
    const signing = { format: 1, current: { ...first, kind: 'hmac-sha256' } }
    expect((await place.store({ kind: 'hmac-sha256' }).read())?.value).toEqual(signing)
    const claiming = await place.store().replace({ format: 1, current: first, pending: PENDING }, found?.version)
    expect(await place.seen()).toMatchObject({ token: first.token, user: 'acme' })
    await place.store().replace({ format: 1, current: second, previous: first }, claiming)
    expect(await place.seen()).toMatchObject({ token: second.token, user: 'acme' })
  })

  test('a token that somebody puts there by hand later is the key in use', async () => {
    const place = fresh()
    await place.store().replace(holding(newKey()), undefined)
    const byHand = newKey()
    await place.put({ token: byHand.token })
    const found = await place.store().read()
    expect(found?.value.current).toEqual(byHand)
    await place.store().replace(holding(byHand, { pending: PENDING }), found?.version)
    expect((await place.store().read())?.value).toEqual(holding(byHand, { pending: PENDING }))
  })

  test('garbage, a newer format, another credential: each is said, left as it is, and never quoted', async () => {
    const { token } = newKey()
    const bad: [Readonly<Record<string, string>>, string][] = [
      [{ token: 'PRECIOUS nonsense' }, 'unreadable'],
      [{ token, keyturn: '{"format":1,"current":PRECIOUS' }, 'unreadable'],
      [{ token, keyturn: '{"format":1,"current":{"keyId":"PRECIOUS"}}' }, 'unreadable'],
      [{ token, keyturn: '"PRECIOUS"' }, 'unreadable'],
      [{ token, keyturn: '{"format":2,"keys":["PRECIOUS"]}' }, 'newer-format'],
      [{ token, keyturn: JSON.stringify(holding(newKey(), { credentialId: 'crd_another' })) }, 'wrong-credential'],
    ]
    for (const [fields, code] of bad) {
      const place = fresh()
      await place.put(fields)
      const store = place.store({ credentialId: 'crd_0123456789abcdef' })
      for (const work of [() => store.read(), () => store.replace(holding(newKey()), undefined)]) {
        const error = (await work().catch((thrown: unknown) => thrown)) as StoreError
        expect([error.code, error.message]).toEqual([code, expect.stringMatching(/\. [A-Z]|: update it/)])
        expect(`${error.stack} ${JSON.stringify(error)} ${error.cause}`).not.toMatch(/PRECIOUS|kt_prod_/)
      }
      expect(await place.seen()).toEqual(fields)
    }
    const store = fresh().store({ credentialId: 'crd_another' })
    expect(await codeOf(store.replace(holding(newKey()), undefined))).toBe('wrong-credential')
  })
}

/** A server that is not there; ports like 9 are none to `fetch` itself. */
export const NOBODY = 'http://127.0.0.1:2'
