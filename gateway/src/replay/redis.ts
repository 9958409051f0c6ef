/**
 * The nonces that all gateways have accepted, in one Redis. While it is away, slow or has forgotten, fail-closed keys get `unavailable`;
 * fail-open ones are checked against what this process has seen.
 */
import { createHash } from 'node:crypto'
import { createClient } from '@redis/client'
import { createThrottle, type Log } from '../log.ts'
import { backOff, within } from '../wait.ts'
import { FUTURE_SKEW_MS, isTimely, type ReplayGuard, type ReplayInput, type Verdict } from './guard.ts'
import { CHECK_SCRIPT } from './redis-script.ts'

export interface RedisAddress {
  /** `redis://` or `rediss://`; it may hold a password, so it is in no log. */
  readonly url: string
  /** Before the names of all its keys. */
  readonly prefix: string
  /** A check that takes longer is `unavailable`. */
  readonly timeoutMs: number
}

export interface RedisGuardOptions extends RedisAddress {
  readonly windowMs: number
  readonly reorder: number
  readonly failOpen: (scopes: readonly string[]) => boolean
  /** What fail-open keys are checked against as well. */
  readonly local: ReplayGuard
  /** ms since the epoch. */
  readonly clock: () => number
  readonly log: Log
}

/** The clocks of the gateways and of Redis differ by no more. */
const CLOCK_SPREAD_MS = 5_000
/** A key that is silent for longer may begin its sequence anew. */
const SEQUENCE_KEPT_MS = 24 * 3_600_000
const MOST_WAITING = 20_000
const SHA1 = createHash('sha1').update(CHECK_SCRIPT).digest('hex')

const VERDICTS: readonly Verdict[] = ['fresh', 'replayed', 'out-of-order', 'unavailable']

export class RedisGuard implements ReplayGuard {
  readonly #options: RedisGuardOptions
  readonly #client
  readonly #throttle = createThrottle()
  readonly #host: string
  /** Which run of a Redis process answers on this connection; nothing while none does. */
  #run: string | undefined
  #closed = false

  constructor(options: RedisGuardOptions) {
    this.#options = options
    this.#host = new URL(options.url).host
    this.#client = createClient({
      url: options.url,
      // What waits for a connection would be sent to another run of Redis than it was meant for.
      disableOfflineQueue: true,
      commandsQueueMaxLength: MOST_WAITING,
      commandOptions: { timeout: 0 },
      maintNotifications: 'disabled',
      pingInterval: 1_000,
      socket: { connectTimeout: 2_000, socketTimeout: 5_000, reconnectStrategy: (retries) => backOff(retries, 50, 1_000) },
    })
    this.#client.on('ready', () => void this.#meet())
    this.#client.on('error', (error: Error) => this.#lose(error))
    this.#client.on('end', () => {
      this.#run = undefined
    })
    this.#client.connect().catch(() => undefined)
  }

  get held(): number {
    return this.#options.local.held
  }

  get ready(): boolean {
    return this.#run !== undefined
  }

  async check(input: ReplayInput, now: number): Promise<Verdict> {
    const { windowMs, failOpen, local } = this.#options
    if (!isTimely(input.created, now, windowMs)) return 'replayed'
    if (!failOpen(input.scopes)) return this.#ask(input, now)
    const here = await local.check(input, now)
    if (here !== 'fresh') return here
    const there = await this.#ask(input, now)
    return there === 'unavailable' ? 'fresh' : there
  }

  get #script(): string[] {
    return ['EVALSHA', SHA1, '3', `${this.#options.prefix}born`]
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#client.destroy()
    await this.#options.local.close()
  }

  async #ask({ keyId, nonce, created, sequence }: ReplayInput, now: number): Promise<Verdict> {
    const { prefix, windowMs, reorder, timeoutMs, log } = this.#options
    const run = this.#run
    if (run === undefined) return 'unavailable'
    if (sequence !== undefined && !(Number.isSafeInteger(sequence) && sequence >= 0)) return 'out-of-order'
    const name = createHash('sha256').update(`${keyId} ${nonce}`).digest('base64url').slice(0, 22)
    // Another gateway's clock may be behind ours: it would take the request for timely for so much longer.
    const keepMs = created * 1_000 + windowMs + CLOCK_SPREAD_MS - now
    const command = [
      [...this.#script, `${prefix}n:${name}`, `${prefix}s:${keyId}`],
      [run, String(now), String(created * 1_000), String(FUTURE_SKEW_MS + CLOCK_SPREAD_MS), String(Math.ceil(keepMs))],
      [sequence === undefined ? '' : String(sequence), String(reorder), String(SEQUENCE_KEPT_MS)],
    ].flat()
    try {
      const reply: unknown = await within(timeoutMs, 'a check in Redis', this.#client.sendCommand(command))
      const verdict = VERDICTS.find((each) => each === reply)
      if (verdict === 'unavailable')
        this.#throttle('young', (more) =>
          log.warn(
            { redis: this.#host, more },
            'Redis has not been remembering for long: refusing what was signed before it did',
          ),
        )
      return verdict ?? 'unavailable'
    } catch (error) {
      return this.#failed(error)
    }
  }

  #failed(error: unknown): Verdict {
    const { log } = this.#options
    const message = error instanceof Error ? error.message : ''
    if (message.includes('OOM command not allowed')) {
      this.#throttle('full', (more) =>
        log.error({ redis: this.#host, more }, 'FULL: Redis has no room for nonces; raise its maxmemory'),
      )
      return 'full'
    }
    if (message.startsWith('NOSCRIPT')) void this.#meet()
    this.#throttle('check', (more) => log.warn({ err: error, redis: this.#host, more }, 'Redis does not answer a replay check'))
    return 'unavailable'
  }

  #lose(error: Error): void {
    const { log } = this.#options
    this.#run = undefined
    if (this.#closed) return
    this.#throttle('away', (more) =>
      log.error({ err: error, redis: this.#host, more }, 'Redis is away: fail-closed keys can not be served'),
    )
  }

  /** Learns which run of Redis this is, and whether it can be relied on. */
  async #meet(): Promise<void> {
    const { clock, log } = this.#options
    this.#run = undefined
    try {
      await this.#client.sendCommand(['SCRIPT', 'LOAD', CHECK_SCRIPT])
      const info = String(await this.#client.sendCommand(['INFO']))
      const field = (name: string): string | undefined => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
      const run = field('run_id')
      if (Number(field('maxmemory') ?? 0) > 0 && field('maxmemory_policy') !== 'noeviction') {
        this.#throttle('policy', () =>
          log.error(
            { redis: this.#host },
            'Redis may evict nonces, so it can not be used: set its maxmemory-policy to noeviction',
          ),
        )
        return
      }
      if (run === undefined || !/^[0-9a-f]{40}$/.test(run)) throw new Error('Redis does not say which run it is')
      // A request of the year 1970: it only has Redis note, if need be, that it remembers from now on.
      await this.#client.sendCommand([...this.#script, 'n', 's', run, String(clock()), '0', '0', '1', '', '0', '1'])
      this.#run = run
      log.info({ redis: this.#host }, 'Redis guards against replays')
    } catch (error) {
      if (!this.#closed)
        this.#throttle('meet', (more) => log.warn({ err: error, redis: this.#host, more }, 'Redis can not be used yet'))
    }
  }
}
