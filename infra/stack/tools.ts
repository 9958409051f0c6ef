/** Programs of this machine that the stack is fetched and run with. */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { StackError } from './errors.ts'
import { VERSIONS } from './versions.ts'

/** The path of a program, searched as a shell does. */
export function findOnPath(program: string): string | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const found = directory === '' ? undefined : findIn(directory, program)
    if (found !== undefined) return found
  }
  return undefined
}

function findIn(directory: string, program: string): string | undefined {
  const path = join(directory, program)
  try {
    accessSync(path, constants.X_OK)
    return path
  } catch {
    return undefined
  }
}

/**
 * Java's path: JAVA_HOME's first, then PATH's.
 * @param instead what to do without Java, as the rest of a sentence
 * @throws StackError when there is none, or an old one
 */
export async function findJava(instead: string): Promise<string> {
  const home = process.env['JAVA_HOME']
  const java = (home === undefined || home === '' ? undefined : findIn(join(home, 'bin'), 'java')) ?? findOnPath('java')
  const wanted = `Java ${VERSIONS.java} or newer`
  if (java === undefined)
    throw new StackError(`${wanted} is missing: install it (on Debian the package openjdk-17-jre-headless), or ${instead}`)
  const { output } = await run(java, ['-version'])
  const version = /version "(\d+)/.exec(output)?.[1]
  if (version === undefined || Number(version) < VERSIONS.java) {
    throw new StackError(`${wanted} is needed, and ${java} is ${version ?? 'something else'}: install it, or ${instead}`)
  }
  return java
}

/** @throws StackError when the program is missing; `sentence` says what to do */
export function requireTool(program: string, sentence: string): string {
  const path = findOnPath(program)
  if (path === undefined) throw new StackError(`${program} is missing: ${sentence}`)
  return path
}

/** Runs a program to its end. `output` is what it wrote to both streams. */
export function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => (output += data.toString()))
    child.once('error', (error) => resolve({ ok: false, output: error.message }))
    child.once('close', (code) => resolve({ ok: code === 0, output }))
  })
}
