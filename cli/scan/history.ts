/** Scans a git history: each version of each file once, and the messages of commits and tags. */
import { UsageFailure } from '../failure.ts'
import type { ScanTools } from './files.ts'
import type { Git } from './git.ts'
import type { IgnoreRules } from './ignore-file.ts'
import { type Hit, reportHit, scanObjects } from './objects.ts'

export interface HistoryRange {
  /** What `git rev-list` takes, words with spaces between them; everything that refs reach when left out. */
  readonly revisions?: string | undefined
  readonly since?: Date | undefined
}

const FLAGS = ['--all', '--branches', '--not', '--remotes', '--tags']

/**
 * Scans what the commits in the range brought in. A version of a file is told of once: with the first commit that has it at a path
 * which is not ignored.
 * @throws UsageFailure when git does not know the revisions
 */
export async function scanHistory(git: Git, range: HistoryRange, rules: IgnoreRules, tools: ScanTools): Promise<void> {
  const revisions = await revisionsOf(git, range)
  const list = ['rev-list', '--objects', '--no-object-names']
  const blobs = [...list, '--filter=object:type=blob', ...revisions]
  const hits = await scanObjects((reader) => git.readListed(blobs, reader), ['blob'], tools)
  const ignored = hits.size === 0 ? new Set() : await attribute(git, revisions, hits, rules, tools)
  for (const [object, hit] of hits) {
    if (ignored.has(object)) tools.findings.skipped.ignored++
    // A tag can name a blob that no commit has. With a date, what no commit brought in is older than it.
    else if (range.since === undefined) reportHit(hit, { object }, rules, tools)
  }
  const others = [...list, '--filter=tree:0', ...revisions]
  const types = ['commit', 'tag']
  const messages = await scanObjects((reader) => git.readListed(others, reader), types, { ...tools, skipBinary: false })
  for (const [object, hit] of messages) {
    reportHit(hit, hit.type === 'commit' ? { object, commit: object } : { object }, rules, tools)
  }
}

async function revisionsOf(git: Git, { revisions = '--all', since }: HistoryRange): Promise<string[]> {
  const words = revisions.split(/\s+/).filter((word) => word !== '')
  if (words.length === 0 || words.some((word) => word.startsWith('-') && !FLAGS.includes(word))) {
    throw new UsageFailure(
      'That is no range of commits',
      `It looks like main..feature, or HEAD --not --remotes; of options it takes ${FLAGS.join(', ')}.`,
    )
  }
  await git.text(['rev-parse', ...words, '--']).catch((error: unknown) => {
    throw new UsageFailure('git does not know that range of commits', (error as { hint?: string }).hint, { cause: error })
  })
  const flags = since === undefined ? [] : [`--max-age=${Math.floor(since.getTime() / 1000)}`]
  return [...flags, ...words, '--']
}

/**
 * Goes through the commits, oldest first, until it is known of each blob which brought it in. Reports these and takes them from `hits`.
 * @returns those that were seen at ignored paths
 */
async function attribute(
  git: Git,
  revisions: readonly string[],
  hits: Map<string, Hit>,
  rules: IgnoreRules,
  tools: ScanTools,
): Promise<Set<string>> {
  const ignored = new Set<string>()
  const commits = git.start(['rev-list', '--reverse', '--topo-order', ...revisions])
  // Of a merge only what none of its parents has (-c): the rest came with them.
  const options = ['--stdin', '-r', '-c', '--root', '--no-renames', '--raw', '-z']
  const changes = git.start(['diff-tree', ...options], commits.stdout)
  let commit = ''
  let object: string | undefined
  for await (const item of git.items(changes)) {
    if (object !== undefined) {
      const path = item.toString('utf8')
      const hit = hits.get(object)
      if (hit !== undefined && rules.ignores(path)) ignored.add(object)
      else if (hit !== undefined) {
        reportHit(hit, { path, commit, object }, rules, tools)
        hits.delete(object)
      }
      object = undefined
    } else if (item[0] === COLON) {
      // `:<modes…> <ids…> <status>`: the last id is that of the new version.
      object = item.toString('latin1').split(' ').at(-2) ?? ''
    } else commit = item.toString('latin1')
    if (hits.size === 0) {
      commits.stop()
      changes.stop()
      break
    }
  }
  await commits.ended()
  return ignored
}

const COLON = 0x3a
