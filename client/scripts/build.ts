/**
 * The packages as they are published: JavaScript with what it takes of the contract inside, so that whoever installs one does not install the contract's
 * schemas; and declarations. Two, so that a client whose key is in a file installs no stores of clouds; the agent is run by the `keyturn`
 * command alone. `node --import tsx client/scripts/build.ts [folder]`
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'

const CLIENT = fileURLToPath(new URL('..', import.meta.url))
const { exports, dependencies, ...common } = JSON.parse(readFileSync(join(CLIENT, 'package.json'), 'utf8')) as {
  version: string
  exports: Record<string, string>
  dependencies: Record<string, string>
}

interface Package {
  readonly name: string
  readonly description?: string
  readonly readme: string
  readonly entries: readonly string[]
  readonly dependencies: Readonly<Record<string, string | undefined>>
}
const PACKAGES: readonly Package[] = [
  {
    name: '@keyturn/client',
    readme: 'README.md',
    entries: ['.', './node'],
    dependencies: { jose: dependencies['jose'], 'structured-headers': dependencies['structured-headers'] },
  },
  {
    name: '@keyturn/stores',
    description: 'Stores of @keyturn/client in AWS Secrets Manager, Vault or OpenBao, and Kubernetes',
    readme: 'stores.md',
    entries: ['./aws', './kubernetes', './vault'],
    dependencies: { '@keyturn/client': common.version, aws4fetch: dependencies['aws4fetch'] },
  },
]
/** What the stores share with the client is the client's: an error has to be of one class. */
const SHARED = /^\.\.?\/(?:store|document)[.](?:ts|js)$/
const takeFromClient: Plugin = {
  name: 'take-from-client',
  setup: (making) => making.onResolve({ filter: SHARED }, () => ({ path: '@keyturn/client', external: true })),
}

const place = resolve(process.argv[2] ?? join(CLIENT, 'dist'))
for (const each of PACKAGES) await make(each, join(place, each.name))

async function make({ readme, entries, ...what }: Package, folder: string): Promise<void> {
  const sources = entries.map((entry) => exports[entry] ?? '')
  const ofClient = '@keyturn/client' in what.dependencies
  const dist = join(folder, 'dist')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(dist, { recursive: true })
  await build({
    entryPoints: sources.map((path) => join(CLIENT, path)),
    outdir: dist,
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    external: ['node:*', ...Object.keys(what.dependencies)],
    plugins: ofClient ? [takeFromClient] : [],
    logLevel: 'error',
  })
  const types = declare(folder, sources)
  for (const file of reachable(types, sources, ofClient)) {
    mkdirSync(join(dist, dirname(file)), { recursive: true })
    const text = readFileSync(join(types, file), 'utf8')
    const own = ofClient
      ? text.replaceAll(/from '([^']+)'/g, (all, from) => (SHARED.test(from) ? "from '@keyturn/client'" : all))
      : text
    writeFileSync(join(dist, file), own)
  }
  rmSync(join(folder, 'types'), { recursive: true })
  const published = entries.map((entry, i) => {
    const file = sources[i]?.replace('./src/', './dist/').replace(/[.]ts$/, '')
    return [entry, { types: `${file}.d.ts`, default: `${file}.js` }]
  })
  writeFileSync(
    join(folder, 'package.json'),
    `${JSON.stringify({ ...common, ...what, exports: Object.fromEntries(published) }, null, 2)}\n`,
  )
  cpSync(join(CLIENT, readme), join(folder, 'README.md'))
}

/** @returns the folder with all declarations, also those that nobody sees */
function declare(folder: string, sources: readonly string[]): string {
  const config = join(folder, 'tsconfig.json')
  writeFileSync(
    config,
    JSON.stringify({
      extends: join(CLIENT, '../tsconfig.json'),
      compilerOptions: {
        noEmit: false,
        declaration: true,
        emitDeclarationOnly: true,
        rewriteRelativeImportExtensions: true,
        removeComments: false,
        stripInternal: true,
        outDir: join(folder, 'types'),
        rootDir: join(CLIENT, '..'),
        typeRoots: [join(CLIENT, '../node_modules/@types')],
      },
      include: [],
      files: sources.map((path) => join(CLIENT, path)),
    }),
  )
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '-p', config], { stdio: 'inherit' })
  rmSync(config)
  return join(folder, 'types/client/src')
}

/** Declarations that the entries lead to. */
function reachable(types: string, sources: readonly string[], ofClient: boolean): Set<string> {
  const found = new Set(sources.map((path) => path.replace(/^.*src./, '').replace(/ts$/, 'd.ts')))
  for (const file of found) {
    const text = readFileSync(join(types, file), 'utf8')
    for (const [, to = ''] of text.matchAll(/from '(\.[^']+)'/g))
      if (!ofClient || !SHARED.test(to)) found.add(join(dirname(file), to.replace(/(?:\.ts|\.js)$/, '.d.ts')))
  }
  return found
}
