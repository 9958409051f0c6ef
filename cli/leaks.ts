/** Reporting leaked tokens, and looking at what became of it. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { text as readAll } from 'node:stream/consumers'
import { LEAK_MATCHES, LEAK_STATUSES } from '@keyturn/contract/leak'
import { scannerExpression } from '@keyturn/contract/token'
import { Command, Option } from 'commander'
import type { IncidentAnswer, LeakSummary } from './answers.ts'
import { type Context, command, withApi } from './context.ts'
import { Failure, UsageFailure } from './failure.ts'
import { incidentText, leaksText } from './leak-rendering.ts'

const TOKEN = new RegExp(scannerExpression())
const SHA256 = /^([0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=)$/
/** How many one request reports. */
const AT_ONCE = 10_000

interface ReportOptions {
  readonly sha256?: string
  readonly source: string
  readonly url?: string
  readonly at?: string
}

interface Reported {
  readonly leakId: string
  readonly isNew: boolean
  readonly matched?: string
}

/** Other users of the machine see arguments, and the shell keeps them: a token there is another leak. */
function refuseTokens(...given: readonly (string | undefined)[]): void {
  if (given.some((text) => text !== undefined && TOKEN.test(text))) {
    throw new UsageFailure(
      'A token does not belong among the arguments, where others can read it',
      'Put it into a file, or pipe it in: `keyturn leak report < file`. It is in the history of your shell now; report it all the same.',
    )
  }
}

/** Tokens never leave this process: they are hashed here. */
async function hashesOf(file: string | undefined, sha256: string | undefined): Promise<string[]> {
  if (sha256 !== undefined) {
    if (file !== undefined) throw new UsageFailure('Give a file or --sha256, not both')
    if (!SHA256.test(sha256)) throw new UsageFailure('--sha256 takes a SHA-256: 64 hexadecimal digits, or base64')
    return [sha256]
  }
  const tokens = (await read(file))
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
  if (tokens.length === 0) throw new UsageFailure('There is no token to report', 'One a line, in a file or on standard input.')
  return tokens.map((token) => createHash('sha256').update(token, 'utf8').digest('hex'))
}

async function read(file: string | undefined): Promise<string> {
  if (file === undefined || file === '-') {
    if (process.stdin.isTTY) process.stderr.write('Tokens, one a line; Ctrl-D ends them:\n')
    return readAll(process.stdin)
  }
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    // The name is not repeated: it may be a token that was taken for one.
    const code = (error as NodeJS.ErrnoException).code ?? 'error'
    throw new Failure(`The file can not be read (${code})`, 'The argument is the name of a file with tokens, not a token.')
  }
}

async function report({ api, output }: Context, file: string | undefined, options: ReportOptions): Promise<void> {
  const { sha256, source, url, at } = options
  refuseTokens(file, sha256, source, url, at)
  const hashes = await hashesOf(file, sha256)
  const leaks: Reported[] = []
  for (let i = 0; i < hashes.length; i += AT_ONCE) {
    const part = hashes.slice(i, i + AT_ONCE).map((tokenSha256) => ({ tokenSha256, source, url, at }))
    leaks.push(...(await api.post<{ leaks: Reported[] }>('/v1/leaks', part)).leaks)
  }
  output.result({ leaks }, () =>
    leaks
      .map(({ leakId, isNew, matched }) => `${leakId}  ${matched ?? 'recorded'}${isNew ? '' : '  (reported before)'}`)
      .join('\n'),
  )
}

interface ListOptions {
  readonly status?: string
  readonly matched?: string
  readonly credential?: string
}

export function leakCommands(): Command {
  return new Command('leak')
    .description('leaked tokens: reports of them, and what was done')
    .addCommand(
      command('report', 'report leaked tokens: they are hashed here, and the key is compromised or replaced')
        .argument('[file]', 'a file with tokens, one a line; standard input without')
        .option('--sha256 <hash>', 'the SHA-256 of a token, in the place of a file')
        .option('--source <who>', 'who found it', 'keyturn leak report')
        .option('--url <where>', 'where it was found')
        .option('--at <time>', 'when it was found: 2026-01-31T12:00:00Z')
        .action(withApi(report)),
    )
    .addCommand(
      command('list', 'list leaks, latest first')
        .addOption(new Option('--status <status>', 'those that are').choices(LEAK_STATUSES))
        .addOption(new Option('--matched <what>', 'those whose token is').choices(LEAK_MATCHES))
        .option('--credential <credential>', 'those of this credential')
        .action(
          withApi(async ({ api, output }, { status, matched, credential }: ListOptions) => {
            const page = await api.get<{ leaks: LeakSummary[] }>('/v1/leaks', { status, matched, credential })
            output.result(page, () => leaksText(page.leaks))
          }),
        ),
    )
    .addCommand(
      command('show', 'show the report of a leak')
        .argument('<leak>')
        .option('--markdown', 'as Markdown, for a ticket')
        .action(
          withApi(async ({ api, output }, leakId: string, { markdown }: { markdown?: boolean }) => {
            const path = `/v1/leaks/${encodeURIComponent(leakId)}/report`
            if (markdown === true && !output.json) return output.line((await api.text(`${path}.md`)).trimEnd())
            const incident = await api.get<IncidentAnswer>(path)
            output.result(incident, () => incidentText(incident, output))
          }),
        ),
    )
}
