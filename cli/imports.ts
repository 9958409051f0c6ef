/** Importing keys that were issued elsewhere: the whole file is looked at first, here and by the API alike; then the count has to be typed. */
import { stat } from 'node:fs/promises'
import type { ImportedKey } from '@keyturn/contract/imported-key'
import { ALPHABET_NAMES } from '@keyturn/contract/strength'
import { Option } from 'commander'
import { confirmCount } from './confirmation.ts'
import { type Context, command, outputOf, withApi } from './context.ts'
import { Failure, ProblemFailure } from './failure.ts'
import { hashTokens } from './import-hash.ts'
import { type FileItem, type Flaw, Flaws, readFileRows } from './import-rows.ts'

interface ImportOptions {
  readonly dryRun?: boolean
  readonly acceptWeak?: boolean
  readonly yes?: boolean
}

interface ImportAnswer {
  readonly imported: number
  readonly there: number
  readonly newClients: readonly string[]
  readonly problems: readonly { readonly row: number; readonly message: string }[]
  readonly published: boolean
}

interface Row {
  readonly line: number
  readonly key: ImportedKey
}

interface Totals {
  rows: number
  imported: number
  there: number
  readonly newClients: Set<string>
  published: boolean
}

/** Of JSON; a row more is still fewer than the API takes. */
const BATCH_BYTES = 900_000
/** So many batches are under way at once: while one is written, the gateways are told of another. */
const AT_ONCE = 3

const ABOUT = `
The first line of a CSV file names its columns; each line of JSON lines is an object with them:
  sha256                of the whole token as it is sent: 64 hexadecimal digits, or base64
  client                a client's id (cli_…), or its name; a client of a name that there is none of yet is made
  name, environment     of the credential, one for each client and environment; dev, test or prod
  scopes                as in trade:orders, with spaces or commas between; may be empty
  createdAt, expiresAt  2024-02-29 or 2024-02-29T08:00:00Z; may be left out
  length, alphabet      of the token's random part: ${ALPHABET_NAMES.join(', ')}
  bits                  instead of these two, where you know better

  keyturn import hash < tokens.csv > keys.csv    on the machine that has the tokens: none is in keys.csv
  keyturn import keys.csv --dry-run
  keyturn import keys.csv

Every line is looked at before anything is written. The same file again goes on where an import was stopped: docs/importing.md`

export const importCommands = () =>
  command('import', 'import keys that were issued elsewhere, by the SHA-256 of their tokens')
    .argument('<file>', 'CSV or JSON lines')
    .option('--dry-run', 'say what would be done, and what is wrong with the file')
    .option('--accept-weak', 'import tokens of fewer than 128 bits, too, and those of which nobody says')
    .addOption(new Option('--yes', 'do not ask'))
    .addHelpText('after', ABOUT)
    .action(withApi(importFile))
    .addCommand(
      command('hash', 'replace the column "token" of a file by sha256, length and alphabet; nothing is sent anywhere')
        .argument('[file]', 'CSV or JSON lines; standard input unless given')
        .action(async (path: string | undefined, _options: object, self) => hashTokens(outputOf(self), path)),
    )

async function importFile(context: Context, path: string, options: ImportOptions): Promise<void> {
  const { output } = context
  const contract = await import('@keyturn/contract/imported-key')
  const before = await signature(path)
  const found = await sendAll(context, path, examined(path, options, contract), { ...options, dryRun: true })
  const { rows } = found
  if (rows === 0) throw new Failure(`${path} holds no keys`, 'Nothing was done.')
  const seen = { rows, imported: found.imported, there: found.there, newClients: found.newClients.size }
  const text = previewText(path, seen)
  if (options.dryRun === true) return output.result({ dryRun: true, ...seen }, () => `${text}\nNothing was done.`)
  if (found.imported > 0) {
    if (!output.json) output.note(text)
    await confirmCount(found.imported, 'keys to import them', options.yes)
  }
  if ((await signature(path)) !== before) throw new Failure(`${path} has changed meanwhile`, 'Nothing was done. Run this again.')
  const again = () => sendAll(context, path, unchanged(path, contract), { ...options, dryRun: false })
  const done = found.imported > 0 ? await again() : found
  const result = { rows, imported: done.imported, there: done.there, newClients: done.newClients.size }
  output.result(result, () => `${plural(done.imported, 'key')} imported, ${done.there} there already`)
  if (!done.published) output.note('The gateways have not been told of all of them yet; that follows by itself.')
}

