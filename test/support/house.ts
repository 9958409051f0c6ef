/**
 * The whole control plane in one process, on the real servers: registry, worker, collector, and as many gateways as wanted.
 * With skipped time, everything time-like follows the clock of the time-skipping server.
 */
import { randomBytes } from 'node:crypto'
import {
  type CredentialId,
  DEFAULT_POLICY,
  type Environment,
  encodeEvent,
  GATEWAY_REPORT_TYPE,
  type GatewayId,
  type GatewayReport,
  type KeyId,
  newToken,
  type RotationId,
  type RotationOrder,
  type RotationPolicy,
  type RotationProgress,
  type RotationRequest,
  type RotationUpdate,
  randomBase62,
  rotationWorkflowId,
  type TopicNames,
  type Trigger,
  type TriggerAnswer,
} from '@keyturn/contract'
import { createGateway, type Gateway, type GatewayOptions } from '@keyturn/gateway'
import { Client, Connection, type WorkflowHandle } from '@temporalio/client'
import { TestWorkflowEnvironment } from '@temporalio/testing'
import pino, { type Logger } from 'pino'
import { createKafka, createPublisher } from '../../activities/kafka.ts'
import { createPropagation, type Propagation } from '../../activities/propagation.ts'
import { unavailableServer } from '../../api/dependencies.ts'
import { orderRotation, triggerRotation } from '../../api/temporal.ts'
import type { Config, DeliveryConfig, LeakConfig } from '../../infra/config.ts'
import { startTimeSkippingServer } from '../../infra/stack/temporal.ts'
import { claimCode, redeemClaim } from '../../registry/claims.ts'
import { type ClientChange, type Contact, createClient } from '../../registry/clients.ts'
import { createCredential, getCredential, type NewCredential } from '../../registry/credentials.ts'
import { type Database, openDatabase } from '../../registry/database.ts'
import { getKey, type KeyRow, keysOfCredential } from '../../registry/keys.ts'
import { getRotation, type Rotation } from '../../registry/rotations.ts'
import { createSealer, type Sealer } from '../../registry/sealing.ts'
import { startRotationWorker } from '../../workers/rotation-worker.ts'
import { routeTemporalLog } from '../../workers/temporal-log.ts'
import { startUsageCollector } from '../../workers/usage-collector.ts'
import type { rotateCredential } from '../../workflows/index.ts'

const DAY_MS = 86_400_000
const PATIENCE_MS = 120_000

/** The servers that a house stands on. */
export interface Servers {
  readonly postgresUrl: string
  readonly kafkaBrokers: string[]
  readonly topics: TopicNames
  readonly temporalAddress: string
  /** Program that starts a time-skipping server; needed for skipped time alone. */
  readonly timeSkippingServer?: string
  readonly workflowBundle: string
}

export interface HouseOptions {
  readonly time: 'real' | 'skipped'
  readonly gateways?: number
  /** Without a worker or a collector, tests start their own. */
  readonly worker?: boolean
  readonly collector?: boolean
  /** Instead of the defaults: trading keys at once, others within an hour. */
  readonly leaks?: Partial<LeakConfig>
  /** Besides that webhooks may lead to this machine. */
  readonly delivery?: Partial<DeliveryConfig>
}

type TestGatewayOptions = Partial<Pick<GatewayOptions, 'failClosed' | 'stalenessMs' | 'fallback' | 'jwksUrl'>> & {
  readonly behindMs?: number
  readonly kafka?: string
}

export interface TestCredential {
  readonly credentialId: CredentialId
  readonly keyId: KeyId
  readonly token: string
}

export interface StartedRotation {
  readonly credentialId: CredentialId
  readonly rotationId: RotationId
  readonly handle: WorkflowHandle<typeof rotateCredential>
}

export class House {
  readonly gateways: Gateway[] = []
  readonly sealer: Sealer
  private offsetMs = 0
  private stopParts: () => Promise<unknown> = async () => undefined
  /** What the parts stand on. */
  private stopGround: () => Promise<unknown> = async () => undefined

  readonly config: Config
  readonly db: Database
  readonly client: Client
  readonly propagation: Propagation
  readonly collector: { sweep(): Promise<void> } | undefined
  readonly log: Logger
  private readonly env: TestWorkflowEnvironment | undefined

  private constructor(
    parts: Pick<House, 'config' | 'db' | 'client' | 'propagation' | 'collector' | 'log'>,
    env: TestWorkflowEnvironment | undefined,
  ) {
    this.config = parts.config
    this.db = parts.db
    this.client = parts.client
    this.propagation = parts.propagation
    this.collector = parts.collector
    this.log = parts.log
    this.env = env
    this.sealer = createSealer(parts.config.kek, parts.config.previousKek)
  }

