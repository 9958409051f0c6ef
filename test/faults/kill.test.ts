import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { eventually, type House, type StartedRotation, type TestCredential } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, type Running, startProgram } from '../support/processes.ts'
import { LONG } from '../support/runs.ts'

const KILLS = LONG ? 30 : 10
const AT_ONCE = 5
const PROGRAMS = ['workers/rotation-worker.ts', 'workers/usage-collector.ts', 'workers/api-server.ts'] as const

let house: House
const running = new Map<string, Running>()
let api = ''

beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 3, worker: false, collector: false })
  const port = 20_000 + Math.floor(Math.random() * 20_000)
  api = `http://127.0.0.1:${port}`
  for (const program of PROGRAMS) start(program, port)
})
afterAll(async () => {
  await Promise.all([...running.values()].map((program) => program.kill()))
  await house.close()
})

function start(program: string, port = Number(new URL(api).port)): void {
  running.set(program, startProgram(program, { ...environmentOf(house), KEYTURN_LISTEN: `127.0.0.1:${port}` }))
}

/** Asks the API until it answers: it may be dead at the moment. */
async function request(path: string, body: unknown): Promise<{ rotationId: StartedRotation['rotationId'] }> {
  return eventually(
    async () => {
      const answer = await fetch(api + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${house.config.operatorToken}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(15_000),
      }).catch(() => undefined)
      return answer?.status === 202 ? ((await answer.json()) as { rotationId: StartedRotation['rotationId'] }) : undefined
    },
    `POST ${path}`,
    90_000,
  )
}

/** One rotation, asked for over HTTP, whose client uses its new key as soon as it has it. */
async function rotateOnce(): Promise<{
  credential: TestCredential
  rotationId: StartedRotation['rotationId']
  newToken: string
}> {
  const credential = await house.credential()
  const { rotationId } = await request(`/v1/credentials/${credential.credentialId}/rotations`, {
    trigger: 'manual',
    reason: 'kill test',
    overlap: '10m',
    quietPeriod: '0s',
    regretWindow: '0s',
  })
  await eventually(
    async () => (await house.rotation(rotationId)).timeline.some(({ stage }) => stage === 'notifying'),
    'the notice',
    120_000,
  )
  const newToken = await house.claimNewKey(rotationId)
  await eventually(
    async () => {
      for (const gateway of house.gateways)
        gateway.authenticate({ headers: { authorization: `Bearer ${newToken}` }, address: '192.0.2.1' })
      return (await house.rotation(rotationId)).endedAt !== undefined
    },
    `the end of ${rotationId}`,
    180_000,
  )
  return { credential, rotationId, newToken }
}

test(
  `G8: worker, collector and API are killed ${KILLS} times at any moment; every rotation ends as it would have, with no orphan key`,
  async () => {
    let kills = 0
    const killing = (async () => {
      while (kills < KILLS) {
        await new Promise((resolve) => setTimeout(resolve, 200 + Math.random() * 2_500))
        const program = PROGRAMS[kills % PROGRAMS.length] ?? PROGRAMS[0]
        await running.get(program)?.kill()
        kills += 1
        start(program)
      }
    })()
    const rotations: Awaited<ReturnType<typeof rotateOnce>>[] = []
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        do rotations.push(await rotateOnce())
        while (kills < KILLS)
      }),
    )
    await killing

    expect(rotations.length).toBeGreaterThanOrEqual(AT_ONCE)
    for (const { credential, rotationId, newToken } of rotations) {
      const { stage, timeline } = await house.rotation(rotationId)
      expect(stage).toBe('completed')
      expect(timeline.map((entry) => entry.stage)).toEqual([
        'requested',
        'introducing',
        'notifying',
        'monitoring',
        'deactivating',
        'completed',
      ])
      expect(
        (await house.keys(credential.credentialId)).map(({ version, state, standing }) => [version, state, standing]),
      ).toEqual([
        [1, 'deactivated', 'retired'],
        [2, 'active', 'current'],
      ])
      expect(house.verdicts(credential.token)).toEqual([false, false, false])
      expect(house.verdicts(newToken)).toEqual([true, true, true])
    }
    expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
  },
  20 * 60_000,
)
