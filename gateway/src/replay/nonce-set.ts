/** A set of 64-bit numbers that only grows, in one array: 11 to 22 bytes for each (a set of strings takes about a hundred). */
const LEAST_SLOTS = 1_024

export class NonceSet {
  /** Two words for each slot; both 0 in an empty one. Open addressing with linear probing. */
  #words = new Uint32Array(2 * LEAST_SLOTS)
  #size = 0

  get size(): number {
    return this.#size
  }

  has(high: number, low: number): boolean {
    const words = this.#words
    const at = this.#slot(high, low)
    return words[at] !== 0 || words[at + 1] !== 0
  }

  /** Both words at once are never 0. */
  add(high: number, low: number): void {
    // At most three quarters full: probing stays short.
    if (this.#size >= (this.#words.length / 8) * 3) this.#grow()
    const at = this.#slot(high, low)
    if (this.#words[at] !== 0 || this.#words[at + 1] !== 0) return
    this.#words[at] = high
    this.#words[at + 1] = low
    this.#size += 1
  }

  /** Where the number is, or the empty slot where it belongs. */
  #slot(high: number, low: number): number {
    const words = this.#words
    const mask = words.length - 1
    let at = (low << 1) & mask
    for (;;) {
      const h = words[at]
      const l = words[at + 1]
      if ((h === high && l === low) || (h === 0 && l === 0)) return at
      at = (at + 2) & mask
    }
  }

  #grow(): void {
    const before = this.#words
    this.#words = new Uint32Array(2 * before.length)
    this.#size = 0
    for (let at = 0; at < before.length; at += 2) {
      const [high = 0, low = 0] = [before[at], before[at + 1]]
      if (high !== 0 || low !== 0) this.add(high, low)
    }
  }
}
