/** Scans git objects as they come from `git cat-file`. What is found waits until it is known where it belongs. */
import type { ScanTools } from './files.ts'
import { LISTED, type Where } from './findings.ts'
import type { GitObject, ObjectReader } from './git.ts'
import type { IgnoreRules } from './ignore-file.ts'
import { looksBinary } from './text-position.ts'
import type { FoundToken } from './token-finder.ts'

/** Tokens of one object; those past the limit are only counted. */
export interface Hit {
  readonly type: string
  readonly tokens: FoundToken[]
  more: number
}

/** Scans the objects that `read` brings and that are of the wanted types. */
export async function scanObjects(
  read: (reader: ObjectReader) => Promise<void>,
  types: readonly string[],
  { finder, findings, skipBinary }: ScanTools,
): Promise<Map<string, Hit>> {
  const { scanned, skipped } = findings
  const hits = new Map<string, Hit>()
  let kept = 0
  const keep = ({ id, type }: GitObject, token: FoundToken): void => {
    const hit = hits.get(id) ?? { type, tokens: [], more: 0 }
    hits.set(id, hit)
    if (kept++ < LISTED) hit.tokens.push(token)
    else hit.more++
  }
  let begun = false
  let binary = false
  await read({
    begin(object) {
      begun = false
      binary = false
      finder.begin((token) => keep(object, token))
      return types.includes(object.type)
    },
    write(bytes) {
      if (!begun) binary = skipBinary && looksBinary(bytes)
      begun = true
      if (binary) return
      scanned.bytes += bytes.length
      finder.write(bytes)
    },
    end() {
      if (binary) {
        skipped.binary++
        return
      }
      scanned.files++
      finder.end()
    },
  })
  return hits
}

export function reportHit(hit: Hit, where: Where, rules: IgnoreRules, { findings }: ScanTools): void {
  for (const token of hit.tokens) findings.add(token, where, rules)
  findings.more(hit.more)
}
