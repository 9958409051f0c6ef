import { CancellationScope, condition } from '@temporalio/workflow'

/** Of two turns that come at the same moment the heavier one is taken; what the other was about is kept in the rotation's state. */
const WEIGHT = { 'new-key-leaked': 0, 'roll-back': 1, 'old-key-leaked': 2, emergency: 3 } as const

/** A change of direction that breaks into whatever the rotation is waiting for. */
export interface Turn {
  readonly course: keyof typeof WEIGHT
  readonly reason: string
  readonly actor: string
}

export class TurnTaken extends Error {
  readonly turn: Turn

  constructor(turn: Turn) {
    super(turn.reason)
    this.turn = turn
    this.name = 'TurnTaken'
  }
}

/** How a rotation waits, and how it is broken off. One thing is waited for at a time. */
export class Turns {
  /** The roll-back or emergency that was taken last: who asked for it, and why. */
  last: Turn | undefined
  private next: Turn | undefined
  private waiting: CancellationScope | undefined

  take(turn: Turn): void {
    if (this.next === undefined || WEIGHT[turn.course] >= WEIGHT[this.next.course]) this.next = turn
    if (turn.course === 'roll-back' || turn.course === 'emergency') this.last = turn
    this.waiting?.cancel()
  }

  /** Throws TurnTaken when a turn was taken since the last one was thrown. */
  breakOff(): void {
    const turn = this.next
    if (turn === undefined) return
    this.next = undefined
    throw new TurnTaken(turn)
  }

  /** Waits until something holds or a time comes (false); a turn breaks in. */
  async wait(met: () => boolean, until?: number): Promise<boolean> {
    this.breakOff()
    const awake = () => this.next !== undefined || met()
    const inTime =
      until === undefined ? await condition(awake).then(() => true) : await condition(awake, Math.max(1, until - Date.now()))
    this.breakOff()
    return inTime
  }

  /** Runs work that may take long; a turn cancels it. */
  async interruptible<T>(work: () => Promise<T>): Promise<T> {
    this.breakOff()
    const scope = new CancellationScope()
    this.waiting = scope
    try {
      return await scope.run(work)
    } catch (error) {
      this.breakOff()
      throw error
    } finally {
      this.waiting = undefined
    }
  }
}
