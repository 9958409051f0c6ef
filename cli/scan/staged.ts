/** Scans what the next commit would bring in: tokens of staged files that the last commit's version of the file does not hold. */
import { Readable } from 'node:stream'
import { type ScanTools, scanName } from './files.ts'
import { Findings } from './findings.ts'
import type { Git } from './git.ts'
import type { IgnoreRules } from './ignore-file.ts'
import { type Hit, reportHit, scanObjects } from './objects.ts'

interface StagedFile {
  readonly path: string
  readonly object: string
  /** Its version in the last commit; zeros when it has none. */
  readonly before: string
}

const SUBMODULE = '160000'

export async function scanStaged(git: Git, rules: IgnoreRules, tools: ScanTools): Promise<void> {
  const staged: StagedFile[] = []
  for await (const file of stagedFiles(git)) {
    if (rules.ignores(file.path)) {
      tools.findings.skipped.ignored++
      continue
    }
    if (!isObject(file.before)) scanName(file.path, file.path, rules, tools)
    staged.push(file)
  }
  const hits = await read(
    git,
    staged.map(({ object }) => object),
    tools,
  )
  const affected = staged.filter(({ object }) => hits.has(object))
  // What was there before is no news, and not counted.
  const aside = { ...tools, findings: new Findings([], () => {}) }
  const before = await read(git, affected.map((file) => file.before).filter(isObject), aside)
  for (const file of affected) {
    const known = new Set(before.get(file.before)?.tokens.map(({ tokenSha256 }) => tokenSha256))
    const { tokens = [], ...rest } = hits.get(file.object) ?? {}
    const fresh = tokens.filter(({ tokenSha256 }) => !known.has(tokenSha256))
    reportHit({ type: 'blob', more: 0, ...rest, tokens: fresh }, { path: file.path, object: file.object }, rules, tools)
  }
}

const isObject = (id: string): boolean => !/^0+$/.test(id)

function read(git: Git, ids: readonly string[], tools: ScanTools): Promise<Map<string, Hit>> {
  const lines = [...new Set(ids)].map((id) => `${id}\n`)
  return scanObjects((reader) => git.readObjects(Readable.from(lines), reader), ['blob'], tools)
}

/** Of `git diff-index`: `:<old mode> <new mode> <old id> <new id> <status>`, then the path. */
async function* stagedFiles(git: Git): AsyncGenerator<StagedFile> {
  const base = await git.text(['rev-parse', '--quiet', '--verify', 'HEAD']).catch(() => emptyTree(git))
  const changes = git.start(['diff-index', '--cached', '--raw', '-z', '--no-renames', '--diff-filter=d', base, '--'])
  let change: string[] | undefined
  for await (const item of git.items(changes)) {
    if (change === undefined) {
      change = item.toString('latin1').split(' ')
      continue
    }
    const [, mode = '', before = '', object = ''] = change
    change = undefined
    if (mode !== SUBMODULE && isObject(object)) yield { path: item.toString('utf8'), object, before }
  }
}

/** What a repository without a commit is compared with. */
const emptyTree = (git: Git): Promise<string> => git.text(['hash-object', '-t', 'tree', '--stdin'])
