/**
 * The gateway and the contract as they are installed elsewhere: JavaScript with declarations, for Node as it is.
 * `node --import tsx gateway/scripts/build.ts [folder]`
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PACKAGES = ['contract', 'gateway'] as const

const place = resolve(process.argv[2] ?? join(ROOT, 'gateway/dist'))
const made = join(place, '.made')
mkdirSync(made, { recursive: true })
compile()
for (const name of PACKAGES) publish(name)
rmSync(made, { recursive: true })

/** Both at once: what the gateway takes of the contract is looked at once. */
function compile(): void {
  const config = join(made, 'tsconfig.json')
  const files = PACKAGES.flatMap((name) =>
    readdirSync(join(ROOT, name, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => join(ROOT, name, 'src', file)),
  )
  const compilerOptions = {
    noEmit: false,
    declaration: true,
    // That is `npm run typecheck`.
    noCheck: true,
    rewriteRelativeImportExtensions: true,
    outDir: made,
    rootDir: ROOT,
    typeRoots: [join(ROOT, 'node_modules/@types')],
  }
  writeFileSync(config, JSON.stringify({ extends: join(ROOT, 'tsconfig.json'), compilerOptions, include: [], files }))
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '-p', config], { stdio: 'inherit' })
}

function publish(name: (typeof PACKAGES)[number]): void {
  const source = join(ROOT, name)
  const { exports, ...manifest } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as {
    exports: Record<string, string>
  }
  const folder = join(place, '@keyturn', name)
  rmSync(folder, { recursive: true, force: true })
  cpSync(join(made, name, 'src'), join(folder, 'dist'), { recursive: true })
  for (const [from, file] of [
    [source, 'README.md'],
    [ROOT, 'LICENSE'],
  ] as const)
    cpSync(join(from, file), join(folder, file))
  const published = Object.entries(exports).map(([entry, file]) => {
    const built = file.replace('./src/', './dist/').replace(/[.]ts$/, '')
    return [entry, { types: `${built}.d.ts`, default: `${built}.js` }]
  })
  const written = { ...manifest, files: ['dist'], exports: Object.fromEntries(published) }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(written, null, 2)}\n`)
}
