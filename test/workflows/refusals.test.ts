/** Refusals that turn a rotation back on its own, and that its way back has no gap either. */
import type { KeyId, RotationPolicy, RotationStage } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { atOnce } from '../support/at-once.ts'
import { letExpire } from '../support/expiry.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'
import { type PlaceName, type Standing, standAt } from '../support/standings.ts'
import { alertsOf } from '../support/topics.ts'

const SECOND = 1_000
const MINUTE = 60 * SECOND
const WITHIN_MS = 60_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 3 })
})
afterAll(() => house.close())

const stageIs = async ({ rotationId }: Standing, stage: RotationStage): Promise<boolean> =>
  (await house.rotation(rotationId)).stage === stage

/** Until the collector has counted so many refusals, and has looked at them once more after that. */
async function counted(keyId: KeyId, refusals: number): Promise<void> {
  await eventually(
    async () => {
      const [row] = await house.db.query<{ n: number }>(
        'select refused + refused_upstream as n from key_usage where key_id = $1',
        [keyId],
      )
      return (row?.n ?? 0) >= refusals
    },
    `${refusals} refusals`,
    WITHIN_MS,
  )
  await house.collector?.sweep()
}

/** How a rotation ended that nobody has ordered to end. */
async function goneBack(rotation: Standing, reason: string): Promise<void> {
  expect(await rotation.handle.result()).toBe('rolled-back')
  expect(house.verdicts(rotation.token).every((accepted) => accepted)).toBe(true)
  const { timeline } = await house.rotation(rotation.rotationId)
  expect(timeline.at(-1)).toMatchObject({ stage: 'rolled-back', reason })
}

describe('the old key is still asked for after it was deactivated', () => {
  const REASON = 'the old key is still asked for after it was deactivated'

  /** At each of the three gateways. */
  const ask = (rotation: Standing): void => {
    for (const gateway of house.gateways)
      gateway.authenticate({ headers: { authorization: `Bearer ${rotation.token}` }, address: '192.0.2.9' })
  }

  test('as often as the policy bears: the rotation stays where it is; once more often: it rolls back', async () => {
    const rotation = await standAt(house, 'deactivating', { oldKeyRefusals: 3 })
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the old key refused')
    ask(rotation)
    await counted(rotation.keyId, 3)
    expect(await stageIs(rotation, 'deactivating')).toBe(true)
    expect((await rotation.handle.query('progress')) as unknown).toMatchObject({ stage: 'deactivating' })
    ask(rotation)
    await goneBack(rotation, REASON)
  })

  test('before it was deactivated: does not count', async () => {
    const rotation = await standAt(house, 'monitoring', { oldKeyRefusals: 2 })
    const behind = await house.addGateway('gw-behind', { behindMs: 10 * MINUTE })
    // Its clock is so far behind that both keys lie in its future.
    for (let i = 0; i < 5; i++)
      behind.authenticate({ headers: { authorization: `Bearer ${rotation.token}` }, address: '192.0.2.9' })
    await behind.flushUsage()
    await counted(rotation.keyId, 5)
    await house.gateways.pop()?.stop()
    await house.order(rotation, 'deactivateNow')
    await eventually(() => stageIs(rotation, 'deactivating'), 'deactivating', WITHIN_MS)
    await house.collector?.sweep()
    ask(rotation)
    await goneBack(rotation, REASON)
  })

  test('while a gateway has not confirmed yet: it rolls back all the same', async () => {
    const rotation = await standAt(house, 'held for the last receipt', { oldKeyRefusals: 2 })
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the old key refused')
    ask(rotation)
    await eventually(() => house.verdicts(rotation.token).every((accepted) => accepted), 'the old key accepted again', WITHIN_MS)
    await rotation.release()
    await goneBack(rotation, REASON)
  })
})

