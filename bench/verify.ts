/**
 * What one verification costs at a gateway that holds a million keys, beside the bare work it can't do without (one SHA-256 and
 * one Map look-up, in the same cache sizes and the same run) and beside prefixed-api-key. And what a key costs in memory, and
 * how long it takes to load keys from Kafka.
 */
import { hash, randomBytes, randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import {
  type ClientId,
  type CredentialId,
  encodeEvent,
  type KeyRecord,
  newKeyId,
  newToken,
  randomBase62,
  TOPIC_SETTINGS,
  tokenSha256,
  topicNames,
} from '@keyturn/contract'
import { createGateway, createLog, createVerify, KeyCache } from '@keyturn/gateway'
import { Kafka, logLevel, Partitioners } from 'kafkajs'
import { checkAPIKey, generateAPIKey } from 'prefixed-api-key'

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

const SCOPES = [['orders:read'], ['orders:read', 'orders:write'], ['trade:read', 'trade:write'], ['reports:read']]

/** A key as issued: a client of its own, one of a few sets of scopes, one in ten with an expiry. */
function keyRecord(token: string, keyId: KeyRecord['keyId'], i: number): KeyRecord {
  return {
    keyId,
    credentialId: `crd_${randomBase62(16)}` as CredentialId,
    clientId: `cli_${randomBase62(16)}` as ClientId,
    environment: 'prod',
    scopes: [...(SCOPES[i % SCOPES.length] ?? [])],
    version: 1,
    state: 'active',
    revision: 1,
    verifier: { kind: 'bearer', sha256: tokenSha256(token) },
    notBefore: new Date(Date.UTC(2026, 0, 1) + i).toISOString(),
    ...(i % 10 === 0 ? { expiresAt: new Date(Date.UTC(2036, 0, 1) + i).toISOString() } : {}),
  }
}

const issue = (i: number): { token: string; record: KeyRecord } => {
  const keyId = newKeyId()
  const token = newToken({ brand: 'kt', environment: 'prod', keyId })
  return { token, record: keyRecord(token, keyId, i) }
}

const settledHeap = async (): Promise<number> => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.()
    await nextTurn()
  }
  return process.memoryUsage().heapUsed
}

export interface VerifyFigures {
  readonly keys: number
  readonly rounds: number
  /** Microseconds for one, median of the rounds. */
  readonly floorUs: number
  readonly verifyUs: number
  readonly unknownUs: number
  readonly prefixedApiKeyUs: number
  /** Median over the rounds of the ratio in each. */
  readonly overFloor: number
  /** Heap bytes per key; only under `--expose-gc`. */
  readonly bytesPerKey: number | undefined
}

