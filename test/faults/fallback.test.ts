import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { FALLBACK_ISSUER, FALLBACK_TYPE, randomBase62 } from '@keyturn/contract'
import type { Gateway } from '@keyturn/gateway'
import { base64url, decodeJwt, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { getRollover, type Rollover } from '../../registry/rollover-records.ts'
import type { Rotation } from '../../registry/rotations.ts'
import { emptyDirectory, runKeyturn } from '../cli/office.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { atOnce } from '../support/at-once.ts'
import { fallback, fallbackAt, type Meddler, signingKey, startMeddler } from '../support/fallback.ts'
import { makeFleet } from '../support/fleet.ts'
import { type Forwarder, forwardKafka } from '../support/forwarder.ts'
import { eventually, type House, type TestCredential } from '../support/house.ts'
import { linesOf, registryLines } from '../support/key-lines.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf } from '../support/processes.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 5 * 60_000, hookTimeout: 5 * 60_000 })
/** The API is asked after a third of it, and every sixth from then on. No multiple of three: what comes of it has to be whole where it must. */
const STALENESS_MS = 10_000
const ALL = ['gw-1', 'gw-2', 'gw-3']
const POLICY = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 60_000 } as const

const accepts = (gateway: Gateway, { token }: TestCredential): boolean => gateway.verify(token).outcome === 'accepted'

describe('Kafka is away for everyone', () => {
  let house: House
  let api: ServedApi
  let kafka: Forwarder
  beforeAll(async () => {
    kafka = await forwardKafka()
    house = await openHouse({ time: 'real', gateways: 0, collector: false, kafka: kafka.address })
    api = await serveApi(house, { config: { fallback } })
    for (const name of ALL) await house.addGateway(name, { stalenessMs: STALENESS_MS, fallback: fallbackAt(api.url) })
  })
  afterAll(async () => {
    kafka.restore()
    await api.stop()
    await house.close()
    kafka.close()
  })

  test('G3: an emergency reaches every gateway within the staleness bound, and is done when Kafka is back', async () => {
    const [killed, other] = [await house.credential(), await house.credential()]
    kafka.cut()
    const { body } = await api.client.post<{ rotationId: string }>(`/v1/credentials/${killed.credentialId}/rotations`, {
      trigger: 'emergency',
      reason: 'leaked',
    })
    await eventually(() => !house.verdicts(killed.token).includes(true), 'every gateway refuses the key', PATIENCE_MS)
    expect(house.gateways.map((gateway) => gateway.status().freshness)).toEqual(['fresh', 'fresh', 'fresh'])
    expect(house.verdicts(other.token)).toEqual([true, true, true])

    const read = async () => (await api.client.get<Rotation>(`/v1/rotations/${body.rotationId}`)).body
    const receiptOf = ({ receipts }: Rotation) => receipts.find(({ event }) => event === 'keyturn.key.compromised')
    const known = await eventually(
      async () => {
        const rotation = await read()
        return rotation.stage === 'introducing' && receiptOf(rotation)?.unconfirmed.length === 0 ? rotation : undefined
      },
      'the receipt, and the next step',
      PATIENCE_MS,
    )
    expect(
      receiptOf(known)
        ?.gateways.map(({ gatewayId }) => gatewayId)
        .sort(),
    ).toEqual(ALL)

    kafka.restore()
    await eventually(async () => (await read()).stage === 'completed', 'the rotation is completed', PATIENCE_MS)
    expect(receiptOf(await read())?.unconfirmed).toEqual([])
    expect(house.verdicts(killed.token)).toEqual([false, false, false])
    const expected = JSON.stringify(await registryLines(house.db))
    for (const gateway of house.gateways) {
      await eventually(() => JSON.stringify(linesOf(gateway.cache)) === expected, 'the cache equals the registry', PATIENCE_MS)
      expect(gateway.status()).toMatchObject({ freshness: 'fresh', lag: 0 })
    }
  })

  test('G3: --direct without Kafka and Temporal kills, says who publishes; gateways refuse by the fallback, and it ends when Kafka is back', async () => {
    const [killed, other] = [await house.credential(), await house.credential()]
    kafka.cut()
    const directory = emptyDirectory()
    const { code, stdout, stderr } = await runKeyturn(['emergency', killed.credentialId, '--direct', '--reason', 'leaked'], {
      env: { ...environmentOf(house), KEYTURN_TEMPORAL_ADDRESS: '127.0.0.1:9' },
      cwd: directory.path,
    })
    directory.remove()
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^error: Kafka at .* does not answer\n {2}Nothing is to be repeated\.\n$/),
    ])
    expect(stdout).toMatch(/^rol_\w{16} {2}1 key is dead in the registry\nNot published yet: a rotation worker does it/)
    expect((await house.keys(killed.credentialId)).map(({ state }) => state)).toEqual(['compromised'])
    await eventually(() => !house.verdicts(killed.token).includes(true), 'every gateway refuses the key', PATIENCE_MS)

    const rolloverId = /rol_\w{16}/.exec(stdout)?.[0] ?? ''
    let seen: Rollover | undefined
    const until = (what: string, met: (rollover: Rollover) => boolean) =>
      eventually(
        async () => {
          seen = await getRollover(house.db, rolloverId)
          return seen !== undefined && met(seen)
        },
        () => `${what}: ${JSON.stringify(seen)}`,
        PATIENCE_MS,
      )
    await until('who has said so', ({ receipts }) => receipts[0]?.gateways.length === ALL.length)
    // Nothing is done before the end of the key is where a gateway that starts looks for it.
    expect(seen).toMatchObject({ stage: 'killing', counts: { confirmed: 0 }, unconfirmed: [] })
    expect(house.verdicts(other.token)).toEqual([true, true, true])
    kafka.restore()
    await until('the end', ({ endedAt }) => endedAt !== undefined)
    expect(seen).toMatchObject({ stage: 'completed', counts: { confirmed: 1, successors: 1 }, unconfirmed: [] })
  })
})

