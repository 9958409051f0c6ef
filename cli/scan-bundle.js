/**
 * `keyturn scan` as one JavaScript file, made once per state of its sources: docs/adr/0009 says why. Plain JavaScript, since it runs
 * before anything can read TypeScript.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
/** What it is made of; a change in any of it makes a new bundle. */
const SOURCES = ['cli', 'cli/scan', 'contract/src']

/** @returns {Promise<string | undefined>} its address; undefined where none can be kept */
export async function scanBundle() {
  try {
    const directory = join(ROOT, '.keyturn')
    const path = join(directory, `scan-${stateOfSources()}.mjs`)
    if (!existsSync(path)) await bundle(path)
    return pathToFileURL(path).href
  } catch {
    return undefined
  }
}

function stateOfSources() {
  const hash = createHash('sha256').update(readFileSync(join(ROOT, 'package-lock.json')))
  for (const folder of SOURCES) {
    for (const file of readdirSync(join(ROOT, folder)).sort()) {
      if (file.endsWith('.ts')) hash.update(file).update(readFileSync(join(ROOT, folder, file)))
    }
  }
  return hash.digest('hex').slice(0, 16)
}

/** @param {string} path */
async function bundle(path) {
  const { build } = await import('esbuild')
  const part = `${path}.${process.pid}`
  await build({
    entryPoints: [join(ROOT, 'cli/keyturn.ts')],
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    outfile: part,
    // These are for the other commands.
    external: ['./commands.ts', './http.ts', './settings.ts'],
    // Commander is CommonJS and asks for Node's modules.
    banner: { js: "import { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)" },
    logLevel: 'silent',
  })
  renameSync(part, path)
  const kept = readdirSync(dirname(path)).map((name) => join(dirname(path), name))
  for (const old of kept.filter((each) => /scan-\w+\.mjs$/.test(each) && each !== path)) rmSync(old, { force: true })
}
