/** Runs a scan and tells what it found. Nothing of it needs the network. */
import { closeSync, openSync, writeFileSync } from 'node:fs'
import { dirname, relative, resolve } from 'node:path'
import { Failure, UsageFailure } from '../failure.ts'
import { type Output, plain } from '../output.ts'
import { kindOfPath, type ScanTools, scanPath } from './files.ts'
import { type Finding, Findings, LISTED, redactor, type ScanReport } from './findings.ts'
import type { HistoryRange } from './history.ts'
import { findIgnoreFile, type IgnoreRules, NO_RULES, readIgnoreFile } from './ignore-file.ts'
import { TokenFinder } from './token-finder.ts'

export interface ScanOptions {
  readonly brands: readonly string[]
  readonly of: 'files' | 'history' | 'staged'
  readonly range: HistoryRange
  readonly skipBinary: boolean
  /** A file; none when false; looked for when true. */
  readonly ignoreFile: string | boolean
  /** A file, or `-` for standard output. */
  readonly sarif?: string | undefined
}

/**
 * @param failed called, once or more, when something is found or can't be read
 * @throws Failure, without a token in it
 */
export async function runScan(
  paths: readonly string[],
  options: ScanOptions,
  output: Output,
  failed: () => void,
): Promise<ScanReport> {
  try {
    return await scanAndTell(paths, options, output, failed)
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    const redact = redactor(options.brands)
    const Kind = error instanceof UsageFailure ? UsageFailure : Failure
    throw new Kind(redact(error.message), error.hint === undefined ? undefined : redact(error.hint))
  }
}

async function scanAndTell(
  paths: readonly string[],
  options: ScanOptions,
  output: Output,
  failed: () => void,
): Promise<ScanReport> {
  const toStdout = options.sarif === '-'
  const sarif = options.sarif === undefined || toStdout ? undefined : openReport(options.sarif)
  const findings = new Findings(options.brands, (finding) => {
    failed()
    if (!output.json && !toStdout) output.line(lineOf(finding, output))
  })
  const tools: ScanTools = { finder: new TokenFinder(options.brands), findings, skipBinary: options.skipBinary }
  const root = options.of === 'files' ? scanFiles(paths, options, tools) : await scanRepository(paths, options, tools, output)
  const report = findings.report()
  if (report.unread > 0) failed()
  if (sarif !== undefined || toStdout) {
    const { sarifOf } = await import('./sarif.ts')
    const text = `${JSON.stringify(sarifOf(report, root), null, 2)}\n`
    if (sarif === undefined) process.stdout.write(text)
    else {
      writeFileSync(sarif, text)
      closeSync(sarif)
    }
  }
  if (output.json) output.result(report, () => '')
  else tellSummary(report, options, output)
  return report
}

/** Before the scan, so that a report which can't be written is known at once. */
function openReport(path: string): number {
  try {
    return openSync(path, 'w')
  } catch (error) {
    throw new Failure(`${path} can not be written`, (error as NodeJS.ErrnoException).code, { cause: error })
  }
}

function scanFiles(paths: readonly string[], options: ScanOptions, tools: ScanTools): string {
  const known = new Map<string | undefined, IgnoreRules>()
  const plans = paths.map((path) => {
    const full = resolve(path)
    const directory = kindOfPath(path) === 'directory' ? full : dirname(full)
    const file = ignoreFileOf(directory, options)
    // Patterns of a file that was named are relative to what is scanned.
    const root = file === undefined || options.ignoreFile !== true ? directory : dirname(file)
    const rules = known.get(file) ?? rulesOf(file)
    known.set(file, rules)
    return { path, ruled: relative(root, full), rules }
  })
  for (const { path, ruled, rules } of plans) scanPath(path, ruled, rules, tools)
  return process.cwd()
}

async function scanRepository(
  [path = '.', ...others]: readonly string[],
  options: ScanOptions,
  tools: ScanTools,
  output: Output,
): Promise<string> {
  if (others.length > 0) throw new UsageFailure('One repository at a time', 'Name one directory, or none for this one.')
  const directory = resolve(kindOfPath(path) === 'directory' ? path : dirname(path))
  const { Git } = await import('./git.ts')
  const git = new Git(directory)
  const root = await git.root()
  const rules = rulesOf(ignoreFileOf(root, options))
  if (options.of === 'staged') {
    if (root === undefined) throw new UsageFailure('A bare repository has nothing staged')
    const { scanStaged } = await import('./staged.ts')
    await scanStaged(git, rules, tools)
  } else {
    const { scanHistory } = await import('./history.ts')
    await scanHistory(git, options.range, rules, tools)
    if (await git.isShallow())
      output.note('This clone is shallow: what is before it was not scanned. `git fetch --unshallow` gets it.')
  }
  return root ?? directory
}

function ignoreFileOf(directory: string | undefined, { ignoreFile }: ScanOptions): string | undefined {
  if (ignoreFile !== true) return ignoreFile || undefined
  return directory === undefined ? undefined : findIgnoreFile(directory)
}

const rulesOf = (file: string | undefined): IgnoreRules => (file === undefined ? NO_RULES : readIgnoreFile(file))

const SHORT_COMMIT = 12

/** `path:line:column key … (environment) sha256:…`; in a history as `git show` takes it: `commit:path:line:column`. */
function lineOf(finding: Finding, output: Output): string {
  const { path, commit, object, inName, line, column, keyId, environment, fingerprint } = finding
  const short = (id: string): string => id.slice(0, SHORT_COMMIT)
  const place = [
    ...(commit === undefined ? [] : [short(commit)]),
    ...(path === undefined ? [] : [plain(path)]),
    ...(commit === undefined && path === undefined && object !== undefined ? [short(object)] : []),
    ...(inName ? ['name'] : [line, column]),
  ]
  return `${output.paint('bold', place.join(':'))} key ${keyId} (${environment}) ${fingerprint}`
}

function tellSummary(report: ScanReport, { of }: ScanOptions, output: Output): void {
  const { found, unread, unreadable, scanned, skipped } = report
  for (const { path, reason } of unreadable) output.note(`${plain(path)}: could not be read: ${reason}`)
  if (Math.max(found, unread) > LISTED) output.note(`Only the first ${LISTED} are listed.`)
  const megabytes = (scanned.bytes / 1e6).toFixed(1)
  const parts = [
    `${count(found, 'token')} in ${count(scanned.files, of === 'files' ? 'file' : 'object')}, ${megabytes} MB`,
    ...(unread > 0 ? [`${unread} could not be read`] : []),
    ...(skipped.accepted > 0 ? [`${skipped.accepted} accepted by fingerprint`] : []),
    ...(skipped.ignored > 0 ? [`${skipped.ignored} ignored`] : []),
    ...(skipped.binary > 0 ? [`${skipped.binary} binary`] : []),
  ]
  output.note(parts.join('; '))
}

const count = (n: number, thing: string): string => `${n} ${thing}${n === 1 ? '' : 's'}`
