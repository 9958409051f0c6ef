import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bundleWorkflowCode } from '@temporalio/worker'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** What the workflows' code is made of; a change in any of it makes a new bundle. */
const SOURCES = ['workflows', 'workflows/stages', 'contract/src']

/** The workflows as one file for workers, made once per state of the sources. @returns its path */
export async function bundleWorkflows(directory: string): Promise<string> {
  const hash = createHash('sha256').update(readFileSync(join(ROOT, 'package-lock.json')))
  for (const folder of SOURCES) {
    for (const file of readdirSync(join(ROOT, folder))
      .filter((name) => name.endsWith('.ts'))
      .sort()) {
      hash.update(file).update(readFileSync(join(ROOT, folder, file)))
    }
  }
  const path = join(directory, `workflows-${hash.digest('hex').slice(0, 16)}.js`)
  if (existsSync(path)) return path
  const quiet = { trace() {}, debug() {}, info() {}, warn: console.warn, error: console.error, log() {} }
  const { code } = await bundleWorkflowCode({ workflowsPath: join(ROOT, 'workflows/index.ts'), logger: quiet })
  mkdirSync(directory, { recursive: true })
  writeFileSync(`${path}.${process.pid}`, code)
  renameSync(`${path}.${process.pid}`, path)
  return path
}
