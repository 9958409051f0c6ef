/**
 * `keyturn scan` beside gitleaks with the one rule that is generated for it, on the same tree of realistic text: MB/s of whole
 * processes, start included. And what the start costs, beside that of Node alone.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { newKeyId, newToken } from '@keyturn/contract'
import { rulesFor } from '../cli/scan/rules.ts'
import { gitleaks } from '../test/support/gitleaks.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const KEYTURN = join(ROOT, 'cli/keyturn.js')
const MB = 1_000_000

/** The same numbers every time. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Lines of this repository's own code, prose and data, and lines of a log. */
function corpus(next: () => number): string[] {
  const { stdout } = spawnSync('git', ['ls-files', '-z', '*.ts', '*.md', '*.json', '*.sql', '*.yaml'], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  const lines = stdout
    .split('\0')
    .filter((file) => file !== '' && !file.startsWith('contract/vectors/'))
    .flatMap((file) => readFileSync(join(ROOT, file), 'utf8').split('\n'))
    .filter((line) => !/_(dev|test|prod)_/.test(line))
  const hex = (): string => Math.floor(next() * 2 ** 32).toString(16)
  const log = Array.from({ length: lines.length / 4 }, (_, i) => {
    const path = `/v1/orders/${hex()}${hex()}?market=${hex()}`
    return `2026-03-01T00:${String(i % 60).padStart(2, '0')}:01.${i % 1000}Z info gateway request=${hex()}-${hex()} GET ${path} 200 ${i % 97}ms`
  })
  return [...lines, ...log]
}

interface Tree {
  readonly files: number
  readonly bytes: number
  readonly tokens: number
}

/** Writes files of 1 KB to 2 MB, half of them below 2 KB and 75 KB on average; a token in every fiftieth. */
function growTree(directory: string, bytes: number): Tree {
  const next = random(5)
  const lines = corpus(next)
  const line = (): string => lines[Math.floor(next() * lines.length)] ?? ''
  let written = 0
  let files = 0
  let tokens = 0
  while (written < bytes) {
    const size = 1_000 * 2_000 ** (next() ** 4)
    const parts: string[] = []
    for (let length = 0; length < size; ) {
      // Real files repeat themselves; drawing each line would take longer than scanning.
      const some = Array.from({ length: 50 }, line).join('\n')
      parts.push(some)
      length += some.length + 1
    }
    if (files % 50 === 0) {
      parts.push(`  key: '${newToken({ brand: 'kt', environment: 'prod', keyId: newKeyId() })}',`)
      tokens++
    }
    const folder = join(directory, `d${files % 40}`, `e${files % 7}`)
    mkdirSync(folder, { recursive: true })
    const text = Buffer.from(`${parts.join('\n')}\n`)
    writeFileSync(join(folder, `f${files}.txt`), text)
    written += text.length
    files++
  }
  return { files, bytes: written, tokens }
}

interface Run {
  readonly seconds: number
  readonly found: number
}

/** @param foundIn how many tokens the output tells of */
function timed(command: string, args: readonly string[], foundIn: (stdout: string) => number): Run {
  const start = process.hrtime.bigint()
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  if (status !== 1) throw new Error(`${command} ended with ${status}: ${stderr}`)
  return { seconds, found: foundIn(stdout) }
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

/** CPU seconds, user and system, that Node counts for itself at its end. */
function cpuSeconds(args: readonly string[]): number {
  const report = 'data:text/javascript,process.on("exit",()=>{const c=process.cpuUsage();console.error("cpu",c.user+c.system)})'
  const { stderr } = spawnSync(process.execPath, ['--import', report, ...args], { encoding: 'utf8' })
  return Number(/^cpu (\d+)$/m.exec(stderr)?.[1]) / 1e6
}

export interface ScanFigures {
  readonly tree: Tree
  readonly rounds: number
  /** MB/s, medians of the rounds. */
  readonly keyturn: number
  /** Without its decoding of base64 and the like, which it does by default: the faster of its two ways. */
  readonly gitleaks: number
  /** As it comes; one round. */
  readonly gitleaksDecoding: number
  /** Median over the rounds of keyturn's MB/s through those of gitleaks without decoding. */
  readonly ratio: number
  /** CPU milliseconds of a scan of an empty directory, and of Node that does nothing; the least of some. */
  readonly startMs: number
  readonly nodeMs: number
}

/** @returns undefined where gitleaks can't be built */
export async function measureScan({ megabytes = 300, rounds = 5 } = {}): Promise<ScanFigures | undefined> {
  const program = await gitleaks((what) => process.stderr.write(`Bench: ${what}\n`))
  if (program === undefined) return undefined
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-bench-'))
  try {
    const tree = join(directory, 'tree')
    const empty = join(directory, 'empty')
    for (const each of [tree, empty]) mkdirSync(each)
    const grown = growTree(tree, megabytes * MB)
    const config = join(directory, 'rules.toml')
    writeFileSync(config, rulesFor('gitleaks', ['kt']))
    const options = ['dir', '--no-banner', '--log-level', 'error', '--config', config, '-f', 'json', '-r', '-']
    const count = (stdout: string): number => (JSON.parse(stdout) as unknown[]).length
    const plain = (): Run => timed(program, [...options, '--max-decode-depth', '0', tree], count)
    const decoding = (): Run => timed(program, [...options, tree], count)
    const ours = (): Run =>
      timed(
        process.execPath,
        [KEYTURN, 'scan', '--json', '--brand', 'kt', tree],
        (text) => (JSON.parse(text) as { found: number }).found,
      )
    const check = (run: Run): number => {
      if (run.found !== grown.tokens) throw new Error(`the bench is wrong: ${run.found} of ${grown.tokens} tokens were found`)
      return grown.bytes / MB / run.seconds
    }
    // The first of each also brings the files into the system's cache.
    check(ours())
    check(plain())
    const keyturnSpeeds: number[] = []
    const gitleaksSpeeds: number[] = []
    for (let round = 0; round < rounds; round++) {
      keyturnSpeeds.push(check(ours()))
      gitleaksSpeeds.push(check(plain()))
    }
    const least = (args: readonly string[]): number => 1_000 * Math.min(...Array.from({ length: 7 }, () => cpuSeconds(args)))
    return {
      tree: grown,
      rounds,
      keyturn: median(keyturnSpeeds),
      gitleaks: median(gitleaksSpeeds),
      gitleaksDecoding: check(decoding()),
      ratio: median(keyturnSpeeds.map((speed, i) => speed / (gitleaksSpeeds[i] ?? speed))),
      startMs: least([KEYTURN, 'scan', empty]),
      nodeMs: least(['--eval', '0']),
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
