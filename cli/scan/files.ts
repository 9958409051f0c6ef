/** Scans files and directories. Synchronous: one file after the other, straight into the finder's memory, is the fastest. */
import { closeSync, constants, type Dirent, fstatSync, openSync, readdirSync, readSync, type Stats, statSync } from 'node:fs'
import { UsageFailure } from '../failure.ts'
import type { Findings } from './findings.ts'
import type { IgnoreRules } from './ignore-file.ts'
import { looksBinary } from './text-position.ts'
import type { TokenFinder } from './token-finder.ts'

export interface ScanTools {
  readonly finder: TokenFinder
  readonly findings: Findings
  readonly skipBinary: boolean
}

type Kind = 'file' | 'directory' | 'link' | 'special'

interface Entry {
  /** The path as the system has it: it need not be UTF-8. */
  readonly raw: Buffer
  /** As people read it. */
  readonly shown: string
  readonly name: string
  /** From the directory of the ignore rules; empty for that directory. */
  readonly ruled: string
  readonly kind: Kind
}

const SLASH = Buffer.from('/')
/** What it holds is compressed; `--history` reads it. */
const GIT = Buffer.from('.git')
/** Without O_NONBLOCK, a pipe that has just taken a file's place would be waited for. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK

/** @throws UsageFailure when there is nothing at a path, or neither a file nor a directory */
export function kindOfPath(path: string): 'file' | 'directory' {
  let kind: Kind
  try {
    kind = kindOf(statSync(path))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageFailure(`${path} can not be scanned`, code === 'ENOENT' ? 'There is nothing there.' : code, { cause: error })
  }
  if (kind === 'file' || kind === 'directory') return kind
  throw new UsageFailure(`${path} can not be scanned`, 'It is neither a file nor a directory.')
}

/**
 * Scans the file or directory at a path. A symbolic link is followed when it is the path itself, and none below it: so there are no
 * loops. What can't be read is noted, and the rest scanned.
 * @param ruled the path from the directory of the ignore rules, with `/`
 */
export function scanPath(path: string, ruled: string, rules: IgnoreRules, tools: ScanTools): void {
  const waiting: Entry[] = [{ raw: Buffer.from(path), shown: path, name: path, ruled, kind: kindOfPath(path) }]
  for (let entry = waiting.pop(); entry !== undefined; entry = waiting.pop()) {
    const { kind } = entry
    if (entry.ruled !== '' && rules.ignores(kind === 'directory' ? `${entry.ruled}/` : entry.ruled)) {
      tools.findings.skipped.ignored++
      continue
    }
    scanName(entry.shown, entry.name, rules, tools)
    if (kind === 'file') scanFile(entry, rules, tools)
    else if (kind === 'directory') for (const each of entriesOf(entry, tools)) waiting.push(each)
    else tools.findings.skipped[kind === 'link' ? 'links' : 'special']++
  }
}

/** Tokens in a name itself: the last part of a path, or all of it. */
export function scanName(path: string, name: string, rules: IgnoreRules, { finder, findings }: ScanTools): void {
  if (!finder.mayHold(name)) return
  finder.begin((token) => findings.add(token, { path, inName: true }, rules))
  finder.write(Buffer.from(name))
  finder.end()
}

function scanFile({ raw, shown }: Entry, rules: IgnoreRules, { finder, findings, skipBinary }: ScanTools): void {
  const { scanned, skipped } = findings
  finder.begin((token) => findings.add(token, { path: shown }, rules))
  let file: number | undefined
  try {
    file = openSync(raw, OPEN_FLAGS)
    if (!fstatSync(file).isFile()) {
      skipped.special++
      return
    }
    for (let size = 0; ; ) {
      const room = finder.room()
      const bytes = readSync(file, room, 0, room.length, null)
      if (bytes === 0) break
      if (skipBinary && size === 0 && looksBinary(room.subarray(0, bytes))) {
        skipped.binary++
        return
      }
      finder.took(bytes)
      size += bytes
      scanned.bytes += bytes
    }
    scanned.files++
  } catch (error) {
    noteUnreadable(error, shown, findings)
  } finally {
    if (file !== undefined) closeSync(file)
  }
  // Also of a file that could be read in part.
  finder.end()
}

/** In order of their names, last first. */
function entriesOf(directory: Entry, { findings }: ScanTools): Entry[] {
  const below = (path: string, name: string): string =>
    path === '' || path === '.' ? name : `${path.replace(/\/$/, '')}/${name}`
  let entries: Dirent<Buffer>[]
  try {
    entries = readdirSync(directory.raw, { withFileTypes: true, encoding: 'buffer' })
  } catch (error) {
    noteUnreadable(error, directory.shown, findings)
    return []
  }
  return entries
    .filter((entry) => !(entry.isDirectory() && entry.name.equals(GIT)))
    .sort((a, b) => Buffer.compare(b.name, a.name))
    .map((entry) => {
      const name = entry.name.toString('utf8')
      const raw = Buffer.concat([directory.raw, SLASH, entry.name])
      return { raw, name, shown: below(directory.shown, name), ruled: below(directory.ruled, name), kind: kindOf(entry) }
    })
}

function noteUnreadable(error: unknown, path: string, findings: Findings): void {
  if ((error as NodeJS.ErrnoException).syscall === undefined) throw error
  findings.unreadable(path, error)
}

function kindOf(entry: Dirent<Buffer> | Stats): Kind {
  if (entry.isFile()) return 'file'
  if (entry.isDirectory()) return 'directory'
  return entry.isSymbolicLink() ? 'link' : 'special'
}
