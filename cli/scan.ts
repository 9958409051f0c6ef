import { BRAND_PATTERN, DEFAULT_BRAND } from '@keyturn/contract/token'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { command, outputOf } from './context.ts'
import { EXIT, UsageFailure } from './failure.ts'
import type { Scanner } from './scan/rules.ts'

interface Given {
  readonly brand?: string[]
  readonly history?: true
  readonly range?: string
  readonly since?: string
  readonly staged?: true
  readonly skipBinary?: true
  readonly ignoreFile?: string | boolean
  readonly sarif?: string
  readonly json?: true
}

const ABOUT = `
Found is what has a brand's shape and a right checksum. Keys in a foreign format, imported from before Keyturn, are not looked for, nor
is anything inside archives, compressed or encoded data. Symbolic links are not followed. Tokens are never printed.

.keyturnignore holds paths as .gitignore does, and accepted findings by their fingerprint (sha256:…).
Exit code: 0 nothing found, 1 something found or not all could be read, 2 usage.
To scan a directory that is called rules, write ./rules.`

/** @throws InvalidArgumentError when it is none */
function collectBrand(brand: string, before: string[] = []): string[] {
  if (!new RegExp(BRAND_PATTERN).test(brand)) throw new InvalidArgumentError('A brand is 2 to 10 of a–z and 0–9, a letter first.')
  return [...before, brand]
}

/** Those that were given, else the configured one. */
function brandsOf({ brand }: Given): string[] {
  if (brand !== undefined) return [...new Set(brand)]
  const configured = process.env['KEYTURN_BRAND'] || DEFAULT_BRAND
  if (new RegExp(BRAND_PATTERN).test(configured)) return [configured]
  throw new UsageFailure('KEYTURN_BRAND is not usable', 'A brand is 2 to 10 of a–z and 0–9, a letter first.')
}

export function scanCommand(): Command {
  return command('scan', 'find tokens in files, in a git history, or in what is staged; works offline')
    .argument('[paths...]', 'files and directories; with --history or --staged one repository', ['.'])
    .option(
      '--brand <brand>',
      `of this brand, may be given more than once; else of KEYTURN_BRAND, or ${DEFAULT_BRAND}`,
      collectBrand,
    )
    .option('--history', 'every version of every file in a git history, and the messages of commits and tags')
    .option('--range <revisions>', 'of a history these, as git writes it: main..feature, or "HEAD --not --remotes"')
    .option('--since <when>', 'of a history what is younger: 30d, or a date')
    .addOption(new Option('--staged', 'what the next commit would bring in').conflicts(['history', 'range', 'since']))
    .option('--skip-binary', 'leave out binary files; else they are scanned like others')
    .option('--ignore-file <file>', 'instead of .keyturnignore; its patterns are relative to what is scanned')
    .option('--no-ignore-file', 'ignore nothing')
    .option('--sarif <file>', 'write SARIF 2.1.0 there, - for standard output')
    .addHelpText('after', ABOUT)
    .action(scan)
    .addCommand(
      command('rules', 'print rules that make other scanners find tokens; they can not check the checksum')
        .addOption(new Option('--for <scanner>').choices(['gitleaks', 'github'] satisfies Scanner[]).makeOptionMandatory())
        .option('--brand <brand>', 'as for scan', collectBrand)
        .action(printRules),
    )
}

async function scan(paths: string[], _options: object, self: Command): Promise<void> {
  const given = self.optsWithGlobals<Given>()
  if (given.json && given.sarif === '-') throw new UsageFailure('--json and --sarif - both want standard output')
  const history = given.history ?? (given.range !== undefined || given.since !== undefined)
  const { runScan } = await import('./scan/run.ts')
  await runScan(
    paths,
    {
      brands: brandsOf(given),
      of: given.staged ? 'staged' : history ? 'history' : 'files',
      skipBinary: given.skipBinary === true,
      range: { revisions: given.range, since: given.since === undefined ? undefined : await timeOf(given.since) },
      // Where both an option and its `no-` are declared, there is no default.
      ignoreFile: given.ignoreFile ?? true,
      sarif: given.sarif,
    },
    outputOf(self),
    () => {
      process.exitCode = EXIT.failed
    },
  )
}

/** git would take any word for a time, and then scan nothing. */
async function timeOf(text: string): Promise<Date> {
  const { parseDuration } = await import('@keyturn/contract/duration')
  const date = /^\d{4}-\d{2}-\d{2}(T[\d:.]+(Z|[+-]\d{2}:\d{2})?)?$/.test(text) ? new Date(text) : undefined
  try {
    const time = date ?? new Date(Date.now() - parseDuration(text))
    if (!Number.isNaN(time.getTime())) return time
  } catch {
    // Said below.
  }
  throw new UsageFailure(`"${text}" is no time`, 'It looks like 30d, 12h, 2026-01-31 or 2026-01-31T12:00:00Z.')
}

async function printRules(_options: object, self: Command): Promise<void> {
  const given = self.optsWithGlobals<Given & { for: Scanner }>()
  const { rulesFor } = await import('./scan/rules.ts')
  const brands = brandsOf(given)
  const rules = rulesFor(given.for, brands)
  outputOf(self).result({ scanner: given.for, brands, rules }, () => rules.trimEnd())
}
