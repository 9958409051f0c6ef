/**
 * How old is what this gateway knows (G3)? Every few seconds it asks Kafka for the end of every partition of the keys topic.
 * Once it has applied everything below those ends, it knows all that had been published when it asked: it is fresh as of
 * then. Judged by the clock at the moment of asking, so that a process that was stopped and continued is stale at once.
 */
export type Freshness = 'loading' | 'fresh' | 'stale'

/** Per partition: the offset that is applied next, or the end. */
export type Offsets = ReadonlyMap<number, number>

interface Question {
  readonly askedAt: number
  readonly ends: Offsets
}

/** More than a lagging gateway needs: the oldest is answered first, and newer ones only refine. */
const MOST_QUESTIONS = 16
/** A clock that was set back makes knowledge look newer than it is. */
const CLOCK_SLACK_MS = 1_000

export class FreshnessTracker {
  readonly #boundMs: number
  #open: Question[] = []
  #asOf: number | undefined

  /** @param boundMs the staleness bound */
  constructor(boundMs: number) {
    this.#boundMs = boundMs
  }

  /** Everything published before this time (ms since the epoch) is in the cache. Nothing while loading. */
  get asOf(): number | undefined {
    return this.#asOf
  }

  /** When the oldest unanswered question was asked. */
  get waitingSince(): number | undefined {
    return this.#open[0]?.askedAt
  }

  /** @param askedAt when the question was sent, before Kafka looked at its ends */
  asked(askedAt: number, ends: Offsets): void {
    if (this.#open.length < MOST_QUESTIONS) this.#open.push({ askedAt, ends })
  }

  /** To be called whenever positions have moved. Returns whether it is fresh as of a later time now. */
  reached(positions: Offsets): boolean {
    let answered = 0
    for (const question of this.#open) {
      for (const [partition, end] of question.ends) {
        if ((positions.get(partition) ?? 0) < end) return this.#settle(answered)
      }
      answered += 1
    }
    return this.#settle(answered)
  }

  #settle(answered: number): boolean {
    const last = this.#open[answered - 1]
    if (last === undefined) return false
    this.#asOf = last.askedAt
    this.#open = this.#open.slice(answered)
    return true
  }

  /** Forgets unanswered questions: the log is read anew, and old ends mean nothing. */
  drop(): void {
    this.#open = []
  }

  judge(now: number): Freshness {
    if (this.#asOf === undefined) return 'loading'
    const age = now - this.#asOf
    return age > this.#boundMs || age < -CLOCK_SLACK_MS ? 'stale' : 'fresh'
  }
}