  static async open(servers: Servers, options: HouseOptions): Promise<House> {
    const log = pino({ level: process.env['KEYTURN_TEST_LOG'] ?? 'silent' })
    routeTemporalLog(log)
    const skipping = options.time === 'skipped' ? await timeSkipping(servers) : undefined
    const env = skipping?.env
    const { topics } = servers
    const config = houseConfig(servers, env?.address ?? servers.temporalAddress, options)
    const db = openDatabase(config.postgresUrl)
    const connection = await Connection.connect({ address: config.temporalAddress })
    let house: House | undefined
    const clock = () => new Date(house?.now() ?? Date.now())
    const sweepMs = options.time === 'real' ? 100 : 0
    // Side by side: a house is opened in nearly every file.
    const [propagation, collecting, worker] = await Promise.all([
      createPropagation({ kafka: createKafka(config.kafkaBrokers, 'test', log), topics, db, log, source: '/keyturn/test' }),
      options.collector === false ? undefined : startUsageCollector(config, log, { sweepMs, clock }),
      options.worker === false ? undefined : startRotationWorker(config, log),
    ])
    const client = env?.client ?? new Client({ connection })
    house = new House({ config, db, client, propagation, collector: collecting?.collector, log }, env)
    house.stopParts = () => Promise.all([worker?.stop(), collecting?.stop(), propagation.stop()])
    house.stopGround = async () => {
      await skipping?.stop()
      await connection.close()
      await db.close()
    }
    const opened = house
    const names = Array.from({ length: options.gateways ?? 1 }, (_, i) => `gw-${i + 1}`)
    house.gateways.push(...(await Promise.all(names.map((name) => opened.startGateway(name)))))
    return house
  }

  async close(): Promise<void> {
    await Promise.all([Promise.allSettled(this.gateways.map((gateway) => gateway.stop())), this.stopParts()])
    await this.stopGround()
  }

  /** The time of this house: the workflow's. */
  now(): number {
    return Date.now() + this.offsetMs
  }

  /**
   * Lets time pass: skipped, not slept. Not any more once a workflow has ended after the one that began it, as the delivery of a message may: the
   * test server then waits for ever for the first to hear of that.
   */
  async pass(ms: number): Promise<void> {
    if (this.env === undefined) throw new Error('time passes by itself here')
    await this.env.sleep(ms)
    await this.setClock()
  }

  /** The server skips time by itself, too, while a test waits for a result. */
  private async setClock(): Promise<void> {
    if (this.env !== undefined) this.offsetMs = (await this.env.currentTimeMs()) - Date.now()
  }

  async addGateway(gatewayId: string, options: TestGatewayOptions = {}): Promise<Gateway> {
    const gateway = await this.startGateway(gatewayId, options)
    this.gateways.push(gateway)
    return gateway
  }

  private async startGateway(gatewayId: string, options: TestGatewayOptions = {}): Promise<Gateway> {
    const gateway = createGateway({
      kafka: { brokers: options.kafka === undefined ? this.config.kafkaBrokers : [options.kafka], topics: this.config.topics },
      gatewayId,
      region: 'test',
      environments: ['prod'],
      fallback: options.fallback,
      jwksUrl: options.jwksUrl,
      failClosed: options.failClosed ?? [],
      stalenessMs: options.stalenessMs ?? 30_000,
      heartbeatMs: 1_000,
      usageWindowMs: 200,
      clock: () => this.now() - (options.behindMs ?? 0),
      log: this.log,
    })
    await gateway.start()
    return gateway
  }

  /** A gateway that has announced itself and then says nothing more. */
  async announceSilentGateway(gatewayId: string): Promise<void> {
    const time = new Date()
    const data: GatewayReport = {
      gatewayId: gatewayId as GatewayId,
      incarnation: 'silent',
      region: 'test',
      at: time.toISOString(),
      positions: {},
      keys: 0,
      freshness: 'loading',
    }
    const value = encodeEvent({
      type: GATEWAY_REPORT_TYPE,
      source: `/keyturn/gateways/${gatewayId}`,
      subject: gatewayId,
      time,
      data,
    })
    const publisher = createPublisher(createKafka(this.config.kafkaBrokers, 'test', this.log))
    await publisher.send(this.config.topics.gateways, [{ key: gatewayId, value }])
    await publisher.stop()
  }

