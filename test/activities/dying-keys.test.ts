/** What a client's own Vault has while keys die: whatever happens meanwhile, its programs find one that is accepted. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { graceTerms, type KeyDelivery, type RotationId, type VaultDelivery } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import type { StoredCredential } from '../../client/src/store.ts'
import { apiHouse } from '../api/support.ts'
import { placeIn, trustKeyturn } from '../support/clients-vault.ts'
import { eventually, type StartedRotation, type TestCredential } from '../support/house.ts'
import { obstruct } from '../support/obstacles.ts'
import { type Bao, findBao, startBao } from '../support/openbao.ts'
import { alertsOf } from '../support/topics.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 4 * 60_000, hookTimeout: 10 * 60_000 })
const bao = await findBao((what) => void process.stderr.write(`${what}\n`))
const LONG = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 } as const
const office = apiHouse({})

/** Something that is waited for. */
function happening<T>() {
  let happened = (_: T): void => undefined
  const once = new Promise<T>((resolve) => {
    happened = resolve
  })
  return { once, happened }
}

/** A Vault before which a write may be kept waiting, as in a network that is slow. */
async function slowVault(vault: Bao) {
  const kept: { when: 'before' | 'after'; met(): void; released: Promise<void>; answered(status: number): void }[] = []
  const server = createServer(async (request, response) => {
    const { method = 'GET', url = '', headers } = request
    const body = method === 'GET' ? {} : { body: new Uint8Array(await buffer(request)) }
    const one = method === 'POST' && url.includes('/data/') ? kept.shift() : undefined
    const keep = async (when: 'before' | 'after') => {
      if (one?.when !== when) return
      one.met()
      await one.released
    }
    try {
      await keep('before')
      const { 'x-vault-token': token = '', 'content-type': type = 'application/json' } = headers
      const sent = { 'x-vault-token': String(token), 'content-type': type }
      const answer = await fetch(`${vault.address}${url}`, { method, headers: sent, ...body })
      const text = await answer.text()
      one?.answered(answer.status)
      await keep('after')
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text)
    } catch {
      response.destroy()
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** The next write waits before it comes to the Vault; or its answer, after it has. `release` lets it go on. */
    keepNextWrite(when: 'before' | 'after') {
      const [met, released, answered] = [happening<void>(), happening<void>(), happening<number>()]
      kept.push({ when, met: met.happened, released: released.once, answered: answered.happened })
      const release = (): Promise<number> => {
        released.happened()
        return answered.once
      }
      return { met: met.once, release }
    },
  }
}

const holding = ({ credentialId, keyId, token }: TestCredential): StoredCredential => ({
  format: 1,
  credentialId,
  current: { keyId, kind: 'bearer', token },
})

describe.skipIf(bao === undefined)('a Vault of the client', () => {
  let vault: Bao
  beforeAll(async () => {
    vault = await startBao(bao ?? '')
    await trustKeyturn(vault, { api: office.client.url, issuer: office.house.config.publicUrl })
  })
  afterAll(() => vault?.stop())

  /** A rotation whose new key is to be written behind `address`. */
  async function rotating(address?: string, scopes = ['read:prices']) {
    const place = placeIn(vault)
    const delivery: VaultDelivery & KeyDelivery =
      address === undefined ? place.delivery : { ...place.delivery, address, audience: vault.address }
    const credential = await office.house.credential(scopes, 'prod', [], { delivery })
    await place.allow(credential.credentialId)
    await place.fill(holding(credential))
    const rotation = await office.house.rotate(credential.credentialId, LONG)
    /** What a program finds that knows nothing of Keyturn, and whether it would be accepted. */
    const found = async () => {
      const { token = '', keyId } = (await place.fields()).data
      return { keyId, accepted: office.house.verdicts(token).every((yes) => yes) }
    }
    return { ...credential, ...rotation, place, found }
  }
  const written = async (address?: string, scopes?: string[]) => {
    const rotation = await rotating(address, scopes)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    return { ...rotation, newKeyId: (await newKeyOf(rotation)) ?? expect.fail('there is no new key') }
  }
  const newKeyOf = async ({ rotationId }: { rotationId: RotationId }) => (await office.house.rotation(rotationId)).newKeyId
  const failuresOf = async ({ credentialId }: TestCredential) =>
    (await alertsOf(office.house.config.topics, credentialId)).filter(({ kind }) => kind === 'delivery-failed')
  const rolledBack = async (rotation: StartedRotation) => {
    await office.house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
  }

  test('G1: the new key leaks: the old one is in use again until another new one is; and after a roll-back of that', async () => {
    const rotation = await written()
    const { place, keyId, newKeyId } = rotation
    const { token } = (await place.fields()).data
    await office.client.post('/v1/leaks', { source: 'test', token })
    const another = await eventually(
      async () => {
        const { newKeyId: now, stage } = await office.house.rotation(rotation.rotationId)
        return now !== undefined && now !== newKeyId && stage === 'monitoring' ? now : undefined
      },
      'another new key',
      PATIENCE_MS,
    )
    const { version } = await place.fields()
    const inUse = await Promise.all(Array.from({ length: version }, async (_, i) => (await place.fields(i + 1)).data['keyId']))
    expect(inUse).toEqual([keyId, newKeyId, keyId, another])
    expect((await place.store.read())?.value).toMatchObject({ current: { keyId: another }, previous: { keyId } })
    await rolledBack(rotation)
    expect((await place.store.read())?.value).toEqual(holding(rotation))
    expect(await failuresOf(rotation)).toEqual([])
  })

  test('a write that a roll-back has broken off comes to nothing, however late it comes', async () => {
    const slow = await slowVault(vault)
    const write = slow.keepNextWrite('before')
    const rotation = await rotating(slow.address)
    await write.met
    await rolledBack(rotation)
    // Check-and-set.
    expect(await write.release()).toBe(400)
    expect((await rotation.place.store.read())?.value).toEqual(holding(rotation))
    expect(await rotation.found()).toEqual({ keyId: rotation.keyId, accepted: true })
  })

  /** On its way back, the old key in the client's store again, and the new one accepted still. */
  async function takenBack(scopes?: string[]) {
    const rotation = await written(undefined, scopes)
    const release = await obstruct(office.house.db, rotation.credentialId, {
      refuses: 'change',
      event: 'keyturn.key.deactivated',
    })
    await office.house.order(rotation, 'rollBack')
    await office.house.reached(rotation.rotationId, 'held', PATIENCE_MS)
    await release()
    expect(await rotation.found()).toEqual({ keyId: rotation.keyId, accepted: true })
    // What is accepted is not thrown away.
    expect((await rotation.place.store.read())?.value).toMatchObject({ previous: { keyId: rotation.newKeyId } })
    return rotation
  }
  const states = async ({ credentialId }: TestCredential) =>
    (await office.house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)

  test.each(['an emergency', 'a leak'])('G1: %s while it is going back: another new key is written', async (what) => {
    const rotation = await takenBack(['trade:write'])
    const { token, place, rotationId } = rotation
    if (what === 'a leak') await office.client.post('/v1/leaks', { source: 'test', token })
    else await office.house.order(rotation, 'escalate')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await states(rotation)).toEqual(['1 compromised retired', '2 compromised retired', '3 active current'])
    const newKeyId = await newKeyOf({ rotationId })
    expect(await rotation.found()).toEqual({ keyId: newKeyId, accepted: true })
    expect((await place.store.read())?.value).not.toHaveProperty('previous')
  })

  test('G1: an emergency with grace while it is going back: another new key is written beside the old one', async () => {
    const rotation = await takenBack()
    const { credentialId, keyId } = rotation
    await office.house.trigger(credentialId, { ...graceTerms(3_600_000), quietPeriodMs: 0, regretWindowMs: 0 }, 'emergency')
    const another = await eventually(async () => {
      const value = (await rotation.place.store.read())?.value
      if (value?.current === undefined || value.previous?.keyId !== keyId) return undefined
      return value.current.keyId !== rotation.newKeyId && value.current.keyId
    }, 'another new key')
    expect(await rotation.found()).toEqual({ keyId: another, accepted: true })
    expect(await states(rotation)).toEqual(['1 active current', '2 compromised retired', '3 active successor'])
    await office.house.use((await rotation.place.fields()).data['token'] ?? '')
    expect(await rotation.handle.result()).toBe('completed')
  })

  const change = async ({ credentialId }: TestCredential, delivery: KeyDelivery) => {
    const { status } = await office.client.request('PATCH', `/v1/credentials/${credentialId}`, { body: { delivery } })
    expect(status).toBe(200)
  }

  test.each<[string, (mine: VaultDelivery) => KeyDelivery]>([
    ['another path', (mine) => ({ ...mine, path: `${mine.path}/moved` })],
    ['a claim', () => ({ method: 'claim' })],
  ])('a key is taken back where it was written, though the delivery is %s by now', async (_, to) => {
    const rotation = await written()
    await change(rotation, to(rotation.place.delivery))
    await rolledBack(rotation)
    expect((await rotation.place.store.read())?.value).toEqual(holding(rotation))
    expect(await failuresOf(rotation)).toEqual([])
  })

  test('people hear of it where it is not known how to write there any more', async () => {
    const rotation = await written()
    const { path } = rotation.place.delivery
    // As one that was written before that was kept.
    await office.house.db.query('update claims set places = null where key_id = $1', [rotation.newKeyId])
    await change(rotation, { ...rotation.place.delivery, path: `${path}/moved` })
    await rolledBack(rotation)
    const [failure, ...more] = await failuresOf(rotation)
    expect(failure?.detail).toBe(
      `the old key could not be put back: vault ${new URL(vault.address).host} secret/${path}: it was written there, and the delivery is another now`,
    )
    expect(more).toEqual([])
  })

  test('one that was written before places were kept is taken back where the delivery is the same', async () => {
    const rotation = await written()
    await office.house.db.query('update claims set places = null where key_id = $1', [rotation.newKeyId])
    await rolledBack(rotation)
    expect((await rotation.place.store.read())?.value).toEqual(holding(rotation))
  })

  test('people hear of it, once, where the store has no key that is accepted', async () => {
    const rotation = await written()
    const { place } = rotation
    const { value: { previous: _, ...alone } = expect.fail('nothing is stored'), version } = ((await place.store.read()) ??
      {}) as {
      value?: StoredCredential
      version?: string
    }
    await place.store.replace(alone, version)
    await rolledBack(rotation)
    const failures = await failuresOf(rotation)
    expect(failures.map(({ detail }) => detail)).toEqual([expect.stringContaining('it has no key that is accepted')])
  })
})
