/** What a scan has to say. Nothing here holds a token: its SHA-256 and its key id stand for it. */
import type { Environment } from '@keyturn/contract/environment'
import { scannerExpression } from '@keyturn/contract/token'
import type { IgnoreRules } from './ignore-file.ts'
import type { FoundToken } from './token-finder.ts'

export interface Finding {
  /** As it was given, and then what is below it, with `/`; in a repository from its root. A message has none. */
  readonly path?: string
  /** Where in a history it came in first: the commit, in full. */
  readonly commit?: string
  /** The git object that holds it. */
  readonly object?: string
  /** Not in what the file holds, but in its name. */
  readonly inName?: true
  readonly line: number
  readonly column: number
  readonly length: number
  readonly brand: string
  readonly environment: Environment
  readonly keyId: string
  /** As in a leak report: base64. */
  readonly tokenSha256: string
  /** As in `.keyturnignore`: `sha256:` and the same in hex. */
  readonly fingerprint: string
}

export interface Unreadable {
  readonly path: string
  readonly reason: string
}

export interface ScanReport {
  /** At most `LISTED` of them; `found` counts all. */
  readonly findings: readonly Finding[]
  readonly found: number
  /** At most `LISTED` of them; `unread` counts all. */
  readonly unreadable: readonly Unreadable[]
  readonly unread: number
  readonly scanned: Readonly<Record<'files' | 'bytes', number>>
  readonly skipped: Readonly<Record<'ignored' | 'accepted' | 'binary' | 'links' | 'special', number>>
}

/** A scan of a dump of tokens ends too, and its report can be opened. */
export const LISTED = 10_000

export type Where = Pick<Finding, 'path' | 'commit' | 'object' | 'inName'>

export const fingerprintOf = (tokenSha256: string): string => `sha256:${Buffer.from(tokenSha256, 'base64').toString('hex')}`

/** Collects a report. */
export class Findings {
  readonly #tell: (finding: Finding) => void
  readonly #redact: (text: string) => string
  readonly #findings: Finding[] = []
  readonly #unreadable: Unreadable[] = []
  #found = 0
  #unread = 0
  readonly scanned = { files: 0, bytes: 0 }
  readonly skipped = { ignored: 0, accepted: 0, binary: 0, links: 0, special: 0 }

  /** @param tell called with each finding that is listed, as it is found */
  constructor(brands: readonly string[], tell: (finding: Finding) => void) {
    this.#tell = tell
    this.#redact = redactor(brands)
  }

  add(token: FoundToken, where: Where, rules: Pick<IgnoreRules, 'accepts'>): void {
    const { brand, environment, keyId, tokenSha256, line, column, length } = token
    const fingerprint = fingerprintOf(tokenSha256)
    if (rules.accepts(fingerprint)) {
      this.skipped.accepted++
      return
    }
    this.#found++
    if (this.#found > LISTED) return
    const path = where.path === undefined ? {} : { path: this.#redact(where.path) }
    const finding = { ...where, ...path, line, column, length, brand, environment, keyId, tokenSha256, fingerprint }
    this.#findings.push(finding)
    this.#tell(finding)
  }

  /** Others were found that nobody has looked at. */
  more(count: number): void {
    this.#found += count
  }

  unreadable(path: string, error: unknown): void {
    this.#unread++
    if (this.#unread <= LISTED) this.#unreadable.push({ path: this.#redact(path), reason: reasonOf(error) })
  }

  report(): ScanReport {
    return {
      findings: this.#findings,
      found: this.#found,
      unreadable: this.#unreadable,
      unread: this.#unread,
      scanned: this.scanned,
      skipped: this.skipped,
    }
  }
}

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOENT: 'gone before it was read',
  EIO: 'the disk could not read it',
  ENAMETOOLONG: 'the path is too long',
}

function reasonOf(error: unknown): string {
  const { code = 'unknown error' } = error as { code?: string }
  return REASONS[code] ?? code
}

/** File names can hold tokens too. */
export function redactor(brands: readonly string[]): (text: string) => string {
  const expressions = brands.map((brand) => new RegExp(scannerExpression(brand), 'g'))
  return (text) => expressions.reduce((rest, expression) => rest.replace(expression, withoutSecret), text)
}

const withoutSecret = (token: string): string => `${token.slice(0, token.lastIndexOf('_'))}_…`
