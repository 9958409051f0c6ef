/** `.keyturnignore`: paths as in .gitignore, and the fingerprints of findings that somebody has accepted. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import ignore, { type Ignore } from 'ignore'
import { UsageFailure } from '../failure.ts'

export const IGNORE_FILE = '.keyturnignore'

export interface IgnoreRules {
  /** @param path from the directory that the patterns are relative to, with `/`; a directory's ends with one */
  ignores(path: string): boolean
  accepts(fingerprint: string): boolean
}

export const NO_RULES: IgnoreRules = { ignores: () => false, accepts: () => false }

/**
 * The ignore file of a directory: its own, else the nearest above it, up to the root of the git work tree. Outside of one only its own
 * counts.
 */
export function findIgnoreFile(directory: string): string | undefined {
  const own = join(directory, IGNORE_FILE)
  if (existsSync(own)) return own
  const above: string[] = []
  for (let at = directory; ; at = dirname(at)) {
    above.push(join(at, IGNORE_FILE))
    if (existsSync(join(at, '.git'))) return above.find((file) => existsSync(file))
    if (at === dirname(at)) return undefined
  }
}

/** @throws UsageFailure when it can't be read, or a fingerprint in it is none */
export function readIgnoreFile(file: string): IgnoreRules {
  const patterns: string[] = []
  const fingerprints = new Set<string>()
  for (const [i, line] of textOf(file).split(/\r?\n/).entries()) {
    if (!line.startsWith('sha256:')) {
      patterns.push(line)
      continue
    }
    const fingerprint = /^sha256:[0-9a-f]{64}(?=\s*(?:#|$))/.exec(line)?.[0]
    if (fingerprint === undefined) {
      throw new UsageFailure(
        `${file}:${i + 1}: not a fingerprint`,
        'It looks like sha256:0123…cdef, with 64 hex digits as a scan prints it; what follows a # is a remark.',
      )
    }
    fingerprints.add(fingerprint)
  }
  return { ignores: matcher(patterns), accepts: (fingerprint) => fingerprints.has(fingerprint) }
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new UsageFailure(`${file} can not be read`, (error as NodeJS.ErrnoException).code, { cause: error })
  }
}

const REMEMBERED_PATHS = 10_000

function matcher(patterns: readonly string[]): (path: string) => boolean {
  const fresh = (): Ignore => ignore({ ignoreCase: false, allowRelativePaths: true }).add(patterns)
  let rules = fresh()
  let asked = 0
  return (path) => {
    // The library remembers every path that it was asked for; a large tree would fill the memory.
    if (++asked % REMEMBERED_PATHS === 0) rules = fresh()
    return rules.ignores(path)
  }
}