type Contract = typeof import('@keyturn/contract/imported-key')

const signature = async (path: string): Promise<string> => {
  const found = await stat(path).catch(() => undefined)
  return `${found?.ino} ${found?.size} ${found?.mtimeMs}`
}

/**
 * Looks at every line. Behind the first flaw no row comes any more.
 * @throws UsageFailure at the end, with the lines that can not be imported
 */
async function* examined(path: string, { acceptWeak }: ImportOptions, contract: Contract): AsyncGenerator<Row> {
  const flaws = new Flaws()
  const now = Date.now()
  const digests = new Map<string, number>()
  const credentials = new Map<string, number>()
  const flawOf = (line: number, { sha256, client, environment, name }: ImportedKey): string | undefined => {
    const twin = digests.get(sha256)
    if (twin !== undefined) return `sha256: the same key as in line ${twin}`
    digests.set(sha256, line)
    const credential = JSON.stringify([client, environment, name])
    const other = credentials.get(credential)
    if (other !== undefined) return `name: the same credential as in line ${other}, with another key`
    credentials.set(credential, line)
    return undefined
  }
  for await (const item of readFileRows(path)) {
    const row = rowOf(item, now, contract)
    if (row === undefined) continue
    if ('message' in row) {
      flaws.add(row)
      // The same would be wrong with each row.
      if (item.kind === 'header') break
      continue
    }
    const weak = acceptWeak === true ? undefined : contract.weaknessOf(row.key)
    const message =
      flawOf(row.line, row.key) ?? (weak === undefined ? undefined : `${weak}; --accept-weak imports it all the same`)
    if (message !== undefined) flaws.add({ line: row.line, message })
    else if (flaws.count === 0) yield row
  }
  flaws.refuse(path)
}

/** The rows of a file that has been examined. */
async function* unchanged(path: string, contract: Contract): AsyncGenerator<Row> {
  const now = Date.now()
  for await (const item of readFileRows(path)) {
    const row = rowOf(item, now, contract)
    if (row === undefined) continue
    if ('message' in row) throw new Failure(`${path} has changed meanwhile`, 'Run this again.')
    yield row
  }
}

function rowOf(item: FileItem, now: number, contract: Contract): Row | { line: number; message: string } | undefined {
  const { line } = item
  switch (item.kind) {
    case 'flaw':
      return item
    case 'header': {
      const message = headerFlaw(item.names, contract)
      return message === undefined ? undefined : { line, message }
    }
    case 'row': {
      if ('token' in item.fields) return { line, message: TOKENS }
      const checked = contract.checkImportedKey(item.fields, now)
      return checked.ok ? { line, key: checked.key } : { line, message: checked.message }
    }
  }
}

const TOKENS = 'holds tokens: `keyturn import hash` makes a file of digests of this one; take care that nobody else reads it'

/** Names are not repeated: without a header the first row stands there. */
function headerFlaw(names: readonly string[], { IMPORT_FIELDS, REQUIRED_IMPORT_FIELDS }: Contract): string | undefined {
  if (names.includes('token')) return TOKENS
  const unknown = names.findIndex((name) => !IMPORT_FIELDS.includes(name))
  if (unknown !== -1) return `column ${unknown + 1} has a name that is none of ${IMPORT_FIELDS.join(', ')}`
  const missing = REQUIRED_IMPORT_FIELDS.filter((name) => !names.includes(name))
  if (missing.length > 0) return `names no column ${missing.join(', ')}`
  return new Set(names).size < names.length ? 'names the same column twice' : undefined
}

