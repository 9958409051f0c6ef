import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'
import { runsOf } from '../support/runs.ts'

/** Far more than it takes: a busy machine is no gap. */
const END_WITHIN_MS = 90_000
const RUNS = runsOf({ few: 8, many: 100 })

let house: House
let slow: GatewayProcess
let upstream: Awaited<ReturnType<typeof startUpstream>>
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
  upstream = await startUpstream()
  slow = await startGatewayProcess(house, 'gw-slow', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
})
afterAll(async () => {
  slow.child.kill('SIGCONT')
  await slow.stop()
  upstream.server.close()
  await house.close()
})

type Action = {
  readonly afterMs: number
  readonly what: 'claim' | 'use' | 'hold' | 'resume' | 'rollBack' | 'restart' | 'join' | 'stall'
}

const action: fc.Arbitrary<Action> = fc.record({
  afterMs: fc.integer({ min: 0, max: 250 }),
  what: fc.constantFrom('claim', 'claim', 'use', 'use', 'hold', 'resume', 'rollBack', 'restart', 'join', 'stall'),
})

test(
  `G1: whatever happens when, every gateway that serves accepts a key that the client holds (${RUNS.text})`,
  async () => {
    await fc.assert(fc.asyncProperty(fc.array(action, { minLength: 3, maxLength: 8 }), runThrough), {
      numRuns: RUNS.count,
      seed: RUNS.seed,
      endOnFailure: true,
    })
  },
  30 * 60_000,
)

/** One rotation, with things happening on the way, watched by a client that never stops calling. */
async function runThrough(actions: readonly Action[]): Promise<void> {
  const credential = await house.credential()
  const held = [credential.token]
  const gaps: string[] = []
  const watching = watch(held, gaps)

  const rotation = await house.rotate(credential.credentialId, {
    overlapMs: 600_000,
    quietPeriodMs: 50,
    regretWindowMs: 50,
    receiptWaitMs: 30_000,
  })
  const tolerated = (work: Promise<unknown>): Promise<unknown> => work.catch(() => undefined)
  const claim = async (): Promise<void> => {
    if (held.length > 1) return
    const notified = (await house.rotation(rotation.rotationId)).timeline.some(({ stage }) => stage === 'notifying')
    if (notified) held.push(await house.claimNewKey(rotation.rotationId))
  }
  const others: Promise<unknown>[] = []
  for (const { afterMs, what } of actions) {
    await new Promise((resolve) => setTimeout(resolve, afterMs))
    if (what === 'claim') await tolerated(claim())
    else if (what === 'use') use(held.at(-1) ?? credential.token)
    else if (what === 'restart') others.push(restart(0))
    else if (what === 'join') others.push(house.addGateway(`gw-late-${Math.random().toString(36).slice(2)}`))
    else if (what === 'stall') {
      slow.child.kill('SIGSTOP')
      others.push(new Promise((resolve) => setTimeout(resolve, 400)).then(() => slow.child.kill('SIGCONT')))
    } else others.push(tolerated(house.order(rotation, what)))
  }
  await Promise.all(others)
  // Whatever has been done to it: from here the client does its part, and the rotation ends.
  const stage = await eventually(
    async () => {
      const now = await house.rotation(rotation.rotationId)
      if (now.endedAt !== undefined) return now.stage
      if (now.stage === 'held') await tolerated(house.order(rotation, 'resume'))
      await tolerated(claim())
      const newest = held.at(-1)
      if (held.length > 1 && newest !== undefined) use(newest)
      return undefined
    },
    `the end of ${rotation.rotationId}`,
    END_WITHIN_MS,
  )
  await watching.stop()

  expect(gaps).toEqual([])
  expect(['completed', 'rolled-back']).toContain(stage)
  const states = (await house.keys(credential.credentialId)).map(({ standing, state }) => `${standing} ${state}`)
  expect(states.filter((state) => state === 'current active')).toHaveLength(1)
  expect(states.filter((state) => state.startsWith('successor'))).toHaveLength(0)
  for (const extra of house.gateways.splice(2)) await extra.stop()
}

const use = (token: string): void => {
  for (const gateway of house.gateways)
    if (gateway.ready) gateway.authenticate({ headers: { authorization: `Bearer ${token}` }, address: '192.0.2.7' })
}

/** Takes a gateway out of service and puts a new one of the same name in its place. */
async function restart(index: number): Promise<void> {
  const [old] = house.gateways.splice(index, 1)
  const id = old?.status().gatewayId ?? 'gw-1'
  await old?.stop()
  await house.addGateway(id)
}

/** Calls every gateway over and over with the newest key it holds, and with the others where that is refused. */
function watch(held: readonly string[], gaps: string[]): { stop(): Promise<void> } {
  let watching = true
  const through = async (accepts: (token: string) => boolean | Promise<boolean>): Promise<boolean> => {
    for (const token of [...held].reverse()) if (await accepts(token)) return true
    return false
  }
  const inProcess = async (): Promise<void> => {
    while (watching) {
      for (const gateway of house.gateways) {
        if (!gateway.ready) continue
        if (!(await through((token) => gateway.verify(token).outcome === 'accepted')) && gateway.ready)
          gaps.push(`${gateway.status().gatewayId} refused every key`)
      }
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }
  const overHttp = async (): Promise<void> => {
    while (watching) {
      if (!(await through(async (token) => (await slow.call(token)) === 200))) gaps.push('gw-slow refused every key')
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
  const loops = Promise.all([inProcess(), overHttp()])
  return {
    async stop() {
      watching = false
      await loops
    },
  }
}
