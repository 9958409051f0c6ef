import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Forwarder, forwardKafka } from '../support/forwarder.ts'
import { eventually, type House, type StartedRotation, type TestCredential } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 5 * 60_000, hookTimeout: 5 * 60_000 })
const POLICY = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 2_000 } as const

let house: House
let upstream: Awaited<ReturnType<typeof startUpstream>>
let proxy: Forwarder
let steady: GatewayProcess[]
let last: GatewayProcess | undefined
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0 })
  upstream = await startUpstream()
  proxy = await forwardKafka()
  steady = await Promise.all([start('gw-1'), start('gw-2')])
})
afterAll(async () => {
  await last?.kill()
  await Promise.all(steady.map((gateway) => gateway.stop()))
  proxy.close()
  upstream.server.close()
  await house.close()
})

const start = (gatewayId: string, env: Record<string, string> = {}): Promise<GatewayProcess> =>
  startGatewayProcess(house, gatewayId, { KEYTURN_GATEWAY_UPSTREAM: upstream.url, ...env })

/** The gateway that things befall, behind a proxy of its own. */
async function third(): Promise<GatewayProcess> {
  onTestFinished(() => {
    last?.child.kill('SIGCONT')
    proxy.restore()
  })
  if (last !== undefined && last.child.exitCode === null && last.child.signalCode === null) return last
  last = await start('gw-3', {
    KEYTURN_KAFKA_BROKERS: proxy.address,
    KEYTURN_GATEWAY_STALENESS: '3s',
    KEYTURN_GATEWAY_FAIL_CLOSED: 'trade:*',
  })
  return last
}

const ALL = ['gw-1', 'gw-2', 'gw-3']

/** A rotation in which both keys are accepted, and the client holds both. */
async function overlapping(policy: Parameters<House['rotate']>[1] = POLICY) {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, policy)
  await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
  return { ...credential, ...rotation, newToken: await house.claimNewKey(rotation.rotationId) }
}

