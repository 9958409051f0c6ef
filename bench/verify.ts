/**
 * What one bearer request costs at a gateway that holds a million keys: beside the work that can't be left out (one SHA-256,
 * one look-up in a Map of the same size), and beside prefixed-api-key's check.
 */
import { hash, randomBytes } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type KeyRecord, tokenSha256 } from '@keyturn/contract'
import { createVerify, KeyCache } from '@keyturn/gateway'
import { checkAPIKey, extractLongToken, extractShortToken, hashLongToken } from 'prefixed-api-key'
import { recordOf, tokenOf } from './keys.ts'
import { settledMemory } from './memory.ts'
import { createRandom, median } from './statistics.ts'

/** So many requests are timed at once: short enough that their strings are as fresh as those of a request. */
const BATCH = 64
const WARM_UP_ROUNDS = 3
const UNKNOWN = 2_000
const HASHES_AT_HAND = 2_000

export interface VerifyFigures {
  readonly keys: number
  readonly rounds: number
  readonly perRound: number
  /** Microseconds for one, medians over the rounds. */
  readonly us: {
    /** The work that can't be left out: one SHA-256 in base64, one look-up in a Map of as many. */
    readonly floor: number
    readonly verify: number
    /** The same for a token that no key has, well-formed. */
    readonly unknown: number
    /** prefixed-api-key: `checkAPIKey` alone, the stored hash at hand. */
    readonly check: number
    /** prefixed-api-key with the look-up of the stored hash in a Map of as many. */
    readonly prefixed: number
  }
  /** Medians over the rounds of the ratio in each. */
  readonly overFloor: number
  readonly fasterThanCheck: number
  readonly fasterThanPrefixed: number
  /** On the heap and in arrays beside it. */
  readonly bytesPerKey: number
}

interface Contestant {
  /** The token of a request: any one of those that are asked for. */
  readonly ask: (any: number) => string
  /** Whether it was decided as it should be. */
  readonly decide: (token: string, any: number) => boolean
}

export async function measureVerify({ keys = 1_000_000, rounds = 150, perRound = 2_560 } = {}): Promise<VerifyFigures> {
  const headers = new Headers(keys, tokenOf(0))
  const before = await settledMemory()
  const cache = new KeyCache()
  for (let i = 0; i < keys; i++) {
    const token = tokenOf(i)
    // As it comes from Kafka: strings made by concatenation are larger than those of a parser.
    cache.apply(JSON.parse(JSON.stringify(recordOf(i, token))) as KeyRecord)
    headers.add(token)
  }
  const bytesPerKey = ((await settledMemory()) - before) / keys
  const bare = new Map<string, number>()
  for (let i = 0; i < keys; i++) bare.set(tokenSha256(headers.at(i)), 1)
  const unknown = new Headers(UNKNOWN, tokenOf(0))
  for (let i = 0; i < UNKNOWN; i++) unknown.add(tokenOf(keys + i))
  const prefixed = prefixedKeys(keys)
  const known = Array.from({ length: HASHES_AT_HAND }, (_, i) => hashLongToken(extractLongToken(prefixed.headers.at(i))))
  const verify = createVerify(cache, ['prod'])
  const now = Date.UTC(2026, 6, 1)

  const contestants = {
    floor: { ask: (any) => headers.at(any), decide: (token) => bare.get(hash('sha256', token, 'base64')) === 1 },
    verify: { ask: (any) => headers.at(any), decide: (token) => verify(token, now).outcome === 'accepted' },
    unknown: { ask: (any) => unknown.at(any), decide: (token) => verify(token, now).outcome === 'unknown' },
    // The stored hash is at hand, without a look-up: in its favour.
    check: {
      ask: (any) => prefixed.headers.at(any % HASHES_AT_HAND),
      decide: (token, any) => checkAPIKey(token, known[any % HASHES_AT_HAND] ?? ''),
    },
    prefixed: {
      ask: (any) => prefixed.headers.at(any),
      decide: (token) => checkAPIKey(token, prefixed.hashes.get(extractShortToken(token)) ?? ''),
    },
  } satisfies Record<string, Contestant>
  const times = await race(contestants, rounds, perRound)
  return {
    keys,
    rounds,
    perRound,
    us: {
      floor: median(times.floor),
      verify: median(times.verify),
      unknown: median(times.unknown),
      check: median(times.check),
      prefixed: median(times.prefixed),
    },
    overFloor: median(times.verify.map((us, i) => us / (times.floor[i] ?? us))),
    fasterThanCheck: median(times.check.map((us, i) => us / (times.verify[i] ?? us))),
    fasterThanPrefixed: median(times.prefixed.map((us, i) => us / (times.verify[i] ?? us))),
    bytesPerKey,
  }
}

/** Lets all contestants do the same number of decisions in each round, and begins each round with another one. @returns microseconds for one, per round */
async function race<Name extends string>(
  contestants: Readonly<Record<Name, Contestant>>,
  rounds: number,
  perRound: number,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(contestants) as Name[]
  const times = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, number[]>
  const random = createRandom(1)
  for (let round = 0; round < WARM_UP_ROUNDS + rounds; round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round) % names.length]
      if (name === undefined) continue
      const us = time(contestants[name], perRound, random)
      if (round >= WARM_UP_ROUNDS) times[name].push(us)
    }
    await nextTurn()
  }
  return times
}

function time({ ask, decide }: Contestant, count: number, random: () => number): number {
  let nanoseconds = 0n
  let right = 0
  for (let done = 0; done < count; done += BATCH) {
    const picks = Array.from({ length: BATCH }, () => Math.floor(random() * 2 ** 31))
    const tokens = picks.map(ask)
    const start = process.hrtime.bigint()
    for (let i = 0; i < BATCH; i++) if (decide(tokens[i] as string, picks[i] as number)) right += 1
    nanoseconds += process.hrtime.bigint() - start
  }
  const decided = Math.ceil(count / BATCH) * BATCH
  if (right !== decided) throw new Error(`the bench is wrong: ${right} of ${decided} decisions were right`)
  return Number(nanoseconds) / 1_000 / decided
}

/** Tokens as bytes outside the heap, each made into a string when it is asked for: a slice of a header's value, as in a request. */
class Headers {
  readonly #bytes: Buffer
  readonly #length: number
  readonly #size: number
  #used = 0

  /** @param example all tokens are as long as this one */
  constructor(size: number, example: string) {
    this.#size = size
    this.#length = `Bearer ${example}`.length
    this.#bytes = Buffer.alloc(size * this.#length)
  }

  add(token: string): void {
    const written = this.#bytes.write(`Bearer ${token}`, this.#used, 'latin1')
    if (written !== this.#length) throw new Error('tokens of one kind have one length')
    this.#used += written
  }

  at(any: number): string {
    const start = (any % this.#size) * this.#length
    return this.#bytes.toString('latin1', start, start + this.#length).slice('Bearer '.length)
  }
}

/** Keys of prefixed-api-key's format, with the hashes that its users store. */
function prefixedKeys(count: number): { headers: Headers; hashes: Map<string, string> } {
  const headers = new Headers(count, 'kt_12345678_123456789012345678901234')
  const hashes = new Map<string, string>()
  for (let i = 0; i < count; i++) {
    const short = i.toString(36).padStart(8, '0')
    const long = randomBytes(18).toString('hex').slice(0, 24)
    headers.add(`kt_${short}_${long}`)
    hashes.set(short, hashLongToken(long))
  }
  return { headers, hashes }
}