describe('one gateway is cut off from Kafka', () => {
  let house: House
  let api: ServedApi
  let kafka: Forwarder
  let meddler: Meddler
  let cutOff: Gateway
  beforeAll(async () => {
    house = await openHouse({ time: 'real', gateways: 1, collector: false })
    api = await serveApi(house, { config: { fallback } })
    kafka = await forwardKafka()
    meddler = await startMeddler(api.url)
    cutOff = await house.addGateway('gw-2', {
      stalenessMs: 3_000,
      kafka: kafka.address,
      fallback: fallbackAt(meddler.url),
      failClosed: ['trade:*'],
    })
  })
  afterAll(async () => {
    kafka.restore()
    await house.close()
    await api.stop()
    kafka.close()
    meddler.close()
  })

  const count = async (what: string): Promise<number> => {
    const text = await cutOff.metrics.getSingleMetricAsString(`keyturn_gateway_fallback_${what}_total`)
    return Number(text.split(' ').at(-1))
  }
  const until = (holds: () => boolean | Promise<boolean>, what: string) => eventually(holds, what, PATIENCE_MS)
  async function cut(): Promise<void> {
    await until(() => cutOff.status().freshness === 'fresh', 'it is fresh')
    kafka.cut()
    onTestFinished(() => {
      meddler.question = () => undefined
      meddler.answer = (answer) => answer
      kafka.restore()
    })
  }

  test('G3: what it says over the fallback confirms a deactivation; a key that came since is left to Kafka', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, POLICY)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    await cut()
    const taken = await count('keys')
    await house.order(rotation, 'deactivateNow')
    const { receipts } = await house.reached(rotation.rotationId, 'completed', PATIENCE_MS)
    expect((await count('keys')) - taken).toBe(1)
    const receipt = receipts.find(({ event }) => event === 'keyturn.key.deactivated')
    expect(receipt?.gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
    expect(accepts(cutOff, credential)).toBe(false)
    expect(cutOff.status().freshness).toBe('stale')

    const before = await count('answers')
    const next = await house.rotate(credential.credentialId, POLICY)
    await until(async () => (await count('answers')) > before + 1, 'it has asked again')
    const { newKeyId, receipts: open } = await house.rotation(next.rotationId)
    expect(newKeyId === undefined ? 'none' : cutOff.cache.get(newKeyId)).toBeUndefined()
    expect(open.every(({ unconfirmed }) => unconfirmed.includes('gw-2'))).toBe(true)
    kafka.restore()
    await house.reached(next.rotationId, 'monitoring', PATIENCE_MS)
  })

  test('G3: what it says over the fallback confirms the end of a fleet', async () => {
    const scope = `fleet-${randomBase62(12).toLowerCase()}`
    const members = await makeFleet(house.db, 20, [scope])
    const published = await house.propagation.publishMany(members.map(({ keyId }) => keyId))
    expect((await house.propagation.waitForAll(published, { timeoutMs: PATIENCE_MS })).unconfirmed).toEqual([])
    await cut()
    const { body } = await api.client.post<{ rolloverId: string }>('/v1/rollovers', { selector: { scope }, reason: 'breach' })
    await until(async () => (await getRollover(house.db, body.rolloverId))?.counts.confirmed === 20, 'the receipt')
    expect(cutOff.status().freshness).toBe('stale')
    expect(members.filter(({ token }) => house.verdicts(token).includes(true))).toEqual([])
    const { receipts } = (await getRollover(house.db, body.rolloverId)) ?? {}
    expect(receipts?.[0]?.gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
  })

  /** Signs like the API, with whatever is to be different. */
  const sign = (claims: Record<string, unknown>, key: KeyObject, typ = FALLBACK_TYPE): Promise<string> =>
    new SignJWT(claims).setProtectedHeader({ alg: 'EdDSA', typ }).sign(key)
  const edited = (answer: string, edit: (claims: Record<string, unknown>) => object): string => {
    const [head, , signature] = answer.split('.')
    return `${head}.${base64url.encode(JSON.stringify(edit(decodeJwt(answer))))}.${signature}`
  }
  const unsigned = (answer: string): string =>
    `${base64url.encode(JSON.stringify({ alg: 'none', typ: FALLBACK_TYPE }))}.${answer.split('.')[1]}.`
  let kept: string | undefined
  const WRONGS: Record<string, Partial<Pick<Meddler, 'question' | 'answer'>>> = {
    'signed by somebody else': {
      answer: (answer) => sign(decodeJwt(answer), generateKeyPairSync('ed25519').privateKey),
    },
    altered: { answer: (answer) => edited(answer, (claims) => ({ ...claims, next: '0.0000000000000000' })) },
    'not signed': { answer: unsigned },
    'no signature at all': { answer: () => 'nothing' },
    'the answer to an earlier question': {
      answer: (answer) => {
        kept ??= answer
        return kept === answer ? 'nothing' : kept
      },
    },
    'meant for another gateway': { question: (query) => query.set('gateway', 'gw-1') },
    'made an hour ago': {
      answer: (answer) => {
        const hourAgo = Math.floor(Date.now() / 1000) - 3_600
        return sign({ ...decodeJwt(answer), iat: hourAgo, exp: hourAgo + 60 }, signingKey)
      },
    },
    'signed for another purpose': { answer: (answer) => sign(decodeJwt(answer), signingKey, 'JWT') },
    'from another issuer': { answer: (answer) => sign({ ...decodeJwt(answer), iss: `not-${FALLBACK_ISSUER}` }, signingKey) },
    'bringing a key': {
      answer: (answer) => {
        const claims = decodeJwt<{ keys: { state: string }[] }>(answer)
        return sign({ ...claims, keys: claims.keys.map((key) => ({ ...key, state: 'active' })) }, signingKey)
      },
    },
  }

  test('refuses an answer that is forged, altered, replayed, late or for another, and goes on with what it knows', async () => {
    const credential = await house.credential()
    await cut()
    meddler.answer = () => 'nothing'
    await house.rotate(credential.credentialId, POLICY, 'emergency')
    await until(() => house.gateways[0] !== undefined && !accepts(house.gateways[0], credential), 'the other gateway knows')
    for (const [name, wrong] of Object.entries(WRONGS)) {
      meddler.question = wrong.question ?? (() => undefined)
      meddler.answer = wrong.answer ?? ((answer) => answer)
      const [refused, answers] = [await count('refused'), await count('answers')]
      // One may have been under way before.
      await until(async () => (await count('refused')) > refused + 1, `refused: ${name}`)
      expect([name, (await count('answers')) - answers, accepts(cutOff, credential)]).toEqual([name, 0, true])
    }
    meddler.question = () => undefined
    meddler.answer = (answer) => answer
    await until(() => !accepts(cutOff, credential), 'it believes the right answer')
  })

  test('G3: without the control plane, too, it serves on loudly (failStatic), and refuses what is failClosed', async () => {
    const [prices, trade] = [await house.credential(['read:prices']), await house.credential(['trade:write'])]
    await cut()
    meddler.question = (query) => query.delete('since')
    const failed = await count('failures')
    await until(async () => (await count('failures')) > failed, 'nobody answers')
    await until(() => cutOff.status().freshness === 'stale', 'it is stale')
    const call = ({ token }: TestCredential) =>
      atOnce(cutOff.authenticate({ headers: { authorization: `Bearer ${token}` }, address: '192.0.2.1' }))
    expect(call(prices).accepted).toBe(true)
    expect(call(trade)).toMatchObject({ accepted: false, problem: { code: 'gateway-undecided' } })
  })
})
