/** What was counted since the last cut: per key the outcomes and the busiest sources. Bounded in memory. */
import {
  type GatewayId,
  isReplayOutcome,
  type KeyId,
  USAGE_OUTCOMES,
  type UsageOutcome,
  type UsageReport,
} from '@keyturn/contract'

/** In a report. */
const TOP_SOURCES = 10
/** Of each outcome that somebody else than the client may have caused. */
const TOP_SUSPECTS = 3
/** Followed per key, so that the busiest ten are found among more. */
const SOURCES_PER_KEY = 50
/** Followed over all keys. Past it only outcomes are counted, exactly. */
const SOURCES_IN_ALL = 100_000

interface Count {
  count: number
  readonly firstAt: number
  lastAt: number
  /** The key's; of replays and the like its own, for they need not be its client's. */
  readonly sources: Map<string, Source>
}
interface Source {
  readonly address: string
  readonly userAgent: string
  count: number
  lastAt: number
}
interface KeyUsage {
  readonly outcomes: Map<UsageOutcome, Count>
  readonly sources: Map<string, Source>
}

export interface SourceOfRequest {
  readonly address: string
  readonly userAgent: string
}

export class UsageWindow {
  /** When it began, ms since the epoch. */
  readonly from: number
  readonly #keys = new Map<KeyId, KeyUsage>()
  #sources = 0

  constructor(from: number) {
    this.from = from
  }

  /** How many keys were used. */
  get size(): number {
    return this.#keys.size
  }

  /** @param source nothing when the request has been counted already, under another outcome */
  count(keyId: KeyId, outcome: UsageOutcome, at: number, source: SourceOfRequest | undefined): void {
    let usage = this.#keys.get(keyId)
    if (usage === undefined) {
      usage = { outcomes: new Map(), sources: new Map() }
      this.#keys.set(keyId, usage)
    }
    let counted = usage.outcomes.get(outcome)
    if (counted === undefined) {
      counted = { count: 0, firstAt: at, lastAt: at, sources: isReplayOutcome(outcome) ? new Map() : usage.sources }
      usage.outcomes.set(outcome, counted)
    }
    counted.count += 1
    counted.lastAt = at
    if (source !== undefined) this.#countSource(counted.sources, source, at)
  }

  #countSource(sources: Map<string, Source>, { address, userAgent }: SourceOfRequest, at: number): void {
    const name = `${address} ${userAgent}`
    const known = sources.get(name)
    if (known !== undefined) {
      known.count += 1
      known.lastAt = at
      return
    }
    if (sources.size >= SOURCES_PER_KEY) this.#dropRarest(sources)
    else if (this.#sources >= SOURCES_IN_ALL) return
    else this.#sources += 1
    sources.set(name, { address, userAgent, count: 1, lastAt: at })
  }

  #dropRarest(sources: Map<string, Source>): void {
    let rarest: string | undefined
    let least: Source | undefined
    for (const [name, source] of sources) {
      if (least === undefined || source.count < least.count || (source.count === least.count && source.lastAt < least.lastAt)) {
        rarest = name
        least = source
      }
    }
    if (rarest !== undefined) sources.delete(rarest)
  }

  /** One report per key that was used. */
  *reports(gatewayId: GatewayId, to: number): Generator<UsageReport> {
    for (const [keyId, { outcomes, sources }] of this.#keys) {
      yield {
        gatewayId,
        keyId,
        from: iso(this.from),
        to: iso(to),
        outcomes: USAGE_OUTCOMES.flatMap((outcome) => {
          const counted = outcomes.get(outcome)
          if (counted === undefined) return []
          const { count, firstAt, lastAt } = counted
          const suspects = isReplayOutcome(outcome) ? { sources: busiest(counted.sources, TOP_SUSPECTS) } : {}
          return [{ outcome, count, firstAt: iso(firstAt), lastAt: iso(lastAt), ...suspects }]
        }),
        sources: busiest(sources, TOP_SOURCES),
      }
    }
  }
}

const iso = (at: number): string => new Date(at).toISOString()

const busiest = (sources: ReadonlyMap<string, Source>, most: number): UsageReport['sources'] =>
  [...sources.values()]
    .sort((a, b) => b.count - a.count || b.lastAt - a.lastAt)
    .slice(0, most)
    .map((source) => ({ ...source, lastAt: iso(source.lastAt) }))
