/** From a file of tokens to one of their digests, on this machine: no token leaves it, and none is in what is printed. */
import { Failure, UsageFailure } from './failure.ts'
import { Flaws, readFileRows, readRows } from './import-rows.ts'
import type { Output } from './output.ts'

/** What comes in the place of `token`. */
const MADE = ['sha256', 'length', 'alphabet']
/** What a gateway takes for a token: printable ASCII without spaces, not longer than this. */
const TOKEN = /^[\x21-\x7e]{1,512}$/

/** @param path standard input where there is none. @throws UsageFailure, Failure; nothing was written then */
export async function hashTokens(output: Output, path: string | undefined): Promise<void> {
  if (path === undefined && process.stdin.isTTY === true)
    throw new UsageFailure('Where are the tokens?', 'Give a file, or pipe one in.')
  const { hash } = await import('node:crypto')
  const { strengthOf } = await import('@keyturn/contract/strength')
  const named = path ?? 'standard input'
  const flaws = new Flaws()
  // Kept until all is well: half a file would pass for the whole one.
  const rows: string[] = []
  let header: string | undefined
  for await (const item of path === undefined ? readRows(process.stdin) : readFileRows(path)) {
    if (item.kind === 'flaw') flaws.add(item)
    else if (item.kind === 'header') {
      if (!item.names.includes('token')) flaws.add({ line: item.line, message: 'names no column "token"' })
      if (flaws.count > 0) break
      header = csvLine(item.names.flatMap((name) => (name === 'token' ? MADE : [name])))
    } else {
      const { token } = item.fields
      const message = flawOf(item.fields)
      if (message !== undefined) flaws.add({ line: item.line, message })
      else {
        const made = { sha256: hash('sha256', String(token), 'base64'), ...strengthOf(String(token)) }
        const fields = Object.entries(item.fields).flatMap((field) => (field[0] === 'token' ? Object.entries(made) : [field]))
        const asJson = output.json || header === undefined
        rows.push(asJson ? JSON.stringify(Object.fromEntries(fields)) : csvLine(fields.map(([, value]) => String(value))))
      }
    }
  }
  flaws.refuse(named)
  if (rows.length === 0) throw new Failure(`${named} holds no tokens`, 'Nothing was done.')
  process.stdout.write([...(header === undefined || output.json ? [] : [header]), ...rows, ''].join('\n'))
}

function flawOf({ token, ...others }: Readonly<Record<string, unknown>>): string | undefined {
  if (typeof token !== 'string' || token === '') return 'token: is missing'
  if (!TOKEN.test(token))
    return 'token: no gateway would take it; a token has up to 512 printable ASCII characters, and no spaces'
  if (MADE.some((name) => name in others)) return `holds ${MADE.join(', or ')} beside the token`
  return Object.values(others).some((value) => JSON.stringify(value).includes(JSON.stringify(token).slice(1, -1)))
    ? 'holds the token in another field, too'
    : undefined
}

/** As in RFC 4180. */
const csvLine = (fields: readonly string[]): string =>
  fields.map((field) => (/[",\r\n]|^\s|\s$/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(',')