/** The rotation waits for the third gateway, and says so. */
async function heldForThird(rotation: StartedRotation, event: string): Promise<void> {
  const held = await house.reached(rotation.rotationId, 'held', PATIENCE_MS)
  expect([held.stage, held.heldFor, held.unconfirmed]).toEqual(['held', 'receipt', ['gw-3']])
  expect(held.timeline.at(-1)?.reason).toContain('gw-3')
  const receipt = held.receipts.find((each) => each.event === event)
  expect(receipt?.unconfirmed).toEqual(['gw-3'])
  expect(receipt?.gateways.map((each) => each.gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
}

/** @returns who has confirmed, once the rotation is completed */
async function completed(rotation: StartedRotation & TestCredential, event: string): Promise<string[]> {
  const ended = await house.reached(rotation.rotationId, 'completed', PATIENCE_MS)
  const receipt = ended.receipts.find((each) => each.event === event && each.keyId === rotation.keyId)
  expect(receipt?.unconfirmed).toEqual([])
  expect(await Promise.all(steady.map((gateway) => gateway.call(rotation.token)))).toEqual([401, 401])
  return (receipt?.gateways ?? []).map(({ gatewayId }) => gatewayId).sort()
}

describe('a gateway that falls silent', () => {
  test.each(['stopped', 'cut off'] as const)(
    'G3: %s: named while the rotation is held; confirmed when it is back, and the rotation goes on by itself',
    async (how) => {
      const gateway = await third()
      const rotation = await overlapping()
      if (how === 'stopped') gateway.child.kill('SIGSTOP')
      else proxy.cut()
      await house.order(rotation, 'deactivateNow')
      await heldForThird(rotation, 'keyturn.key.deactivated')
      // This is why nothing is reported done: cut off from Kafka, it serves the old key on.
      if (how === 'cut off') expect(await gateway.call(rotation.token)).toBe(200)
      if (how === 'stopped') gateway.child.kill('SIGCONT')
      else proxy.restore()
      expect(await completed(rotation, 'keyturn.key.deactivated')).toEqual(ALL)
      expect([await gateway.call(rotation.token), await gateway.call(rotation.newToken)]).toEqual([401, 200])
    },
  )

  test('G3: an emergency, too, is reported done only when the last gateway has applied it', async () => {
    const gateway = await third()
    const credential = await house.credential()
    gateway.child.kill('SIGSTOP')
    const rotation = { ...credential, ...(await house.rotate(credential.credentialId, POLICY, 'emergency')) }
    await heldForThird(rotation, 'keyturn.key.compromised')
    gateway.child.kill('SIGCONT')
    expect(await completed(rotation, 'keyturn.key.compromised')).toEqual(ALL)
    expect(await gateway.call(credential.token)).toBe(401)
  })

  test('G3: killed: unconfirmed by name until an operator declares it gone', async () => {
    const gateway = await third()
    const rotation = await overlapping()
    await gateway.kill()
    await house.order(rotation, 'deactivateNow')
    await heldForThird(rotation, 'keyturn.key.deactivated')
    expect(await house.propagation.declareGone('gw-3')).toBe(true)
    expect(await completed(rotation, 'keyturn.key.deactivated')).toEqual(['gw-1', 'gw-2'])
  })

  test('G3: declared gone though it lives: back on the list when it says something again, and it has applied what it missed', async () => {
    const gateway = await third()
    const rotation = await overlapping()
    gateway.child.kill('SIGSTOP')
    await house.order(rotation, 'deactivateNow')
    await heldForThird(rotation, 'keyturn.key.deactivated')
    await house.propagation.declareGone('gw-3')
    await completed(rotation, 'keyturn.key.deactivated')
    const listed = async () => (await house.propagation.gateways()).map(({ gatewayId }) => gatewayId)
    expect(await listed()).not.toContain('gw-3')
    gateway.child.kill('SIGCONT')
    await eventually(async () => (await listed()).includes('gw-3'), 'the gateway is on the list again', PATIENCE_MS)
    const next = await overlapping()
    expect(await gateway.call(rotation.token)).toBe(401)
    await house.order(next, 'deactivateNow')
    expect(await completed(next, 'keyturn.key.deactivated')).toEqual(ALL)
  })

  test('G3: killed and started again while it is waited for: confirmed by what the new process has applied', async () => {
    const gateway = await third()
    const rotation = await overlapping()
    await gateway.kill()
    await house.order(rotation, 'deactivateNow')
    await heldForThird(rotation, 'keyturn.key.deactivated')
    const restartedAt = Date.now()
    const again = await third()
    expect(await completed(rotation, 'keyturn.key.deactivated')).toEqual(ALL)
    const { receipts } = await house.rotation(rotation.rotationId)
    const lines = receipts.find(({ event }) => event === 'keyturn.key.deactivated')?.gateways ?? []
    const line = lines.find(({ gatewayId }) => gatewayId === 'gw-3')
    expect(Date.parse(line?.appliedAt ?? '')).toBeGreaterThan(restartedAt)
    expect(await again.call(rotation.token)).toBe(401)
  })
})

test('G3: Kafka away for longer than the staleness bound: serves on loudly, refuses what is failClosed, and loses no usage', async () => {
  const gateway = await third()
  const [prices, trade] = [await house.credential(['read:prices']), await house.credential(['trade:write'])]
  const calls = new Map([prices, trade].map(({ keyId }) => [keyId, 0]))
  const call = async ({ token, keyId }: TestCredential): Promise<Response> => {
    const answer = await fetch(gateway.url, { headers: { authorization: `Bearer ${token}` } })
    await answer.text()
    calls.set(keyId, (calls.get(keyId) ?? 0) + 1)
    return answer
  }
  await eventually(async () => (await call(trade)).status === 200, 'it is fresh', PATIENCE_MS)
  proxy.cut()
  const refused = await eventually(
    async () => {
      const answer = await call(trade)
      return answer.status === 200 ? undefined : answer
    },
    'the request that may trade is refused',
    PATIENCE_MS,
  )
  expect(refused.status).toBe(503)
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  for (let i = 0; i < 20; i++) expect((await call(prices)).status).toBe(200)
  const ready = await fetch(`${gateway.url}/readyz`)
  expect([ready.status, await ready.json()]).toMatchObject([200, { ready: true, freshness: 'stale' }])
  expect(await (await fetch(`${gateway.url}/metrics`)).text()).toMatch(/^keyturn_gateway_stale 1$/m)
  await eventually(() => gateway.output().includes('STALE'), 'it says so', PATIENCE_MS)

  proxy.restore()
  await eventually(async () => (await call(trade)).status === 200, 'it is fresh again', PATIENCE_MS)
  const counted = async ({ keyId }: TestCredential) => {
    const [row] = await house.db.query<{ accepted: number; undecided: number }>(
      'select accepted, undecided from key_usage where key_id = $1',
      [keyId],
    )
    return row ?? { accepted: 0, undecided: 0 }
  }
  await eventually(
    async () => (await counted(prices)).accepted === calls.get(prices.keyId),
    'every request of the outage is counted',
    PATIENCE_MS,
  )
  await eventually(
    async () => {
      const { accepted, undecided } = await counted(trade)
      return undecided > 0 && accepted + undecided === calls.get(trade.keyId)
    },
    'every refusal of the outage, too',
    PATIENCE_MS,
  )
})