/** @throws Failure when the registry refuses something */
async function sendAll(
  { api, output }: Context,
  path: string,
  rows: AsyncIterable<Row>,
  { acceptWeak, dryRun }: ImportOptions,
): Promise<Totals> {
  const totals: Totals = { rows: 0, imported: 0, there: 0, newClients: new Set(), published: true }
  const refused: Flaw[] = []
  const query = new URLSearchParams({ dryRun: String(dryRun), acceptWeak: String(acceptWeak === true) })
  const send = async (batch: readonly Row[]): Promise<void> => {
    const lines = batch.map(({ key }) => JSON.stringify(key)).join('\n')
    const answer = await api.postLines<ImportAnswer>(`/v1/imports?${query}`, lines)
    totals.imported += answer.imported
    totals.there += answer.there
    totals.published &&= answer.published
    for (const name of answer.newClients) totals.newClients.add(name)
    for (const { row, message } of answer.problems) refused.push({ line: batch[row - 1]?.line ?? 0, message })
    if (dryRun === false && !output.json && process.stderr.isTTY) output.note(`${totals.imported} keys imported`)
  }
  const underWay = new Set<Promise<void>>()
  let failed: { readonly error: unknown; readonly batch: readonly Row[] } | undefined
  try {
    for await (const batch of batches(rows)) {
      totals.rows += batch.length
      const sent = send(batch)
        .catch((error: unknown) => {
          failed ??= { error, batch }
        })
        .finally(() => underWay.delete(sent))
      underWay.add(sent)
      if (underWay.size >= AT_ONCE) await Promise.race(underWay)
      if (failed !== undefined) break
    }
  } finally {
    // What is under way is done or not: how many keys were imported is said when all is known.
    await Promise.all(underWay)
  }
  if (failed !== undefined) throw dryRun === true ? failed.error : stopped(failed.error, path, totals, failed.batch)
  const flaws = new Flaws()
  for (const flaw of refused.sort((a, b) => a.line - b.line)) flaws.add(flaw)
  flaws.refuse(path)
  return totals
}

async function* batches(rows: AsyncIterable<Row>): AsyncGenerator<readonly Row[]> {
  const { MOST_IMPORTED_AT_ONCE } = await import('@keyturn/contract/imported-key')
  let batch: Row[] = []
  let bytes = 0
  for await (const row of rows) {
    batch.push(row)
    bytes += Buffer.byteLength(JSON.stringify(row.key))
    if (batch.length < MOST_IMPORTED_AT_ONCE && bytes < BATCH_BYTES) continue
    yield batch
    batch = []
    bytes = 0
  }
  if (batch.length > 0) yield batch
}

function stopped(error: unknown, path: string, { imported }: Totals, batch: readonly Row[]): unknown {
  if (!(error instanceof Failure)) return error
  const flaws = error instanceof ProblemFailure ? (error.problem.errors ?? []) : []
  const lines = flaws.map(({ path: at, message }) => `${path}:${batch[Number(at.slice(1))]?.line}: ${message}`)
  const hint = `${plural(imported, 'key')} imported so far. Run the same command again: it goes on from here.`
  return new Failure(error.message, [...lines, ...(lines.length === 0 && error.hint ? [error.hint] : []), hint].join('\n  '), {
    cause: error,
  })
}

const plural = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`

function previewText(path: string, seen: { rows: number; imported: number; there: number; newClients: number }): string {
  const lines = [`file     ${path}: ${plural(seen.rows, 'key')}`, `new      ${seen.imported}`]
  if (seen.newClients > 0) lines.push(`clients  ${seen.newClients} that there are none of yet are made`)
  if (seen.there > 0) lines.push(`there    ${seen.there} already, with the same digest: nothing is done about them`)
  return lines.join('\n')
}
