/**
 * Records rotations as Temporal remembers them (protobuf), for test/workflows/replay.test.ts: one file for each place where a
 * rotation may stand, and one for each way on from there; and what becomes of its messages. What is recorded already stays: it stands for rotations that are running somewhere.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { KeyId, LeakId } from '@keyturn/contract'
import proto from '@temporalio/proto'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { serveApi } from '../support/api.ts'
import { placeIn, trustKeyturn } from '../support/clients-vault.ts'
import { type Hook, hook, webhook } from '../support/hook.ts'
import { eventually, type House, type StartedRotation } from '../support/house.ts'
import { obstruct } from '../support/obstacles.ts'
import { type Bao, findBao, startBao } from '../support/openbao.ts'
import { openHouse } from '../support/open-house.ts'
import { PLACES, type PlaceName, type Standing, standAt } from '../support/standings.ts'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const WITHIN_MS = 60_000
const ENDS_SOON = { regretWindowMs: 0 }

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1 })
})
afterAll(() => house.close())

const { History } = proto.temporal.api.history.v1
const fileOf = (name: string): string => `${HERE}${name.replaceAll(/[^a-z]+/g, '-')}.history`

/** Where it ran, and on which machine, is nobody's business. */
function forgetPlace(value: object): void {
  for (const [name, inside] of Object.entries(value)) {
    if (name === 'identity' || name === 'stackTrace') Object.assign(value, { [name]: '' })
    else if (typeof inside === 'string') Object.assign(value, { [name]: inside.replace(/^\d+@[^\s:]+/, 'worker') })
    else if (typeof inside === 'object' && inside !== null && !(inside instanceof Uint8Array)) forgetPlace(inside)
  }
}

/** A workflow of whatever kind. */
interface Recorded {
  readonly handle: Pick<StartedRotation['handle'], 'fetchHistory'>
}

async function save(name: string, { handle }: Recorded): Promise<void> {
  const history = await handle.fetchHistory()
  forgetPlace(history)
  writeFileSync(fileOf(name), History.encode(history).finish())
}

const record = (name: string, work: () => Promise<Recorded>): void => {
  test.skipIf(existsSync(fileOf(name)))(name, async () => save(name, await work()))
}

/** From a place to the end. */
const from = (place: PlaceName, onward: (rotation: Standing) => Promise<unknown>) => async () => {
  const rotation = await standAt(house, place, ENDS_SOON)
  await onward(rotation)
  await rotation.release()
  await rotation.handle.result()
  return rotation
}

const places = Object.keys(PLACES) as PlaceName[]
for (const place of places) {
  record(`standing ${place}`, async () => {
    const rotation = await standAt(house, place)
    await save(`standing ${place}`, rotation)
    await rotation.handle.terminate('recorded')
    await rotation.release()
    return rotation
  })
}
for (const place of places.filter((name) => name !== 'an emergency' && name !== 'deactivating')) {
  record(`${place} then an emergency`, from(place, (rotation) => house.order(rotation, 'escalate')))
  if (place !== 'rolling back') record(`${place} then rolled back`, from(place, (rotation) => house.order(rotation, 'rollBack')))
}
record('an emergency to its end', from('an emergency', async () => undefined))
record('rolling back to its end', from('rolling back', async () => undefined))
record('a receipt that came late', from('held for the last receipt', async () => undefined))
record('deactivated by a person', from('monitoring', (rotation) => house.order(rotation, 'deactivateNow')))
record('approved at the deadline', from('held at the deadline', (rotation) => house.order(rotation, 'approve')))
record(
  'held and resumed',
  from('held by a person', async (rotation) => {
    await house.order(rotation, 'resume')
    await house.order(rotation, 'extend', 60_000)
    await house.order(rotation, 'deactivateNow')
  }),
)
record(
  'a failure overcome',
  from('held for a failure', async (rotation) => {
    await rotation.release()
    await house.order(rotation, 'resume')
    await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
    await house.order(rotation, 'deactivateNow')
  }),
)
record('completed on evidence', async () => {
  const { credentialId } = await house.credential()
  const rotation = await house.rotate(credentialId, { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 })
  await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
  await house.use(await house.claimNewKey(rotation.rotationId))
  await rotation.handle.result()
  return rotation
})
record('regretted', async () => {
  const rotation = await standAt(house, 'deactivating', { oldKeyRefusals: 0 })
  await house.use(rotation.token)
  await rotation.handle.result()
  return rotation
})
record('the new key refused', async () => {
  const rotation = await standAt(house, 'monitoring')
  await rotation.handle.signal('evidence', 'new-key-refused', rotation.rotationId)
  await rotation.handle.result()
  return rotation
})
for (const onDeadline of ['force', 'extend'] as const) {
  record(`the deadline says ${onDeadline}`, async () => {
    const { credentialId } = await house.credential()
    const policy = { overlapMs: 1, quietPeriodMs: 0, extendByMs: 1, regretWindowMs: 0, onDeadline }
    const rotation = await house.rotate(credentialId, policy)
    if (onDeadline === 'extend') {
      await house.reached(rotation.rotationId, 'held', WITHIN_MS)
      await house.order(rotation, 'approve')
    }
    await rotation.handle.result()
    return rotation
  })
}
record('cancelled', from('monitoring', ({ handle }) => handle.cancel()))

