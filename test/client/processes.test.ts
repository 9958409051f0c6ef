/** Twenty processes of one client share a file, and are killed at any moment of a rotation: real gateways, the real API, and their audit log. */
import { watch } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { trigger } from '../api/support.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess } from '../support/processes.ts'
import { LONG, randomOf, runsOf } from '../support/runs.ts'
import { Crowd, type CrowdPlace, openCrowdPlace } from './crowd.ts'

const ROUNDS = runsOf({ few: 2, many: 50 })
const SIZE = 20
/** Of all together. */
const PER_SECOND = LONG ? 500 : 100
const KILLS_A_ROUND = { min: 4, more: 8 }
/** Each kill is the start of a process, which takes as long as hundreds of requests. */
const LONGEST_QUIET_MS = LONG ? 2_500 : 600
const PATIENCE_MS = 120_000
const ABANDONED_MS = 1_000

let house: House
let api: ServedApi
let place: CrowdPlace
let gateways: GatewayProcess[]
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0 })
  place = await openCrowdPlace()
  const started = ['gw-1', 'gw-2'].map((id) => startGatewayProcess(house, id, { KEYTURN_GATEWAY_UPSTREAM: place.upstream }))
  ;[api, ...gateways] = await Promise.all([serveApi(house), ...started])
})
afterAll(async () => {
  await Promise.all(gateways.map((gateway) => gateway.stop()))
  await place.close()
  await api.stop()
  await house.close()
})

const auditOf = async (keyId: string): Promise<string[]> => {
  const rows = await house.db.query<{ action: string }>(
    `select action from audit where action like 'claim.%' and detail ->> 'keyId' = $1 order by seq`,
    [keyId],
  )
  return rows.map(({ action }) => action)
}

test(`no request is lost, no key is lost, and each is claimed once, while processes are killed (${ROUNDS.text})`, {
  timeout: 120_000 + ROUNDS.count * 60_000,
}, async () => {
  const random = randomOf(ROUNDS.seed)
  const { credentialId, token } = await house.credential()
  const crowd = new Crowd(place, SIZE, {
    token,
    api: api.client.url,
    gateways: gateways.map(({ url }) => url),
    perSecond: PER_SECOND / SIZE,
    abandonedMs: ABANDONED_MS,
    echoes: true,
  })
  const begun = performance.now()
  let usable = 0
  let over = false
  /** Whatever moment it is: what the store holds is accepted. */
  const lookAtStore = async (): Promise<void> => {
    while (!over) {
      // What the store held before it is asked which keys are accepted: asking a gateway with the old key would be a use of it.
      const { current, previous } = crowd.stored ?? {}
      const active = (await house.keys(credentialId))
        .filter(({ state }) => state === 'active')
        .map(({ keyId }) => keyId as string)
      expect([current?.keyId, previous?.keyId].some((keyId) => keyId !== undefined && active.includes(keyId))).toBe(true)
      usable += 1
      await pause(50)
    }
  }
  try {
    await crowd.until(() => crowd.uses.size === SIZE)
    const looking = lookAtStore()
    for (let round = 1; round <= ROUNDS.count; round++) {
      const kills = KILLS_A_ROUND.min + Math.floor(random() * KILLS_A_ROUND.more)
      const killing = killSome(crowd, kills, random)
      const windows = { overlap: '10m', quietPeriod: '1s', regretWindow: '1s' }
      const { rotationId } = (await trigger(api.client, credentialId, windows)).body
      await Promise.race([looking, house.reached(rotationId, 'completed', PATIENCE_MS)]).catch((error: unknown) => {
        throw new Error(`${String(error)}; the crowd: ${crowd.report()}`)
      })
      await killing
      const { newKeyId = '' } = await house.rotation(rotationId)
      await crowd.until(() => crowd.using(newKeyId) === SIZE)
      expect((await auditOf(newKeyId)).filter((action) => action !== 'claim.repeated')).toEqual(['claim.used'])
      expect(crowd.stored).toMatchObject({ current: { keyId: newKeyId } })
      expect(crowd.failures).toEqual([])
    }
    over = true
    await looking
    expect(usable).toBeGreaterThan(ROUNDS.count)
  } finally {
    over = true
    await crowd.stop()
  }
  expect(crowd.failures).toEqual([])
  const perSecond = Math.round(crowd.requests / ((performance.now() - begun) / 1_000))
  process.stdout.write(
    `clients: ${ROUNDS.count} rotations, ${crowd.requests} requests (${perSecond} a second), none lost, seed ${ROUNDS.seed}\n`,
  )
})

/** Some right after the store has changed, which is when a claim is under way. */
async function killSome(crowd: Crowd, kills: number, random: () => number): Promise<void> {
  let changed = (): void => undefined
  const watcher = watch(dirname(crowd.store), (_, name) => {
    if (name === 'key.json') changed()
  })
  try {
    for (let i = 0; i < kills; i++) {
      const change = new Promise<void>((resolve) => {
        changed = resolve
      })
      await Promise.race([change, pause(random() * LONGEST_QUIET_MS)])
      await pause(random() * 30)
      const at = () => Math.floor(random() * SIZE)
      await Promise.all([...new Set([at(), at(), at()])].map((name) => crowd.kill(name)))
    }
  } finally {
    watcher.close()
  }
}
