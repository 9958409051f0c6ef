/**
 * How many clients one worker tells in a second, each by a signed webhook of its own: the message looked up, sent, and written down. Each is
 * a workflow with one activity, so beside it stand workflows with one activity that does nothing.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type KeyId, randomBase62 } from '@keyturn/contract'
import type { tellOfSecondClaim } from '../workflows/index.ts'
import { oneActivityBurst } from './baselines.ts'
import type { BenchHouse } from './house.ts'
import { createCredential, inParallel } from './rotations-under-way.ts'
import { median } from './statistics.ts'

const PREPARED_AT_ONCE = 4
const CLIENTS = 20

export interface NotificationFigures {
  readonly notifications: number
  readonly atOnce: number
  readonly rounds: number
  readonly notificationsASecond: number
  readonly oneActivityASecond: number
  /** Median over the rounds of the ratio in each. */
  readonly ratio: number
}

export async function measureNotifications(
  house: BenchHouse,
  { notifications = 150, atOnce = 50, rounds = 3 } = {},
): Promise<NotificationFigures> {
  const receiver = await startReceiver()
  const ours: number[] = []
  const peers: number[] = []
  try {
    const keys = await inParallel(CLIENTS, PREPARED_AT_ONCE, async (): Promise<KeyId> => {
      const { credentialId } = await createCredential(house, { webhook: receiver.url })
      const { keys: all } = await house.call<{ keys: { keyId: KeyId }[] }>('GET', `/v1/credentials/${credentialId}`)
      return all[0]?.keyId ?? Promise.reject(new Error('a credential has a key'))
    })
    await tellAll(house, keys, Math.min(notifications, CLIENTS), atOnce)
    await oneActivityBurst(house, notifications, atOnce)
    for (let round = 0; round < rounds; round++) {
      const both = [
        async () => void ours.push(await tellAll(house, keys, notifications, atOnce)),
        async () => void peers.push((await oneActivityBurst(house, notifications, atOnce)) / 60),
      ]
      for (const measure of round % 2 === 0 ? both : both.reverse()) await measure()
    }
    const expected = Math.min(notifications, CLIENTS) + rounds * notifications
    if (receiver.received() !== expected) throw new Error(`${receiver.received()} of ${expected} messages have arrived`)
  } finally {
    receiver.close()
  }
  return {
    notifications,
    atOnce,
    rounds,
    notificationsASecond: median(ours),
    oneActivityASecond: median(peers),
    ratio: median(ours.map((rate, i) => rate / (peers[i] ?? rate))),
  }
}

async function tellAll(house: BenchHouse, keys: readonly KeyId[], count: number, atOnce: number): Promise<number> {
  const start = performance.now()
  await inParallel(count, atOnce, (i) =>
    house.temporal.workflow.execute<typeof tellOfSecondClaim>('tellOfSecondClaim', {
      taskQueue: house.taskQueue,
      workflowId: `bench/${randomBase62(16)}`,
      args: [{ keyId: keys[i % keys.length] as KeyId }],
    }),
  )
  return (count / (performance.now() - start)) * 1_000
}

async function startReceiver(): Promise<{ readonly url: string; received(): number; close(): void }> {
  let received = 0
  const server = createServer((request, response) => {
    received += 1
    request.resume()
    response.writeHead(204).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    received: () => received,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
}