const HOUR = 3_600_000
const WEEK = { overlapMs: 168 * HOUR, quietPeriodMs: 0, regretWindowMs: 0 } as const

async function rotateFor(place: House, hooks: readonly Hook[], policy = {}, client = {}): Promise<StartedRotation> {
  const { credentialId } = await place.credential(['read:prices'], 'prod', hooks.map(webhook), { client })
  return place.rotate(credentialId, { ...WEEK, ...policy })
}
/** To wait for its result would let time pass. */
async function ofMessage(place: House, { ids }: Hook): Promise<Recorded> {
  const handle = place.client.workflow.getHandle(`message/${ids.at(-1)}`)
  await eventually(async () => (await handle.describe()).status.name === 'COMPLETED', 'the end of the delivery', WITHIN_MS)
  return { handle }
}
const ended = async (place: House, rotation: StartedRotation): Promise<Recorded> => {
  await place.order(rotation, 'deactivateNow')
  await rotation.handle.result()
  return rotation
}

record('a message that came late', async () => {
  const late = await hook((before) => (before < 2 ? 500 : 204))
  await rotateFor(house, [late])
  await eventually(() => late.bodies.length === 3, 'the message', WITHIN_MS)
  return ofMessage(house, late)
})
record('a message that the next contact took', async () => {
  const [gone, good] = [await hook(() => 410), await hook()]
  await rotateFor(house, [gone, good])
  await eventually(() => good.bodies.length === 1, 'the message', WITHIN_MS)
  return ofMessage(house, gone)
})
record('held as untold then resumed', async () => {
  const rotation = await rotateFor(house, [await hook(() => 410)])
  await house.reached(rotation.rotationId, 'held', WITHIN_MS)
  await house.order(rotation, 'resume')
  await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
  return ended(house, rotation)
})

describe('while time passes', () => {
  let skipping: House
  beforeAll(async () => {
    skipping = await openHouse({ time: 'skipped', gateways: 1 })
  })
  afterAll(() => skipping.close())
  const passing = (holds: () => boolean | Promise<boolean>, what: string) =>
    eventually(async () => (await holds()) || (await skipping.pass(HOUR / 4)), what, WITHIN_MS)

  record('a message that nobody took for a day', async () => {
    const dead = await hook(() => 500)
    await rotateFor(skipping, [dead])
    await passing(() => dead.bodies.length === 36, 'the last attempt')
    return ofMessage(skipping, dead)
  })
  record('held as untold then told', async () => {
    const back = await hook((before) => (before < 14 ? 500 : 204))
    const rotation = await rotateFor(skipping, [back])
    await passing(async () => (await skipping.rotation(rotation.rotationId)).stage === 'monitoring', 'the message')
    return ended(skipping, rotation)
  })
  record('a message that waited for the morning', async () => {
    const client = await hook()
    const clock = (ms: number) => new Date(skipping.now() + ms).toISOString().slice(11, 16)
    const quietHours = { from: clock(HOUR), to: clock(8 * HOUR) }
    await rotateFor(skipping, [client], { overlapMs: 12 * HOUR, reminders: [0.5] }, { quietHours })
    await passing(() => client.count('reminder') === 1, 'the reminder')
    return ofMessage(skipping, client)
  })
  record('a message that the night has broken off', async () => {
    let down = true
    const client = await hook((before) => (before > 0 && down ? 500 : 204))
    const clock = (ms: number) => new Date(skipping.now() + ms).toISOString().slice(11, 16)
    const quietHours = { from: clock(HOUR + 5 * 60_000), to: clock(8 * HOUR) }
    await rotateFor(skipping, [client], { overlapMs: 12 * HOUR, reminders: [1 / 12] }, { quietHours })
    await passing(() => client.count('reminder') > 0, 'the reminder')
    await skipping.pass(HOUR)
    const before = client.count('reminder')
    down = false
    await passing(() => client.count('reminder') > before, 'the reminder in the morning')
    return ofMessage(skipping, client)
  })
  record('the deadline is near', async () => {
    const client = await hook()
    const rotation = await rotateFor(skipping, [client], { overlapMs: 4 * HOUR })
    await passing(() => client.count('deadline-near') === 1, 'the last reminder')
    return ended(skipping, rotation)
  })
})

