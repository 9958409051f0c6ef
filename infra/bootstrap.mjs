/** What `npm start` and `npm test` do before anything else, on a machine that may lack everything but Node. No dependencies. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

const OLDEST_NODE = [20, 15]
const LOOK_AGAIN_MS = 200

/** Ends the process with one sentence when Node is too old. */
export function requireNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return
  process.stderr.write(
    `Keyturn needs Node.js ${OLDEST_NODE.join('.')} or newer; this is ${process.versions.node}: install a newer one.\n`,
  )
  process.exit(1)
}

/** @param {string} path */
const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0)

function isInstalled() {
  const installed = modified(join(ROOT, 'node_modules', '.package-lock.json'))
  return installed > 0 && installed >= modified(join(ROOT, 'package-lock.json'))
}

/** Runs `npm ci` when it is needed; one process at a time, the others wait for it. */
export async function ensureInstalled() {
  if (isInstalled()) return
  const release = await lock(join(ROOT, '.keyturn', 'install.lock'), 'waiting for another run that installs the dependencies')
  try {
    if (isInstalled()) return
    process.stderr.write('installing the dependencies (npm ci)\n')
    const ci = npmCommand(['ci', '--loglevel=error', '--no-progress'])
    const { code, output } = await run(ci.command, ci.args)
    if (code === 0) return
    process.stderr.write(`${output}\nThe installation failed: see above. Check the network and npm's settings, then try again.\n`)
    release()
    process.exit(1)
  } finally {
    release()
  }
}

/** npm as it is running now, where it is. @param {string[]} args */
export function npmCommand(args) {
  const cli = process.env.npm_execpath
  return cli?.endsWith('.js') ? { command: process.execPath, args: [cli, ...args] } : { command: 'npm', args }
}

/**
 * Runs a program to its end, its output kept. It ends when this process is asked to.
 * @param {string} command @param {string[]} args
 * @returns {Promise<{ code: number, output: string }>}
 */
export function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data))
    const stop = () => child.kill('SIGTERM')
    process.on('exit', stop)
    const done = (/** @type {number} */ code) => {
      process.removeListener('exit', stop)
      resolve({ code, output })
    }
    child.once('error', (error) => {
      output += error.message
      done(1)
    })
    child.once('close', (code) => done(code ?? 1))
  })
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

/**
 * A lock that is a directory with the owner's pid in it; a dead owner's is taken over.
 * @param {string} path
 * @param {string} [waiting] what is said when another one has it
 * @returns {Promise<() => void>}
 */
export async function lock(path, waiting) {
  mkdirSync(join(path, '..'), { recursive: true })
  const release = () => rmSync(path, { recursive: true, force: true })
  for (let saidSo = false; ; ) {
    try {
      mkdirSync(path)
      writeFileSync(join(path, 'pid'), String(process.pid))
      process.once('exit', release)
      return release
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    }
    const file = join(path, 'pid')
    const owner = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0
    // Without a pid its owner is about to write it, or died just then.
    const dead = owner > 0 ? !isAlive(owner) : Date.now() - modified(path) > 10_000
    if (dead) release()
    else if (!saidSo && waiting !== undefined) process.stderr.write(`${waiting}\n`)
    saidSo = true
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS))
  }
}
