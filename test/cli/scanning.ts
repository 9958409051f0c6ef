/** What the tests of `keyturn scan` share. */
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Environment, newKeyId, newToken } from '@keyturn/contract'
import { createOutput } from '../../cli/output.ts'
import type { ScanReport } from '../../cli/scan/findings.ts'
import { runScan, type ScanOptions } from '../../cli/scan/run.ts'
import { type FoundToken, TokenFinder } from '../../cli/scan/token-finder.ts'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const KEYTURN = join(ROOT, 'cli/keyturn.js')

export const freshToken = (brand = 'kt', environment: Environment = 'prod'): string =>
  newToken({ brand, environment, keyId: newKeyId() })

/** A directory that other users may read; `remove` takes it away. */
export function temporaryDirectory(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'keyturn-scan-'))
  chmodSync(path, 0o755)
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** Writes files, and the directories that they are in. */
export function writeFiles(directory: string, files: Readonly<Record<string, string | Buffer>>): void {
  for (const [name, content] of Object.entries(files)) {
    const path = join(directory, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, content)
  }
}

/** Tokens in bytes that come in pieces of these sizes, again and again. */
export function tokensIn(
  bytes: Buffer,
  brands: readonly string[] = ['kt'],
  pieces: readonly number[] = [bytes.length],
): FoundToken[] {
  const found: FoundToken[] = []
  const finder = new TokenFinder(brands)
  finder.begin((token) => found.push(token))
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = pieces[i % pieces.length] ?? 1
    finder.write(bytes.subarray(at, at + size))
    at += size
  }
  finder.end()
  return found
}

export interface Scanned extends ScanReport {
  readonly failed: boolean
  /** Everything that was written, both streams. */
  readonly said: string
}

/** Scans in this process. */
export async function scan(paths: readonly string[], given: Partial<ScanOptions> = {}, json = false): Promise<Scanned> {
  const said: string[] = []
  const stream = { isTTY: false, write: (text: string) => said.push(text) } as unknown as NodeJS.WriteStream
  const output = createOutput({ json, env: {}, stdout: stream, stderr: stream })
  const options = { brands: ['kt'], of: 'files', range: {}, skipBinary: false, ignoreFile: true, ...given } as const
  let failed = false
  const report = await runScan(paths, options, output, () => {
    failed = true
  })
  return { ...report, failed, said: said.join('') }
}

/** Each finding as `path:line:column`, in a history with the commit before it. */
export const places = ({ findings }: ScanReport): string[] =>
  findings.map(({ path, commit, line, column, inName }) =>
    [
      ...(commit === undefined ? [] : [commit]),
      ...(path === undefined ? [] : [path]),
      ...(inName ? ['name'] : [line, column]),
    ].join(':'),
  )

/** The command in a process of its own. */
export function keyturn(
  args: readonly string[],
  options: { cwd?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NO_COLOR: '1', ...options.env }
    const child = spawn(process.execPath, [KEYTURN, ...args], { cwd: options.cwd ?? ROOT, env })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()))
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()))
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, stdout, stderr }))
  })
}

/** A git that knows no settings but these. */
const GIT_ENVIRONMENT = {
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'Test',
  GIT_AUTHOR_EMAIL: 'test@example.com',
  GIT_COMMITTER_NAME: 'Test',
  GIT_COMMITTER_EMAIL: 'test@example.com',
}

export interface GitResult {
  readonly code: number | null
  readonly output: string
}

export class TestRepository {
  readonly path: string
  /** @param fresh make it; else it is there */
  constructor(path: string, fresh = true) {
    this.path = path
    if (!fresh) return
    mkdirSync(path, { recursive: true })
    this.git('init', '--quiet', '--initial-branch=main')
  }

  tryGit(args: readonly string[], env: Readonly<Record<string, string>> = {}): GitResult {
    const result = spawnSync('git', args, {
      cwd: this.path,
      env: { ...process.env, ...GIT_ENVIRONMENT, ...env },
      encoding: 'utf8',
    })
    return { code: result.status, output: `${result.stdout}${result.stderr}`.trim() }
  }

  git(...args: string[]): string {
    const { code, output } = this.tryGit(args)
    if (code !== 0) throw new Error(`git ${args[0]}: ${output}`)
    return output
  }

  /** Commits these files. @returns the commit's id */
  commit(message: string, files: Readonly<Record<string, string | Buffer>>, date?: string): string {
    writeFiles(this.path, files)
    this.git('add', '--all')
    const env: Record<string, string> = date === undefined ? {} : { GIT_AUTHOR_DATE: date, GIT_COMMITTER_DATE: date }
    const { code, output } = this.tryGit(['commit', '--quiet', '--allow-empty', '--message', message], env)
    if (code !== 0) throw new Error(`git commit: ${output}`)
    return this.git('rev-parse', 'HEAD')
  }
}
