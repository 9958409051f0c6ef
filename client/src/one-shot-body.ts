/**
 * A body that can be read once alone, sent so that it can be sent again all the same while little of it has been read: the part that was is kept, up to a
 * limit. A gateway that refuses a key says so at the header, long before it has seen much of the body.
 */
import type { Bytes } from './bytes.ts'

/** So much of each body under way is kept in memory. */
const KEPT_BYTES = 1 << 20

type Chunk = Uint8Array | string
type Source = ReadableStream<Chunk> | AsyncIterable<Chunk>

const encoder = new TextEncoder()

export class OneShotBody {
  readonly #next: () => Promise<IteratorResult<Chunk, unknown>>
  #kept: Uint8Array[] = []
  #size = 0
  #ended = false
  #lost = false
  #reading: Promise<void> | undefined

  constructor(source: Source) {
    if (source instanceof ReadableStream) {
      const reader = source.getReader()
      this.#next = async () => {
        const { done, value } = await reader.read()
        return done ? { done, value } : { done: false, value }
      }
    } else {
      const iterator = source[Symbol.asyncIterator]()
      this.#next = () => iterator.next()
    }
  }

  /** Whether all of it is still at hand. */
  get isWhole(): boolean {
    return !this.#lost
  }

  /** Reads ahead. @returns all of it when it ends within so many bytes */
  async readUpTo(bytes: number): Promise<Bytes | undefined> {
    while (!this.#ended && this.#size <= bytes) await this.#read()
    if (!this.#ended || this.#size > bytes) return undefined
    const all = new Uint8Array(this.#size)
    let at = 0
    for (const chunk of this.#kept) {
      all.set(chunk, at)
      at += chunk.length
    }
    return all
  }

  /** The body from its beginning. What was not read to its end is left behind, and what it was to read next goes to the one that follows. */
  stream(): ReadableStream<Uint8Array> {
    let at = 0
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          while (at >= this.#kept.length && !this.#ended) await this.#read()
          const chunk = this.#kept[at]
          if (chunk === undefined) return controller.close()
          at += 1
          if (this.#size > KEPT_BYTES) {
            // From here on nobody else will want it.
            this.#lost = true
            this.#kept.splice(0, at)
            at = 0
          }
          controller.enqueue(chunk)
        },
      },
      // Nothing is read before it can be sent.
      { highWaterMark: 0 },
    )
  }

  /** One read at a time, whoever asks. */
  #read(): Promise<void> {
    this.#reading ??= this.#readNext().finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }

  async #readNext(): Promise<void> {
    const { done, value } = await this.#next()
    if (done === true) {
      this.#ended = true
      return
    }
    const chunk = typeof value === 'string' ? encoder.encode(value) : value
    this.#size += chunk.length
    this.#kept.push(chunk)
  }
}
