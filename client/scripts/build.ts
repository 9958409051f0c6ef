/**
 * The package as it is published: JavaScript with what it takes of the contract inside, so that whoever installs it does not install the contract's schemas;
 * and declarations. `node --import tsx client/scripts/build.ts [folder]`
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const CLIENT = fileURLToPath(new URL('..', import.meta.url))
const source = JSON.parse(readFileSync(join(CLIENT, 'package.json'), 'utf8')) as {
  exports: Record<string, string>
  dependencies: Record<string, string>
}

const folder = resolve(process.argv[2] ?? join(CLIENT, 'dist/package'))
const dist = join(folder, 'dist')
rmSync(folder, { recursive: true, force: true })
mkdirSync(dist, { recursive: true })

const { '@keyturn/contract': _inside, ...dependencies } = source.dependencies
await build({
  entryPoints: Object.values(source.exports).map((path) => join(CLIENT, path)),
  outdir: dist,
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'es2022',
  minify: true,
  external: ['node:*', ...Object.keys(dependencies)],
  logLevel: 'error',
})

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
writeFileSync(
  join(folder, 'tsconfig.json'),
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
    files: Object.values(source.exports).map((path) => join(CLIENT, path)),
  }),
)
execFileSync(process.execPath, [tsc, '-p', join(folder, 'tsconfig.json')], { stdio: 'inherit' })
for (const file of reachable(Object.values(source.exports).map((path) => path.replace(/^.*src./, '').replace(/ts$/, 'd.ts')))) {
  mkdirSync(join(dist, dirname(file)), { recursive: true })
  cpSync(join(folder, 'types/client/src', file), join(dist, file))
}
for (const left of ['types', 'tsconfig.json']) rmSync(join(folder, left), { recursive: true })

/** Declarations that the entries lead to; nobody sees the others. */
function reachable(entries: readonly string[]): Set<string> {
  const found = new Set(entries)
  for (const file of found) {
    const text = readFileSync(join(folder, 'types/client/src', file), 'utf8')
    for (const [, to = ''] of text.matchAll(/from '(\.[^']+)'/g))
      found.add(join(dirname(file), to.replace(/(?:\.ts|\.js)$/, '.d.ts')))
  }
  return found
}

const exports = Object.fromEntries(
  Object.entries(source.exports).map(([name, path]) => {
    const file = path.replace('./src/', './dist/').replace(/[.]ts$/, '')
    return [name, { types: `${file}.d.ts`, default: `${file}.js` }]
  }),
)
writeFileSync(join(folder, 'package.json'), `${JSON.stringify({ ...source, exports, dependencies }, null, 2)}\n`)
cpSync(join(CLIENT, 'README.md'), join(folder, 'README.md'))