describe('the new key is refused', () => {
  const REASON = 'the new key is refused'

  test('by a gateway, more often than the policy bears', async () => {
    const behind = await house.addGateway('gw-behind', { behindMs: 10 * MINUTE })
    const rotation = await standAt(house, 'monitoring', { newKeyRefusals: 2 })
    const token = await house.claimNewKey(rotation.rotationId)
    const { newKeyId = '' as KeyId } = await house.rotation(rotation.rotationId)
    const ask = async (): Promise<void> => {
      const { accepted } = atOnce(behind.authenticate({ headers: { authorization: `Bearer ${token}` }, address: '192.0.2.9' }))
      expect(accepted).toBe(false)
      await behind.flushUsage()
    }
    for (let i = 0; i < 2; i++) await ask()
    await counted(newKeyId, 2)
    expect(await stageIs(rotation, 'monitoring')).toBe(true)
    await ask()
    await house.gateways.pop()?.stop()
    await goneBack(rotation, REASON)
  })

  test.each(['monitoring', 'held by a person', 'held at the deadline'] as const)(
    'by the API behind the gateway, more often than the policy bears: %s',
    async (place) => {
      const refused = new Set<string>()
      const upstream = await startUpstream(refused)
      const gateway = await startGatewayProcess(house, 'gw-process', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
      try {
        const rotation = await standAt(house, place, { newKeyRefusals: 2 })
        const token = await house.claimNewKey(rotation.rotationId)
        const { newKeyId = '' as KeyId, stage } = await house.rotation(rotation.rotationId)
        refused.add(newKeyId)
        for (let i = 0; i < 2; i++) expect(await gateway.call(token)).toBe(403)
        await counted(newKeyId, 2)
        expect(await stageIs(rotation, stage)).toBe(true)
        expect(await gateway.call(token)).toBe(403)
        await goneBack(rotation, REASON)
      } finally {
        await gateway.stop()
        upstream.server.close()
      }
    },
  )
})

describe('G1: an old key that expires', () => {
  const alerted = (rotation: Standing, text: string) =>
    eventually(
      async () =>
        (await alertsOf(house.config.topics, rotation.credentialId)).some(
          ({ kind, detail }) => kind === 'key-expires' && detail.includes(text),
        ),
      `an alert: ${text}`,
      WITHIN_MS,
    )
  const past = (at: Date) => eventually(() => Date.now() > at.getTime(), 'the expiry')
  const standing = async (place: PlaceName, livesMs: number, policy: Partial<RotationPolicy> = {}) => {
    let expiresAt = new Date(0)
    const rotation = await standAt(house, place, policy, ({ keyId }) => {
      expiresAt = new Date(Date.now() + livesMs)
      return letExpire(house.db, keyId, expiresAt)
    })
    return { ...rotation, expiresAt, newToken: await house.claimNewKey(rotation.rotationId) }
  }
  const verdicts = ({ token, newToken }: { token: string; newToken: string }): boolean[][] => [
    house.verdicts(token),
    house.verdicts(newToken),
  ]
  const NEW_ALONE = [
    [false, false, false],
    [true, true, true],
  ]

  test('does not come back when it has: not for refusals, not for an order, not for a cancellation', async () => {
    const rotation = await standing('deactivating', SECOND)
    await past(rotation.expiresAt)
    await rotation.handle.signal('evidence', 'old-key-refused', rotation.rotationId)
    await alerted(rotation, `the old key is still asked for after it was deactivated; but the old key expired at`)
    await rotation.handle.signal('evidence', 'new-key-refused', rotation.rotationId)
    await alerted(rotation, 'the new key is refused; but the old key expired at')
    await expect(house.order(rotation, 'rollBack')).rejects.toMatchObject({
      code: 'wrong-stage',
      message: expect.stringMatching(/^the old key expired at 20.*: no gateway would accept it again/),
    })
    await rotation.handle.cancel()
    await alerted(rotation, 'the workflow was cancelled; but the old key expired at')
    expect(await stageIs(rotation, 'deactivating')).toBe(true)
    expect(verdicts(rotation)).toEqual(NEW_ALONE)
  })

  test('within a day: comes back on an order, which says until when, and not for refusals of itself', async () => {
    const rotation = await standing('deactivating', 12 * 60 * MINUTE)
    await rotation.handle.signal('evidence', 'old-key-refused', rotation.rotationId)
    await alerted(rotation, `but the old key expires at ${rotation.expiresAt.toISOString()}`)
    expect(await stageIs(rotation, 'deactivating')).toBe(true)
    await house.order(rotation, 'rollBack')
    await goneBack(rotation, `rollBack by test; the old key expires at ${rotation.expiresAt.toISOString()}`)
  })

  test('while a roll-back to it waits for a gateway: the rotation goes forward, and the new key stays', async () => {
    const rotation = await standing('monitoring', 5 * SECOND, { receiptWaitMs: SECOND / 2, quietPeriodMs: 0 })
    await house.announceSilentGateway('gw-silent')
    try {
      await house.order(rotation, 'rollBack')
      await house.reached(rotation.rotationId, 'rolling-back', WITHIN_MS)
      await past(rotation.expiresAt)
    } finally {
      await house.propagation.declareGone('gw-silent')
    }
    await alerted(rotation, 'rollBack by test; but the old key expired at')
    expect(verdicts(rotation)).toEqual(NEW_ALONE)
    await house.order(rotation, 'deactivateNow')
    await eventually(() => stageIs(rotation, 'deactivating'), 'deactivating', WITHIN_MS)
    expect(verdicts(rotation)).toEqual(NEW_ALONE)
    const { timeline } = await house.rotation(rotation.rotationId)
    expect(timeline.map(({ stage }) => stage).slice(-5)).toEqual([
      'rolling-back',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
    ])
  })
})

describe('G1: the way back has no gap', () => {
  let slow: GatewayProcess
  let upstream: Awaited<ReturnType<typeof startUpstream>>
  beforeAll(async () => {
    upstream = await startUpstream()
    slow = await startGatewayProcess(house, 'gw-slow', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
  })
  afterAll(async () => {
    slow.child.kill('SIGCONT')
    await slow.stop()
    upstream.server.close()
  })

  test('G1: the new key is refused nowhere before the old one is accepted everywhere again', async () => {
    const rotation = await standAt(house, 'deactivating', { receiptWaitMs: SECOND })
    const newToken = await house.claimNewKey(rotation.rotationId)
    await eventually(async () => (await slow.call(rotation.token)) === 401, 'the old key refused by the slow gateway')
    const gaps: string[] = []
    const watched = watch(rotation.token, newToken, gaps)
    slow.child.kill('SIGSTOP')
    try {
      await house.order(rotation, 'rollBack')
      await eventually(() => house.verdicts(rotation.token).every((accepted) => accepted), 'the old key at three gateways')
      // The receipt says so, once it has been waited for in vain.
      await eventually(
        async () =>
          (await house.rotation(rotation.rotationId)).receipts.some(({ unconfirmed }) => unconfirmed.includes('gw-slow')),
        'a receipt without the slow one',
        WITHIN_MS,
      )
      expect(house.verdicts(newToken)).toEqual([true, true, true])
      expect(await stageIs(rotation, 'rolling-back')).toBe(true)
    } finally {
      slow.child.kill('SIGCONT')
    }
    expect(await rotation.handle.result()).toBe('rolled-back')
    await watched()
    expect(gaps).toEqual([])
    expect([await slow.call(rotation.token), await slow.call(newToken)]).toEqual([200, 401])
    expect(house.verdicts(newToken)).toEqual([false, false, false])
  })

  test('G1: the same at every gateway at every moment, rotation after rotation', async () => {
    for (const place of ['introducing', 'notifying', 'monitoring', 'deactivating'] as const) {
      const rotation = await standAt(house, place)
      const gaps: string[] = []
      const newToken = place === 'introducing' ? undefined : await house.claimNewKey(rotation.rotationId)
      const watched = watch(rotation.token, newToken, gaps)
      await house.order(rotation, 'rollBack')
      await rotation.release()
      expect(await rotation.handle.result(), place).toBe('rolled-back')
      await watched()
      expect(gaps, place).toEqual([])
    }
  })

  /** Looks at all gateways over and over: where one refuses the new key, all have to accept the old one. */
  function watch(oldToken: string, newToken: string | undefined, gaps: string[]): () => Promise<void> {
    let watching = true
    const loop = (async () => {
      while (watching) {
        const fresh = newToken === undefined ? [] : house.verdicts(newToken)
        const old = house.verdicts(oldToken)
        if (fresh.includes(false) && old.includes(false)) gaps.push(`new ${fresh.join()} old ${old.join()}`)
        if (old.some((accepted, i) => !accepted && fresh[i] !== true))
          gaps.push(`neither key: new ${fresh.join()} old ${old.join()}`)
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
    })()
    return async () => {
      watching = false
      await loop
    }
  }
})
