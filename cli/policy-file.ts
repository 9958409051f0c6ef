/** The file `policies.yaml`, read and checked before anything is sent: every flaw says in which line it is. */
import { readFileSync } from 'node:fs'
import type { Policy, PolicyFlaw } from '@keyturn/contract'
import type { Document, LineCounter } from 'yaml'
import { UsageFailure } from './failure.ts'

/** @throws UsageFailure with every flaw, as `file:line: what is wrong` */
export async function readPolicyFile(path: string): Promise<readonly Policy[]> {
  const { LineCounter, parseDocument } = await import('yaml')
  const { checkPolicyFile, flawText } = await import('@keyturn/contract')
  const lines = new LineCounter()
  const document = parseDocument(readFile(path), { lineCounter: lines, prettyErrors: false })
  if (document.errors.length > 0) {
    throw flawed(
      path,
      'is not YAML that can be read',
      document.errors.map(({ pos, message }) => `${path}:${lines.linePos(pos[0]).line}: ${message}`),
    )
  }
  const checked = checkPolicyFile(plain(document, path))
  if (checked.ok) return checked.value
  throw flawed(
    path,
    'has policies that can not be used',
    checked.flaws.map((flaw) => `${path}:${lineOf(document, lines, flaw)}: ${flawText(withoutList(flaw))}`),
  )
}

function readFile(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code = 'error' } = error as NodeJS.ErrnoException
    throw new UsageFailure(`${path} can not be read (${code})`, 'Give the path of a file of policies.', { cause: error })
  }
}

/** Aliases are followed, but not into a file that would grow without end. */
function plain(document: Document, path: string): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    throw flawed(path, 'is not YAML that can be read', [(error as Error).message])
  }
}

const flawed = (path: string, what: string, flaws: readonly string[]): UsageFailure =>
  new UsageFailure(`${path} ${what}; nothing was changed`, flaws.join('\n  '))

/** The line of the field that a flaw is about; of what contains it, where the field itself is missing. */
function lineOf(document: Document, lines: LineCounter, { path }: PolicyFlaw): number {
  const parts = path
    .split('/')
    .slice(1)
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part))
  for (; parts.length > 0; parts.pop()) {
    const { range } = (document.getIn(parts, true) ?? {}) as { range?: readonly number[] | null }
    if (range?.[0] !== undefined) return lines.linePos(range[0]).line
  }
  return 1
}

/** The line and the policy's name say where it is: its number in the list would only be noise. */
const withoutList = (flaw: PolicyFlaw): PolicyFlaw =>
  flaw.policy === undefined ? flaw : { ...flaw, path: flaw.path.replace(/^\/policies\/\d+/, '') }
