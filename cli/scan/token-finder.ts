/** Finds tokens in bytes that come in pieces of any size, with memory that does not depend on how many come. */
import { longestToken, parseToken, scannerExpression, type TokenParts, tokenSha256 } from '@keyturn/contract/token'
import { TextPosition } from './text-position.ts'

/** What is known of a token without the token. */
export interface FoundToken extends TokenParts {
  /** As the contract's verifier: base64. */
  readonly tokenSha256: string
  /** Both from 1; columns count characters. */
  readonly line: number
  readonly column: number
  readonly length: number
}

const ROOM_BYTES = 1 << 20
/** Less room than this is not worth a read. */
const LEAST_ROOM_BYTES = 1 << 16

interface Needle {
  readonly bytes: Buffer
  /** Bytes from one character to the next: 2 in UTF-16. */
  readonly step: 1 | 2
  readonly longest: number
  readonly candidate: RegExp
}

interface Match {
  readonly at: number
  readonly token: string
  readonly parts: TokenParts
}

export class TokenFinder {
  readonly #starts: readonly string[]
  readonly #needles: readonly Needle[]
  /** How many bytes from its first one tell whether it is a token: all of it and the character after, in UTF-16. */
  readonly #reach: number
  readonly #buffer = Buffer.allocUnsafe(ROOM_BYTES)
  #filled = 0
  /** Tokens that begin before this byte have been found. */
  #searched = 0
  /** `#position` is that of this byte. */
  #counted = 0
  #position: TextPosition | undefined
  #found: (token: FoundToken) => void = () => {}

  constructor(brands: readonly string[]) {
    this.#starts = brands.map((brand) => `${brand}_`)
    this.#needles = brands.flatMap((brand) => {
      const start = `${brand}_`
      // The contract's expression decides; the bytes only say where it is worth trying.
      const needle = { longest: longestToken(brand), candidate: new RegExp(scannerExpression(brand), 'y') }
      return [
        { ...needle, bytes: Buffer.from(start, 'latin1'), step: 1 as const },
        // In UTF-16 of either byte order, these stand between the first letter's ASCII byte and the last one's.
        { ...needle, bytes: Buffer.from(start, 'utf16le').subarray(0, -1), step: 2 as const },
      ]
    })
    this.#reach = 2 * (Math.max(...this.#needles.map(({ longest }) => longest)) + 2)
  }

  /** Whether it is worth looking into a short text. */
  mayHold(text: string): boolean {
    return this.#starts.some((start) => text.includes(start))
  }

  /** A new text begins; its tokens go to `found`, in their order. */
  begin(found: (token: FoundToken) => void): void {
    this.#found = found
    this.#filled = 0
    this.#searched = 0
    this.#counted = 0
    this.#position = undefined
  }

  /** Where the next bytes may be put; never empty. `took` then says how many have been. */
  room(): Buffer {
    if (this.#buffer.length - this.#filled < LEAST_ROOM_BYTES) {
      this.#search((this.#filled - this.#reach) & ~1)
      this.#forget()
    }
    return this.#buffer.subarray(this.#filled)
  }

  took(bytes: number): void {
    this.#filled += bytes
  }

  /** Copies bytes in, for those who can't read into `room`. */
  write(bytes: Buffer): void {
    for (let rest = bytes; rest.length > 0; ) {
      const copied = rest.copy(this.room())
      this.took(copied)
      rest = rest.subarray(copied)
    }
  }

  /** No more bytes come. */
  end(): void {
    this.#search(this.#filled)
  }

  /** Finds the tokens that begin before byte `until`. */
  #search(until: number): void {
    const bytes = this.#buffer.subarray(0, this.#filled)
    // Text has no NUL, UTF-16 of ASCII has: looking for one costs next to nothing.
    const hasNul = bytes.includes(0, this.#searched)
    const matches: Match[] = []
    for (const needle of this.#needles) {
      if (needle.step === 2 && !hasNul) continue
      for (
        let at = bytes.indexOf(needle.bytes, this.#searched);
        at !== -1 && at < until;
        at = bytes.indexOf(needle.bytes, at + 1)
      ) {
        const match = matchAt(bytes, at, needle)
        if (match !== undefined) matches.push(match)
      }
    }
    this.#searched = until
    for (const { at, token, parts } of matches.sort((a, b) => a.at - b.at)) {
      const { line, column } = this.#positionOf(at)
      this.#found({ ...parts, tokenSha256: tokenSha256(token), line, column, length: token.length })
    }
  }

  #positionOf(at: number): TextPosition {
    this.#position ??= this.#start()
    this.#counted += this.#position.advance(this.#buffer.subarray(this.#counted, at))
    return this.#position
  }

  #start(): TextPosition {
    const position = new TextPosition(this.#buffer.subarray(0, this.#filled))
    this.#counted = position.mark
    return position
  }

  /** What has been searched and counted goes: an even number of bytes, so that a UTF-16 unit begins at every even one. */
  #forget(): void {
    this.#positionOf(this.#searched)
    this.#buffer.copyWithin(0, this.#counted, this.#filled)
    this.#filled -= this.#counted
    this.#searched -= this.#counted
    this.#counted = 0
  }
}

function matchAt(bytes: Buffer, at: number, needle: Needle): Match | undefined {
  const { step, longest } = needle
  if (step === 1) return matchIn(bytes.toString('latin1', at, at + longest + 1), at, needle)
  return (
    matchIn(wideText(bytes, at, longest + 1), at, needle) ?? matchIn(wideText(bytes, at, longest + 1, at % 2 === 0), at, needle)
  )
}

function matchIn(text: string, at: number, { candidate }: Needle): Match | undefined {
  candidate.lastIndex = 0
  const token = candidate.exec(text)?.[0]
  if (token === undefined) return undefined
  const parsed = parseToken(token)
  return parsed.ok ? { at, token, parts: parsed.parts } : undefined
}

/**
 * Up to `length` ASCII characters of UTF-16, the first one's ASCII byte at `at`; the bytes between are NUL.
 * @param littleEndian the byte after a character's belongs to it too: what ends the text can be a letter that is not ASCII
 */
function wideText(bytes: Buffer, at: number, length: number, littleEndian = false): string {
  const end = Math.min(at + 2 * length - 1, bytes.length)
  let text = String.fromCharCode(bytes[at] ?? 0)
  for (let i = at + 2; i < end && bytes[i - 1] === 0; i += 2) {
    if (littleEndian && (bytes[i + 1] ?? 0) !== 0) break
    text += String.fromCharCode(bytes[i] ?? 0)
  }
  return text
}