  /** A credential whose first key the client has claimed, and every gateway knows. */
  async credential(
    scopes: string[] = ['read:prices'],
    environment: Environment = 'prod',
    contacts: readonly Contact[] = [],
    { client = {}, ...what }: Pick<NewCredential, 'kind' | 'publicKey' | 'delivery'> & { readonly client?: ClientChange } = {},
  ): Promise<TestCredential> {
    await this.setClock()
    const at = new Date(this.now())
    const { clientId } = await createClient(this.db, { ...client, name: 'Acme', contacts, at, actor: 'test' })
    const made = await createCredential(this.db, {
      ...what,
      clientId,
      name: `feed-${randomBase62(8)}`,
      environment,
      scopes,
      brand: this.config.brand,
      sealer: this.sealer,
      claimExpiresAt: new Date(at.getTime() + DAY_MS),
      at,
      actor: 'test',
    })
    const receipt = await this.propagation.waitForReceipt(await this.propagation.publish(made.keyId), { timeoutMs: PATIENCE_MS })
    if (receipt.unconfirmed.length > 0) throw new Error(`no receipt from ${receipt.unconfirmed.join(', ')}`)
    // Who has enrolled a public key from the start has no claim, and shows no token.
    const token = made.claimId === undefined ? '' : await this.claim(claimCode(this.sealer, made.claimId))
    return { credentialId: made.credentialId, keyId: made.keyId, token }
  }

  async claim(code: string): Promise<string> {
    const redeemed = await redeemClaim(this.db, { code, at: new Date(this.now()), from: 'test', sealer: this.sealer })
    if (redeemed.outcome !== 'handed-out') throw new Error(`the claim is ${redeemed.outcome}`)
    return redeemed.token
  }

  async trigger(
    credentialId: CredentialId,
    policy: Partial<RotationPolicy> = {},
    trigger: Trigger = 'manual',
  ): Promise<TriggerAnswer> {
    const request: RotationRequest = {
      rotationId: `rot_${randomBase62(16)}` as RotationId,
      trigger,
      reason: 'test',
      actor: 'test',
      policy: { ...DEFAULT_POLICY, ...policy },
    }
    const target = await getCredential(this.db, credentialId)
    if (target === undefined) throw new Error(`there is no credential ${credentialId}`)
    // What the API answers with 503, and whoever asked does: try again. The same request is the same rotation.
    for (const giveUp = Date.now() + PATIENCE_MS; ; ) {
      try {
        return await triggerRotation(this.client, this.config.taskQueue, target, request)
      } catch (error) {
        if (Date.now() > giveUp || unavailableServer(error) === undefined) throw error
      }
    }
  }

  async rotate(
    credentialId: CredentialId,
    policy: Partial<RotationPolicy> = {},
    trigger: Trigger = 'manual',
  ): Promise<StartedRotation> {
    const { rotationId } = await this.trigger(credentialId, policy, trigger)
    return {
      credentialId,
      rotationId,
      handle: this.client.workflow.getHandle<typeof rotateCredential>(rotationWorkflowId(credentialId)),
    }
  }

  /** Gives an order as the API does. Rejects with `wrong-stage` and the reason when it is refused. */
  order({ credentialId, rotationId }: StartedRotation, update: RotationUpdate, byMs?: number): Promise<RotationProgress> {
    const order: RotationOrder = {
      rotationId,
      reason: `${update} by test`,
      actor: 'tester',
      ...(byMs === undefined ? {} : { byMs }),
    }
    return orderRotation(this.client, credentialId, update, order)
  }

  async rotation(rotationId: RotationId): Promise<Rotation> {
    const rotation = await getRotation(this.db, rotationId)
    if (rotation === undefined) throw new Error(`there is no rotation ${rotationId}`)
    return rotation
  }

  /** Waits until the rotation has come to a stage; it may have gone on from there. */
  async reached(rotationId: RotationId, stage: Rotation['stage'], withinMs = 60_000): Promise<Rotation> {
    let seen = ''
    const look = async (): Promise<Rotation | undefined> => {
      const rotation = await getRotation(this.db, rotationId)
      seen = (rotation?.timeline ?? [])
        .map(({ stage: at, reason }) => (reason === undefined ? at : `${at} (${reason})`))
        .join(' → ')
      return rotation?.timeline.some((entry) => entry.stage === stage) === true ? rotation : undefined
    }
    return eventually(look, () => `stage ${stage} of ${rotationId}, which has been ${seen}`, withinMs)
  }

