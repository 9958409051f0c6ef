/**
 * Room for bodies that have to be held until they are compared. A body takes as much of it as has arrived, and those of one owner (an address, a key)
 * take a part at most. Where it is full, the body that has been on its way the longest has to go: whoever is slow keeps nobody else out.
 */
import type { BodyFlaw, BodyLimits, RequestBody } from '../body.ts'

export interface BodyRoomOptions {
  /** Bytes of all bodies at one time. */
  readonly most: number
  /** Bytes of one owner's. */
  readonly mostEach: number
  readonly clock: () => number
}

/** So long a body keeps its place, and a newer one has to go instead: where all are quick, they must not drive each other out. */
const KEPT_MS = 1_000

interface Guest {
  readonly owner: string
  readonly since: number
  readonly sendAway: () => void
  bytes: number
}
/** The oldest first. */
interface Guests {
  readonly all: Set<Guest>
  bytes: number
}

export class BodyRoom {
  readonly #options: BodyRoomOptions
  readonly #guests: Guests = { all: new Set(), bytes: 0 }
  readonly #byOwner = new Map<string, Guests>()

  constructor(options: BodyRoomOptions) {
    this.#options = options
  }

  /** What is taken, in bytes. */
  get taken(): number {
    return this.#guests.bytes
  }

  /**
   * Reads a body that has its place here until it is whole.
   * @param announced what it takes from the start where it does not say what has arrived
   * @returns `no-room` when it had to go
   */
  async read(
    owner: string,
    body: RequestBody,
    announced: number,
    limits: Pick<BodyLimits, 'most' | 'withinMs'>,
  ): Promise<Buffer | BodyFlaw | 'no-room'> {
    const stopped = new AbortController()
    const guest: Guest = { owner, since: this.#options.clock(), bytes: 0, sendAway: () => stopped.abort() }
    const sentAway = new Promise<'no-room'>((resolve) => {
      stopped.signal.addEventListener('abort', () => resolve('no-room'), { once: true })
    })
    this.#enter(guest)
    try {
      if (body.tellsArrival !== true) this.#take(guest, announced)
      if (stopped.signal.aborted) return 'no-room'
      const arrived = (bytes: number): void => this.#take(guest, bytes)
      return await Promise.race([sentAway, body.read({ ...limits, stop: stopped.signal, arrived })])
    } finally {
      this.#leave(guest)
    }
  }

  #enter(guest: Guest): void {
    const own = this.#byOwner.get(guest.owner) ?? { all: new Set(), bytes: 0 }
    this.#byOwner.set(guest.owner, own)
    for (const { all } of [this.#guests, own]) all.add(guest)
  }

  #take(guest: Guest, bytes: number): void {
    const { most, mostEach } = this.#options
    const own = this.#byOwner.get(guest.owner)
    if (own === undefined || !own.all.has(guest)) return
    guest.bytes += bytes
    for (const guests of [own, this.#guests]) guests.bytes += bytes
    while (own.bytes > mostEach) this.#makeRoom(own, guest)
    while (this.#guests.bytes > most) this.#makeRoom(this.#guests, guest)
  }

  #makeRoom({ all }: Guests, newcomer: Guest): void {
    const [oldest = newcomer] = all
    const gone = this.#options.clock() - oldest.since < KEPT_MS ? newcomer : oldest
    this.#leave(gone)
    gone.sendAway()
  }

  #leave(guest: Guest): void {
    const own = this.#byOwner.get(guest.owner)
    if (own === undefined || !own.all.delete(guest)) return
    this.#guests.all.delete(guest)
    for (const guests of [own, this.#guests]) guests.bytes -= guest.bytes
    if (own.all.size === 0) this.#byOwner.delete(guest.owner)
  }
}
