/** What people see: plain lines, in colour where the terminal wants it; or one JSON document with --json. */
import { stripVTControlCharacters, styleText } from 'node:util'
import type { RotationStage } from '@keyturn/contract/rotation'
import { ProblemFailure } from './failure.ts'

type Style = Parameters<typeof styleText>[0]

export interface Output {
  readonly json: boolean
  /** The result, as data with --json and as text without. */
  result(data: unknown, text: () => string): void
  /** A line on the way; with --json, `data` as a line of its own. */
  line(text: string, data?: unknown): void
  /** A word for people alone, on standard error. */
  note(text: string): void
  paint(style: Style, text: string): string
  stage(stage: RotationStage): string
  fail(error: unknown): void
}

const STAGE_STYLES: Partial<Record<RotationStage, Style>> = {
  completed: 'green',
  'rolled-back': 'red',
  'rolling-back': 'yellow',
  held: 'yellow',
}

export function createOutput(options: {
  json: boolean
  env: NodeJS.ProcessEnv
  stdout: NodeJS.WriteStream
  stderr: NodeJS.WriteStream
}): Output {
  const { json, env, stdout, stderr } = options
  const coloured = (stream: NodeJS.WriteStream): boolean => {
    if (env['NO_COLOR'] || env['TERM'] === 'dumb' || env['FORCE_COLOR'] === '0') return false
    return stream.isTTY === true || Boolean(env['FORCE_COLOR'])
  }
  const paintFor =
    (stream: NodeJS.WriteStream) =>
    (style: Style, text: string): string =>
      coloured(stream) ? styleText(style, text) : text
  const paint = paintFor(stdout)
  return {
    json,
    paint,
    stage: (stage) => paint(STAGE_STYLES[stage] ?? 'cyan', stage),
    result(data, text) {
      stdout.write(json ? `${JSON.stringify(data, null, 2)}\n` : `${text()}\n`)
    },
    line(text, data) {
      if (!json) stdout.write(`${text}\n`)
      else if (data !== undefined) stdout.write(`${JSON.stringify(data)}\n`)
    },
    note: (text) => void stderr.write(`${text}\n`),
    fail(error) {
      const problem = error instanceof ProblemFailure ? error.problem : undefined
      if (json) stdout.write(`${JSON.stringify({ error: problem ?? { title: messageOf(error), detail: hintOf(error) } })}\n`)
      const lines = [`${paintFor(stderr)('red', 'error')}: ${messageOf(error)}`]
      const hint = hintOf(error)
      if (hint !== undefined) lines.push(`  ${hint}`)
      const fields = (problem?.errors ?? []).map(({ path, message }) => fieldName(path) + message)
      // Some details say all of it already.
      lines.push(...fields.filter((field) => hint?.includes(field) !== true).map((field) => `  ${field}`))
      stderr.write(`${lines.join('\n')}\n`)
    },
  }
}

const fieldName = (path: string): string => (path === '' ? '' : `${path.slice(1).replaceAll('/', '.')}: `)
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
const hintOf = (error: unknown): string | undefined => (error as { hint?: string }).hint

/** Columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows]
  const width = (text: string): number => stripVTControlCharacters(text).length
  const widths = head.map((_, column) => Math.max(...all.map((row) => width(row[column] ?? ''))))
  return all
    .map((row) =>
      row
        .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - width(cell)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** What outsiders wrote (names, user agents) may not steer the terminal. */
export const plain = (text: string): string => stripVTControlCharacters(text).replace(/\p{Cc}/gu, ' ')