  /** The token of the rotation's new key, claimed by showing the old one's rotation claim. */
  async claimNewKey(rotationId: RotationId): Promise<string> {
    return this.claim(await this.claimCodeOf(rotationId))
  }

  /** The code that the client is sent. */
  async claimCodeOf(rotationId: RotationId): Promise<string> {
    const { newKeyId } = await this.rotation(rotationId)
    if (newKeyId === undefined) throw new Error('there is no new key yet')
    const [claim] = await this.db.query<{ claim_id: string }>('select claim_id from claims where key_id = $1', [newKeyId])
    if (claim === undefined) throw new Error('there is no claim')
    return claimCode(this.sealer, claim.claim_id)
  }

  /** Uses a key at every gateway, and lets the usage arrive where evidence is made of it. */
  async use(token: string): Promise<void> {
    for (const gateway of this.gateways)
      gateway.authenticate({ headers: { authorization: `Bearer ${token}` }, address: '192.0.2.1' })
    await this.settleUsage()
  }

  async settleUsage(): Promise<void> {
    const counted = this.now()
    await Promise.all(this.gateways.map((gateway) => gateway.flushUsage()))
    await eventually(async () => {
      const known = await this.propagation.watch.readToEnd()
      return [...known.values()].every(({ latest }) => Date.parse(latest.usageThrough ?? '') >= counted)
    }, 'the usage reports of every gateway')
    await this.collector?.sweep()
  }

  keys(credentialId: CredentialId): Promise<KeyRow[]> {
    return keysOfCredential(this.db, credentialId)
  }

  async keyState(keyId: KeyId): Promise<string | undefined> {
    return (await getKey(this.db, keyId))?.state
  }

  /** How each gateway decides on a token now. */
  verdicts(token: string): boolean[] {
    return this.gateways.map((gateway) => gateway.verify(token).outcome === 'accepted')
  }
}

/** Polls until something is there, the slower the longer it takes; fails with its name when it does not come. */
export async function eventually<T>(
  look: () => Promise<T | undefined | false> | T | undefined | false,
  what: string | (() => string),
  withinMs = 60_000,
): Promise<T> {
  const begun = Date.now()
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    const waited = Date.now() - begun
    if (waited > withinMs) throw new Error(`did not come within ${withinMs} ms: ${typeof what === 'string' ? what : what()}`)
    await new Promise((resolve) => setTimeout(resolve, Math.min(100, 20 + waited / 20)))
  }
}

export const testToken = (environment: Environment = 'prod'): string =>
  newToken({ brand: 'kt', environment, keyId: randomBase62(16) as KeyId })

function houseConfig(
  { postgresUrl, kafkaBrokers, topics, workflowBundle }: Servers,
  temporalAddress: string,
  { leaks = {}, delivery = {} }: Pick<HouseOptions, 'leaks' | 'delivery'>,
): Config {
  return {
    postgresUrl,
    kafkaBrokers,
    temporalAddress,
    temporalNamespace: 'default',
    taskQueue: `keyturn-${randomBase62(8)}`,
    topics,
    brand: 'kt',
    kek: randomBytes(32),
    operatorToken: randomBase62(32),
    leaks: { atOnce: ['trade:*', 'withdraw:*'], overlapMs: 3_600_000, ...leaks },
    listen: { host: '127.0.0.1', port: 0 },
    publicUrl: 'http://127.0.0.1:9',
    trustedProxies: 0,
    delivery: { webhookAllow: [{ family: 'ipv4', address: '127.0.0.0', prefix: 8 }], ...delivery },
    logLevel: 'silent',
    startupWaitMs: 10_000,
    collectorIntervalMs: 100,
    sessionKeyPeriodMs: 30 * DAY_MS,
    workflowBundle,
  }
}

/** The library's environment on a server that runs already; it knows how to, but its types don't say so. */
async function timeSkipping({ timeSkippingServer }: Servers): Promise<{ env: TestWorkflowEnvironment; stop(): Promise<void> }> {
  if (timeSkippingServer === undefined) throw new Error('skipped time needs a time-skipping server')
  const { address, stop } = await startTimeSkippingServer(timeSkippingServer)
  const library = TestWorkflowEnvironment as unknown as { create(options: object): Promise<TestWorkflowEnvironment> }
  const env = await library.create({
    server: { type: 'existing' },
    supportsTimeSkipping: true,
    namespace: 'default',
    address,
  })
  return {
    env,
    async stop() {
      await env.teardown()
      await stop()
    },
  }
}