/** Of keys that are written into a Vault of the client; each time the first try is refused. */
const command = await findBao((what) => process.stderr.write(`${what}\n`))
const written = (name: string, work: (place: ReturnType<typeof placeIn>, vault: Bao) => Promise<StartedRotation>): void => {
  if (command === undefined) return
  record(name, async () => {
    const [vault, api] = [await startBao(command), await serveApi(house)]
    try {
      await trustKeyturn(vault, { api: api.url, issuer: house.config.publicUrl })
      const rotation = await work(placeIn(vault), vault)
      await rotation.handle.result()
      return rotation
    } finally {
      await Promise.all([vault.stop(), api.stop()])
    }
  })
}
const heldForDelivery = async (place: ReturnType<typeof placeIn>): Promise<StartedRotation> => {
  const credential = await house.credential([], 'prod', [], { delivery: place.delivery })
  await place.fill({
    format: 1,
    credentialId: credential.credentialId,
    current: { keyId: credential.keyId, kind: 'bearer', token: credential.token },
  })
  const rotation = await house.rotate(credential.credentialId, { overlapMs: 600_000, quietPeriodMs: 0, ...ENDS_SOON })
  await house.reached(rotation.rotationId, 'held', WITHIN_MS)
  return rotation
}
const writtenAfterAll = async (place: ReturnType<typeof placeIn>): Promise<StartedRotation> => {
  const rotation = await heldForDelivery(place)
  await place.allow(rotation.credentialId)
  await house.order(rotation, 'resume')
  await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
  return rotation
}
written('held for a delivery then written', async (place) => {
  const rotation = await writtenAfterAll(place)
  await house.order(rotation, 'deactivateNow')
  return rotation
})
// The second is of the time since which a roll-back looks after the store once more.
for (const name of ['written then rolled back', 'written then taken back'])
  written(name, async (place) => {
    const rotation = await writtenAfterAll(place)
    await house.order(rotation, 'rollBack')
    return rotation
  })
written('held for a delivery then an emergency', async (place) => {
  const rotation = await heldForDelivery(place)
  await house.order(rotation, 'escalate')
  return rotation
})
written('written then leaked then rolled back', async (place) => {
  const rotation = await writtenAfterAll(place)
  const { newKeyId } = await house.rotation(rotation.rotationId)
  const leak = { leakId: 'lk_000000000000000000' as LeakId, keyId: newKeyId as KeyId, atOnce: true, overlapMs: 0 }
  await rotation.handle.signal('leak', { ...leak, reason: 'recorded', actor: 'recorded' })
  await eventually(
    async () => {
      const now = await house.rotation(rotation.rotationId)
      return now.newKeyId !== undefined && now.newKeyId !== newKeyId && now.stage === 'monitoring'
    },
    'another new key',
    WITHIN_MS,
  )
  await house.order(rotation, 'rollBack')
  return rotation
})
written('taken back then an emergency', async (place) => {
  const rotation = await writtenAfterAll(place)
  const release = await obstruct(house.db, rotation.credentialId, { refuses: 'change', event: 'keyturn.key.deactivated' })
  const held = async () => (await house.rotation(rotation.rotationId)).timeline.filter(({ stage }) => stage === 'held').length
  const before = await held()
  await house.order(rotation, 'rollBack')
  await eventually(async () => (await held()) > before, 'held', WITHIN_MS)
  await release()
  await house.order(rotation, 'escalate')
  return rotation
})