/** @param options how many keys, how many interleaved rounds, and how many verifications in each */
export async function measureVerify({ keys = 1_000_000, rounds = 15, perRound = 50_000 } = {}): Promise<VerifyFigures> {
  // Tokens that are asked for, spread over the whole cache; the others would only cost memory.
  const asked = Math.min(keys, 20_000)
  const every = Math.floor(keys / asked)
  const tokens: string[] = []
  const before = await settledHeap()
  const cache = new KeyCache()
  for (let i = 0; i < keys; i++) {
    const { token, record } = issue(i)
    // As it comes from Kafka: strings made by concatenation are larger than those of a parser.
    cache.apply(JSON.parse(JSON.stringify(record)) as KeyRecord)
    if (i % every === 0) tokens.push(token)
  }
  const bytesPerKey = globalThis.gc === undefined ? undefined : ((await settledHeap()) - before) / keys
  const bare = new Map<string, number>()
  for (const entry of cache.entries()) bare.set(entry.sha256, 1)
  const unknown = Array.from({ length: 5_000 }, (_, i) => issue(i).token)
  const prefixed = await Promise.all(Array.from({ length: 200 }, () => generateAPIKey({ keyPrefix: 'kt' })))

  const verify = createVerify(cache, ['prod'])
  const now = Date.UTC(2026, 6, 1)
  let good = 0
  const time = (work: () => void): number => {
    const start = process.hrtime.bigint()
    work()
    return Number(process.hrtime.bigint() - start) / 1_000 / perRound
  }
  const token = (i: number): string => tokens[(i * 7919) % tokens.length] ?? ''
  const jobs = {
    floor: () => {
      for (let i = 0; i < perRound; i++) good += bare.get(hash('sha256', token(i), 'base64')) ?? 0
    },
    verify: () => {
      for (let i = 0; i < perRound; i++) if (verify(token(i), now).outcome === 'accepted') good += 1
    },
    unknown: () => {
      for (let i = 0; i < perRound; i++) if (verify(unknown[i % unknown.length] ?? '', now).outcome === 'unknown') good += 1
    },
    prefixed: () => {
      for (let i = 0; i < perRound; i++) {
        const key = prefixed[i % prefixed.length]
        if (key?.token !== undefined && key.longTokenHash !== undefined && checkAPIKey(key.token, key.longTokenHash)) good += 1
      }
    },
  }
  const names = Object.keys(jobs) as (keyof typeof jobs)[]
  const times: Record<keyof typeof jobs, number[]> = { floor: [], verify: [], unknown: [], prefixed: [] }
  for (let round = -2; round < rounds; round++) {
    // Every round begins with another one, so that none is always the first after a pause.
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round + 2) % names.length] ?? 'floor'
      const us = time(jobs[name])
      if (round >= 0) times[name].push(us)
    }
    await nextTurn()
  }
  const expected = (rounds + 2) * perRound * names.length
  if (good !== expected) throw new Error(`the bench is wrong: ${good} of ${expected} decisions were right`)
  return {
    keys,
    rounds,
    floorUs: median(times.floor),
    verifyUs: median(times.verify),
    unknownUs: median(times.unknown),
    prefixedApiKeyUs: median(times.prefixed),
    overFloor: median(times.verify.map((us, i) => us / (times.floor[i] ?? us))),
    bytesPerKey,
  }
}

export interface LoadFigures {
  readonly keys: number
  /** From `start()` to ready: announcement, ends, and every key applied. */
  readonly readyMs: number
  readonly msPer100k: number
}

/** Loads keys from Kafka into a gateway that starts from nothing. Makes topics of its own and removes them. */
export async function measureLoad(brokers: readonly string[], keys = 100_000): Promise<LoadFigures> {
  const kafka = new Kafka({ brokers: [...brokers], clientId: 'bench', logLevel: logLevel.NOTHING })
  const topics = topicNames(`bench-${randomUUID().slice(0, 8)}.`)
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({
    waitForLeaders: true,
    topics: (['keys', 'gateways', 'usage'] as const).map((name) => ({
      topic: topics[name],
      numPartitions: TOPIC_SETTINGS[name].partitions,
    })),
  })
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  const chunk = 1_000
  for (let i = 0; i < keys; i += chunk) {
    const messages = Array.from({ length: Math.min(chunk, keys - i) }, (_, j) => {
      const keyId = newKeyId()
      const data = keyRecord(randomBytes(32).toString('hex'), keyId, i + j)
      const time = new Date()
      return { key: keyId, value: encodeEvent({ type: 'keyturn.key.introduced', source: '/bench', subject: keyId, time, data }) }
    })
    await producer.send({ topic: topics.keys, messages })
  }
  await producer.disconnect()
  const gateway = createGateway({
    kafka: { brokers, topics },
    gatewayId: 'bench',
    region: 'bench',
    environments: ['prod'],
    failClosed: [],
    stalenessMs: 30_000,
    heartbeatMs: 3_000,
    usageWindowMs: 5_000,
    log: createLog('warn'),
  })
  try {
    const start = performance.now()
    await gateway.start()
    const readyMs = performance.now() - start
    if (gateway.cache.size !== keys) throw new Error(`the bench is wrong: ${gateway.cache.size} of ${keys} keys were loaded`)
    return { keys, readyMs, msPer100k: (readyMs / keys) * 100_000 }
  } finally {
    await gateway.stop()
    await admin.deleteTopics({ topics: [topics.keys, topics.gateways, topics.usage] })
    await admin.disconnect()
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const brokers = process.env['KEYTURN_KAFKA_BROKERS']
  const load = brokers === undefined ? undefined : await measureLoad(brokers.split(','))
  const verify = await measureVerify()
  process.stdout.write(`${JSON.stringify({ verify, load }, undefined, 2)}\n`)
}
