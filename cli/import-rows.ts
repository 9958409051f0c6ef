/**
 * Files of keys, read as a stream: CSV with names in its first line, or JSON lines. Whatever comes in, no more than a line is in
 * memory, and nothing of a row is in what is said of it: it may be a secret.
 */
import { isUtf8 } from 'node:buffer'
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { UsageFailure } from './failure.ts'

/** Bytes. The longest row that could be imported has a sixth of it. */
const LONGEST_LINE = 65_536
const NEWLINE = 10
/** Characters that the parser is given at once: it takes line by line more slowly. */
const FED_AT_ONCE = 32_768

export interface Flaw {
  readonly line: number
  readonly message: string
}
export type FileItem =
  | { readonly kind: 'header'; readonly line: number; readonly names: readonly string[] }
  | { readonly kind: 'row'; readonly line: number; readonly fields: Readonly<Record<string, unknown>> }
  | ({ readonly kind: 'flaw' } & Flaw)

const MOST_SHOWN = 20

/** Collects what is wrong with a file: the first ones, and how many. */
export class Flaws {
  private readonly first: Flaw[] = []
  count = 0

  add({ line, message }: Flaw): void {
    this.count += 1
    if (this.first.length < MOST_SHOWN) this.first.push({ line, message })
  }

  /** @throws UsageFailure with the first ones, as `file:line: what is wrong`, when there is any */
  refuse(path: string): void {
    if (this.count === 0) return
    const lines = this.first.map(({ line, message }) => `${path}:${line}: ${message}`)
    if (this.count > lines.length) lines.push(`and ${this.count - lines.length} more`)
    throw new UsageFailure(`${this.count} of the lines of ${path} can not be used; nothing was done`, lines.join('\n  '))
  }
}

/** Nothing behind it can be trusted: where does the next row begin? */
class Unreadable extends Error {
  readonly line: number
  constructor(line: number, message: string) {
    super(message)
    this.line = line
  }
}

/** @throws UsageFailure when the file can not be read */
export async function* readFileRows(path: string): AsyncGenerator<FileItem> {
  try {
    yield* readRows(createReadStream(path))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !/^E[A-Z]+$/.test(code)) throw error
    throw new UsageFailure(`${path} can not be read (${code})`, 'Give the path of a CSV file, or of JSON lines.', {
      cause: error,
    })
  }
}

/** A header first, where it is CSV. */
export async function* readRows(source: AsyncIterable<Uint8Array>): AsyncGenerator<FileItem> {
  const lines = readLines(source)
  try {
    let start: Line | undefined
    for (let next = await lines.next(); next.done !== true; next = await lines.next()) {
      start = next.value
      if (start.text.trim() !== '') break
    }
    if (start === undefined) return
    yield* start.text.trimStart().startsWith('{') ? readJson(start, lines) : readCsv(start, lines)
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error
    yield { kind: 'flaw', line: error.line, message: error.message }
  } finally {
    await lines.return(undefined)
  }
}

interface Line {
  readonly line: number
  /** Without its end. */
  readonly text: string
}

async function* readLines(source: AsyncIterable<Uint8Array>): AsyncGenerator<Line> {
  let line = 1
  let rest: Uint8Array[] = []
  let length = 0
  const take = (part: Uint8Array): Line => {
    const bytes = Buffer.concat([...rest, part])
    rest = []
    length = 0
    if (!isUtf8(bytes)) throw new Unreadable(line, 'is not UTF-8; save the file as UTF-8')
    const text = bytes.toString('utf8')
    return { line: line++, text: (line === 2 ? text.replace(/^\uFEFF/, '') : text).replace(/\r$/, '') }
  }
  for await (const chunk of source) {
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, from)) {
      if (length + end - from > LONGEST_LINE) throw tooLong(line)
      yield take(chunk.subarray(from, end))
      from = end + 1
    }
    length += chunk.length - from
    if (length > LONGEST_LINE) throw tooLong(line)
    if (from < chunk.length) rest.push(chunk.subarray(from))
  }
  if (length > 0) yield take(new Uint8Array())
}

const tooLong = (line: number): Unreadable => new Unreadable(line, `is longer than ${LONGEST_LINE / 1024} KiB: no row is`)

async function* readJson(start: Line, others: AsyncIterable<Line>): AsyncGenerator<FileItem> {
  yield jsonItem(start)
  for await (const line of others) if (line.text.trim() !== '') yield jsonItem(line)
}

function jsonItem({ line, text }: Line): FileItem {
  try {
    const fields: unknown = JSON.parse(text)
    if (typeof fields === 'object' && fields !== null && !Array.isArray(fields))
      return { kind: 'row', line, fields: fields as Record<string, unknown> }
  } catch {
    // What it says may quote a secret.
  }
  return { kind: 'flaw', line, message: 'is not a JSON object' }
}

async function* readCsv(start: Line, others: AsyncIterable<Line>): AsyncGenerator<FileItem> {
  const { CsvError, parse } = await import('csv-parse')
  async function* texts(): AsyncGenerator<string> {
    let some = `${start.text}\n`
    for await (const { text } of others) {
      if (some.length > FED_AT_ONCE) {
        yield some
        some = ''
      }
      some += `${text}\n`
    }
    yield some
  }
  const parser = parse({
    info: true,
    record_delimiter: '\n',
    relax_column_count: true,
    skip_empty_lines: true,
    trim: true,
    max_record_size: LONGEST_LINE,
  })
  const feed = Readable.from(texts())
  feed.once('error', (error) => parser.destroy(error))
  feed.pipe(parser)
  let names: readonly string[] | undefined
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      const line = start.line - 1 + info.lines
      if (names === undefined) {
        names = record
        yield { kind: 'header', line, names }
      } else if (record.length !== names.length) {
        const message = `has ${record.length} fields, where the first line names ${names.length}`
        yield { kind: 'flaw', line, message }
      } else {
        yield { kind: 'row', line, fields: Object.fromEntries(names.map((name, column) => [name, record[column]])) }
      }
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error
    const line = start.line - 1 + Number((error as { lines?: unknown }).lines ?? 1)
    throw new Unreadable(line, 'has quotation marks that do not fit: a field that holds one stands in quotes, with each doubled')
  } finally {
    feed.destroy()
    parser.destroy()
  }
}
