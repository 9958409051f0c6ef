/**
 * How many rotations one worker drives through all stages in a minute, with many under way and every client doing its part at
 * once: it hears of its new key by webhook, claims it, and uses it at a gateway. Beside it workflows with one activity that
 * does nothing, as many under way, on a worker that polls the same way.
 */

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { rotationWorkflowId } from '@keyturn/contract'
import { request } from 'undici'
import { oneActivityBurst } from './baselines.ts'
import type { BenchHouse } from './house.ts'
import { createCredential, inParallel, rotate } from './rotations-under-way.ts'
import { median } from './statistics.ts'

const PREPARED_AT_ONCE = 4
const WARM_UP = 5

export interface RotationFigures {
  readonly rotations: number
  readonly atOnce: number
  readonly rounds: number
  readonly rotationsAMinute: number
  readonly oneActivityAMinute: number
  /** Median over the rounds of the ratio in each. */
  readonly ratio: number
  /** Activities of one rotation, by its history. */
  readonly activities: number
  readonly workflowTasks: number
}

export async function measureRotations(
  house: BenchHouse,
  { rotations = 100, atOnce = 25, rounds = 3 } = {},
): Promise<RotationFigures> {
  const clients = await startClients(house)
  const ours: number[] = []
  const peers: number[] = []
  let history = { activities: 0, workflowTasks: 0 }
  try {
    await rotateAll(house, clients.webhook, Math.min(WARM_UP, rotations), atOnce)
    await oneActivityBurst(house, rotations, atOnce)
    for (let round = 0; round < rounds; round++) {
      const both = [
        async () => {
          const { aMinute, sample } = await rotateAll(house, clients.webhook, rotations, atOnce)
          ours.push(aMinute)
          history = await countHistory(house, sample)
        },
        async () => {
          peers.push(await oneActivityBurst(house, rotations, atOnce))
        },
      ]
      for (const measure of round % 2 === 0 ? both : both.reverse()) await measure()
    }
    clients.rethrow()
  } finally {
    await clients.close()
  }
  return {
    rotations,
    atOnce,
    rounds,
    rotationsAMinute: median(ours),
    oneActivityAMinute: median(peers),
    ratio: median(ours.map((rate, i) => rate / (peers[i] ?? rate))),
    ...history,
  }
}

/** @returns completed rotations a minute, from the first request to the end of the last workflow; and one of them */
async function rotateAll(
  house: BenchHouse,
  webhook: string,
  count: number,
  atOnce: number,
): Promise<{ aMinute: number; sample: string }> {
  const credentials = await inParallel(count, PREPARED_AT_ONCE, () => createCredential(house, { webhook }))
  const start = performance.now()
  const ended = await inParallel(count, atOnce, async (i) => {
    const credential = credentials[i]
    if (credential === undefined) throw new Error('there is a credential for each rotation')
    await rotate(house, credential, { overlap: '1h', quietPeriod: '0s' })
    const workflowId = rotationWorkflowId(credential.credentialId)
    return { workflowId, stage: (await house.temporal.workflow.getHandle(workflowId).result()) as unknown }
  })
  const ms = performance.now() - start
  const other = ended.find(({ stage }) => stage !== 'completed')
  if (other !== undefined) throw new Error(`${other.workflowId} ended as ${String(other.stage)}`)
  return { aMinute: (count / ms) * 60_000, sample: ended[0]?.workflowId ?? '' }
}

async function countHistory(
  { temporal }: BenchHouse,
  workflowId: string,
): Promise<{ activities: number; workflowTasks: number }> {
  const events = (await temporal.workflow.getHandle(workflowId).fetchHistory()).events ?? []
  return {
    activities: events.filter((event) => event.activityTaskScheduledEventAttributes).length,
    workflowTasks: events.filter((event) => event.workflowTaskCompletedEventAttributes).length,
  }
}

interface Clients {
  /** Where they are told of rotations. */
  readonly webhook: string
  /** Throws what went wrong with one of them. */
  rethrow(): void
  close(): Promise<void>
}

/** Clients that do what they are told to: at `introduced` each claims its new key and uses it once, at one gateway or another. */
async function startClients(house: BenchHouse): Promise<Clients> {
  let failure: unknown
  let turn = 0
  const switchOver = async (claimUrl: string): Promise<void> => {
    const claimed = await request(claimUrl, { method: 'POST' })
    const { token } = (await claimed.body.json()) as { token?: string }
    const gateway = house.gateways[turn++ % house.gateways.length]
    if (token === undefined || gateway === undefined) throw new Error(`a claim was answered with ${claimed.statusCode}`)
    const used = await request(`${gateway.url}/v1/orders`, { headers: { authorization: `Bearer ${token}` } })
    await used.body.dump()
    if (used.statusCode !== 200) throw new Error(`a new key was answered with ${used.statusCode}`)
  }
  const server = createServer((incoming, response) => {
    let body = ''
    incoming.on('data', (part: Buffer) => {
      body += part.toString()
    })
    incoming.on('end', () => {
      response.writeHead(204).end()
      const { type, data } = JSON.parse(body) as { type: string; data: { claimUrl?: string } }
      if (type !== 'keyturn.rotation.introduced' || data.claimUrl === undefined) return
      switchOver(data.claimUrl).catch((error: unknown) => {
        failure ??= error
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    webhook: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    rethrow() {
      if (failure !== undefined) throw failure
    },
    async close() {
      server.closeAllConnections()
      server.close()
    },
  }
}
