/** Where in a text a byte stands: line and column, both from 1, columns in characters (Unicode code points). */
import { isAscii } from 'node:buffer'

const LINE_END = 0x0a
const NO_ENCODING = { unit: 1, low: 0, mark: 0 } as const

interface Encoding {
  /** Bytes of a code unit: 1 for UTF-8 and everything like ASCII, 2 for UTF-16. */
  readonly unit: 1 | 2
  /** Which byte of a unit is the low one. */
  readonly low: 0 | 1
  /** Bytes of the byte order mark. */
  readonly mark: number
}

/** As its byte order mark says. */
function encodingOf(start: Buffer): Encoding {
  if (start[0] === 0xff && start[1] === 0xfe) return { unit: 2, low: 0, mark: 2 }
  if (start[0] === 0xfe && start[1] === 0xff) return { unit: 2, low: 1, mark: 2 }
  if (start[0] === 0xef && start[1] === 0xbb && start[2] === 0xbf) return { unit: 1, low: 0, mark: 3 }
  return NO_ENCODING
}

const BINARY_WITHIN = 8_000

/** As git decides: a NUL near the start, unless that is UTF-16. */
export const looksBinary = (start: Buffer): boolean =>
  encodingOf(start).unit === 1 && start.subarray(0, BINARY_WITHIN).includes(0)

/** Goes forward through a text. */
export class TextPosition {
  line = 1
  column = 1
  readonly #encoding: Encoding
  /** How much of `start` is not text. */
  readonly mark: number

  constructor(start: Buffer) {
    this.#encoding = encodingOf(start)
    this.mark = this.#encoding.mark
  }

  /** @returns how many of the bytes it has gone past: all, or in UTF-16 all whole units */
  advance(bytes: Buffer): number {
    if (this.#encoding.unit === 2) return this.#advanceUtf16(bytes)
    let lineStart = 0
    for (let at = bytes.indexOf(LINE_END); at !== -1; at = bytes.indexOf(LINE_END, lineStart)) {
      this.#nextLine()
      lineStart = at + 1
    }
    const line = bytes.subarray(lineStart)
    if (isAscii(line)) this.column += line.length
    else for (const byte of line) if ((byte & 0xc0) !== 0x80) this.column++
    return bytes.length
  }

  #advanceUtf16(bytes: Buffer): number {
    const { low } = this.#encoding
    const whole = bytes.length & ~1
    for (let i = 0; i < whole; i += 2) {
      const high = bytes[i + 1 - low] ?? 0
      if (high === 0 && bytes[i + low] === LINE_END) this.#nextLine()
      // The second half of a surrogate pair is no character of its own.
      else if ((high & 0xfc) !== 0xdc) this.column++
    }
    return whole
  }

  #nextLine(): void {
    this.line++
    this.column = 1
  }
}
