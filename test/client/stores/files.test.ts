/** Stores on disk: whole or not at all, one of many writers at a time, and clear words for what a disk can say. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Store, StoreConflict, type StoredCredential } from '@keyturn/client'
import { envFileStore, fileStore } from '@keyturn/client/node'
import { build } from 'esbuild'
import { describe, expect, onTestFinished, test } from 'vitest'
import { issueKey } from '../../gateway/support.ts'
import { eventually } from '../../support/house.ts'

const asRoot = process.getuid?.() === 0

async function folder(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'keyturn-store-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

const keyOf = (token: string) => ({ keyId: token.split('_')[2] ?? '', kind: 'bearer' as const, token })
const some = (more: Partial<StoredCredential> = {}): StoredCredential => ({
  format: 1,
  current: keyOf(issueKey().token),
  ...more,
})
const claimed = (before: StoredCredential): StoredCredential => some({ previous: before.current })

/** Each kind on a path of its own; `file` is what others look at. */
const KINDS = {
  file: (directory: string) => ({ path: join(directory, 'key.json'), store: fileStore(join(directory, 'key.json')) }),
  'environment file': (directory: string) => {
    const path = join(directory, '.env')
    return { path: `${path}.keyturn`, store: envFileStore({ path, variable: 'API_KEY' }) }
  },
}
type Kind = keyof typeof KINDS
const kinds = Object.keys(KINDS) as Kind[]

async function refusal(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  return promise.then(
    () => Promise.reject(new Error('it was not refused')),
    ({ code, message }: { code: string; message: string }) => ({ code, message }),
  )
}

describe.each(kinds)('%s', (kind) => {
  test('holds what it is given, for its owner alone, and leaves nothing beside it', async () => {
    const directory = await folder()
    const { path, store } = KINDS[kind](directory)
    expect(await store.read()).toBeUndefined()
    const first = some()
    const version = await store.replace(first, undefined)
    expect(await store.read()).toEqual({ value: first, version })
    const second = claimed(first)
    const next = await store.replace(second, version)
    expect(await KINDS[kind](directory).store.read()).toEqual({ value: second, version: next })
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect((await readdir(directory)).sort()).toEqual(kind === 'file' ? ['key.json'] : ['.env', '.env.keyturn'])
  })

  test.skipIf(!asRoot)('stays with the owner and the group that it has (needs root, to give it to another)', async () => {
    const directory = await folder()
    const { path, store } = KINDS[kind](directory)
    const first = some()
    const version = await store.replace(first, undefined)
    const seen = kind === 'file' ? [path] : [path, join(directory, '.env')]
    for (const file of seen) await chown(file, 1_234, 4_321)
    await store.replace(claimed(first), version)
    for (const file of seen) expect(await stat(file)).toMatchObject({ uid: 1_234, gid: 4_321 })
  })

  test('of twenty writers at once one wins each step, and none is lost', async () => {
    const directory = await folder()
    const stores = Array.from({ length: 20 }, () => KINDS[kind](directory).store)
    let before = some()
    let version = await (stores[0] as Store).replace(before, undefined)
    for (let step = 0; step < 3; step++) {
      const tries = await Promise.allSettled(
        stores.map(async (store) => {
          const value = claimed(before)
          return { value, version: await store.replace(value, version) }
        }),
      )
      const won = tries.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
      expect(won).toHaveLength(1)
      for (const each of tries) if (each.status === 'rejected') expect(each.reason).toBeInstanceOf(StoreConflict)
      expect(await stores[7]?.read()).toEqual(won[0])
      before = won[0]?.value ?? before
      version = won[0]?.version ?? version
    }
  })

  test('tells who watches it of a change, and no more when they have left', async () => {
    const directory = await folder()
    const { store } = KINDS[kind](directory)
    const first = some()
    const version = await store.replace(first, undefined)
    let told = 0
    const leave = KINDS[kind](directory).store.watch?.(() => {
      told += 1
    })
    const next = await store.replace(claimed(first), version)
    await eventually(() => told > 0, 'a change')
    leave?.()
    const heard = told
    await store.replace(claimed(first), next)
    await pause(50)
    expect(told).toBe(heard)
  })

  test.each([
    ['garbage', 'unreadable', '\u0000\u0001 kt_prod_secret'],
    ['half of it', 'unreadable', '{"format":1,"current":{"keyId":"a","kind":"bearer","token":"kt_prod_secret"'],
    ['nothing', 'unreadable', ''],
    ['something else', 'unreadable', '{"name":"kt_prod_secret"}'],
    ['no key', 'unreadable', '{"format":1,"current":{"keyId":"a","kind":"bearer"}}'],
    ['a key of no kind', 'unreadable', '{"format":1,"current":{"keyId":"a","kind":"kt_prod_secret","token":"b"}}'],
    ['an older format', 'unreadable', '{"format":0,"token":"kt_prod_secret"}'],
    ['a newer format', 'newer-format', '{"format":2,"kt_prod_secret":true}'],
  ])('%s is refused as %s, is not quoted, and not overwritten', async (_, code, text) => {
    const { path, store } = KINDS[kind](await folder())
    await writeFile(path, text)
    const said = await refusal(store.read())
    expect(said.code).toBe(code)
    expect(said.message).toContain(path)
    expect(said.message).not.toContain('secret')
    expect((await refusal(store.replace(some(), undefined))).code).toBe(code)
    expect(await readFile(path, 'utf8')).toBe(text)
  })

  test('without a folder: says so', async () => {
    const { store } = KINDS[kind](join(await folder(), 'not', 'there'))
    expect(await store.read()).toBeUndefined()
    expect((await refusal(store.replace(some(), undefined))).message).toContain('the folder is not there')
  })

  test.skipIf(!asRoot)('on a full disk: says so, and keeps what it held (needs root, to mount one)', async () => {
    const directory = await folder()
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory])
    onTestFinished(() => void execFileSync('umount', [directory]))
    const { store } = KINDS[kind](directory)
    const first = some()
    const version = await store.replace(first, undefined)
    await writeFile(join(directory, 'other'), Buffer.alloc(65_536)).catch(() => undefined)
    const said = await refusal(store.replace(some({ credentialId: 'x'.repeat(20_000) }), version))
    expect(said).toMatchObject({ code: 'no-space' })
    expect(await store.read()).toEqual({ value: first, version })
    await rm(join(directory, 'other'))
    await store.replace(claimed(first), version)
    expect((await readdir(directory)).filter((name) => name.includes('.new-'))).toEqual([])
  })
})

/** As somebody who may not do everything: root may write wherever it likes. */
async function asNobody(script: string): Promise<string> {
  const directory = await folder()
  await build({
    stdin: { contents: script, resolveDir: fileURLToPath(new URL('.', import.meta.url)), loader: 'ts' },
    outfile: join(directory, 'script.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
  })
  await chmod(directory, 0o755)
  const ids = asRoot ? { uid: 65_534, gid: 65_534 } : {}
  const child = spawn(process.execPath, [join(directory, 'script.mjs')], { ...ids, stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await once(child, 'close')
  return text
}

describe('without permission', () => {
  const trying = (path: string, what: string): string => `
    import { fileStore } from '@keyturn/client/node'
    const store = fileStore(${JSON.stringify(path)})
    const key = { keyId: 'a', kind: 'bearer', token: 'b' } as const
    const found = await store.read().catch((error) => ({ error }))
    if ('error' in (found ?? {})) console.log('read', found.error.code)
    else await store.replace({ format: 1, current: key }, found?.version).then(() => console.log('replaced'), (error) => console.log('${what}', error.code, error.message))`

  test('to read or to write: says so', async () => {
    const directory = await folder()
    const path = join(directory, 'key.json')
    await fileStore(path).replace(some(), undefined)
    await chmod(directory, 0o755)
    await chmod(path, 0o000)
    expect(await asNobody(trying(path, 'write'))).toBe('read not-allowed\n')
    await chmod(path, 0o444)
    await chmod(directory, 0o555)
    expect(await asNobody(trying(path, 'write'))).toMatch(/^write not-allowed .*no permission/)
    await chmod(directory, 0o777)
    // A file that is not to be written to is not replaced either.
    expect(await asNobody(trying(path, 'write'))).toMatch(/^write not-allowed/)
    await chmod(directory, 0o755)
  })

  test.skipIf(!asRoot)(
    'to leave the key to the group that reads it: says so, and replaces nothing (needs root, to give it)',
    async () => {
      const directory = await folder()
      await chmod(directory, 0o777)
      const path = join(directory, '.env')
      const { token } = issueKey()
      await writeFile(path, `API_KEY=${token}\n`)
      const writing = `
      import { envFileStore } from '@keyturn/client/node'
      const store = envFileStore({ path: ${JSON.stringify(path)}, variable: 'API_KEY' })
      const { value, version } = await store.read()
      const next = { ...value, current: { ...value.current, token: 'another' } }
      await store.replace(next, version).then(() => console.log('replaced'), (error) => console.log(error.code, error.message))`
      await chown(path, 65_534, 4_321)
      await chmod(path, 0o640)
      expect(await asNobody(writing)).toMatch(/^not-allowed .*\.env: a new file could not keep its group, who reads it\./)
      expect(await readFile(path, 'utf8')).toBe(`API_KEY=${token}\n`)
      expect((await readdir(directory)).filter((name) => name.includes('.new-'))).toEqual([])
      // To a group that reads nothing there is nothing to leave.
      await chmod(path, 0o600)
      expect(await asNobody(writing)).toBe('replaced\n')
    },
  )
})

describe('processes that are killed', () => {
  const writer = (path: string): string => `
    import { fileStore, StoreConflict } from '@keyturn/client/node'
    const store = fileStore(${JSON.stringify(path)})
    console.log('at work')
    for (;;) {
      const { value, version } = await store.read()
      try {
        const count = Number(value.current.token) + 1
        await store.replace({ ...value, current: { ...value.current, token: String(count) } }, version)
      } catch (error) {
        if (!(error instanceof StoreConflict)) { console.error(error); process.exit(1) }
      }
    }`

  test('leave a whole file, and no lock that keeps others waiting', async () => {
    const directory = await folder()
    const path = join(directory, 'key.json')
    const store = fileStore(path)
    await store.replace({ format: 1, current: { keyId: 'a', kind: 'bearer', token: '0' } }, undefined)
    const program = join(directory, 'writer.mjs')
    await build({
      stdin: { contents: writer(path), resolveDir: fileURLToPath(new URL('.', import.meta.url)), loader: 'ts' },
      outfile: program,
      bundle: true,
      platform: 'node',
      format: 'esm',
      logLevel: 'error',
    })
    let latest = 0
    for (let round = 0; round < 4; round++) {
      const writers = Array.from({ length: 3 }, () =>
        spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] }),
      )
      await Promise.all(writers.map(({ stdout }) => once(stdout, 'data')))
      await pause(20 + Math.random() * 100)
      for (const each of writers) each.kill('SIGKILL')
      await Promise.all(writers.map((each) => once(each, 'close')))
      const found = await store.read()
      const { current } = found?.value ?? {}
      expect(current?.kind === 'bearer' && Number(current.token)).toBeGreaterThanOrEqual(latest)
      latest = current?.kind === 'bearer' ? Number(current.token) : latest
      const begun = performance.now()
      await store.replace({ format: 1, current: { keyId: 'a', kind: 'bearer', token: String(latest + 1) } }, found?.version)
      expect(performance.now() - begun).toBeLessThan(5_000)
    }
    expect(latest).toBeGreaterThan(3)
    expect((await readdir(directory)).sort()).toEqual(['key.json', 'writer.mjs'])
  })

  test('which nobody has waited for, or whose id another one has now, hold no lock', async () => {
    const directory = await folder()
    const store = fileStore(join(directory, 'key.json'))
    const version = await store.replace(some(), undefined)
    const [boot, namespace] = await Promise.all([
      readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
      import('node:fs/promises').then(({ readlink }) => readlink('/proc/self/ns/pid')),
    ])
    const { createHash } = await import('node:crypto')
    const space = createHash('sha256')
      .update(boot + namespace)
      .digest('hex')
      .slice(0, 12)
    // Of this very process, but of another start.
    await writeFile(join(directory, `.key.json.lock-0aaaaaaaa-${space}-${process.pid}-1-ffffffffffffffff`), '')
    await store.replace(some(), version)
    expect(await readdir(directory)).toEqual(['key.json'])
  })
})

test('a link is followed: what it leads to is replaced', async () => {
  const directory = await folder()
  await mkdir(join(directory, 'real'))
  const real = fileStore(join(directory, 'real', 'key.json'))
  const version = await real.replace(some(), undefined)
  await symlink('real/key.json', join(directory, 'link.json'))
  const next = some()
  await fileStore(join(directory, 'link.json')).replace(next, version)
  expect((await real.read())?.value).toEqual(next)
})

describe('an environment file', () => {
  const BEFORE = '# ours\nNAME="x y" # kept\r\nexport API_KEY="%s" # the key\nOTHER=$NAME\n\nAPI_KEY_2=no'

  test('keeps its other lines, its permissions, and the way the variable is written', async () => {
    const path = join(await folder(), '.env')
    const { token } = issueKey()
    await writeFile(path, BEFORE.replace('%s', token), { mode: 0o640 })
    const store = envFileStore({ path, variable: 'API_KEY' })
    const found = await store.read()
    expect(found?.value).toEqual({ format: 1, current: keyOf(token) })
    const next = some({ previous: keyOf(token) })
    await store.replace(next, found?.version)
    const written = await readFile(path, 'utf8')
    expect(written).toBe(BEFORE.replace('%s', next.current.kind === 'bearer' ? next.current.token : ''))
    expect((await stat(path)).mode & 0o777).toBe(0o640)
  })

  test('that a person puts another key into: that one counts', async () => {
    const path = join(await folder(), '.env')
    const store = envFileStore({ path, variable: 'API_KEY' })
    const first = some()
    const version = await store.replace(claimed(first), await store.replace(first, undefined))
    const { token } = issueKey()
    await writeFile(path, `API_KEY='${token}'\n`)
    const found = await store.read()
    expect(found?.value).toEqual({ format: 1, current: keyOf(token) })
    await expect(store.replace(first, version)).rejects.toBeInstanceOf(StoreConflict)
  })

  test('that was left behind by a kill is brought up to date by whoever reads it', async () => {
    const path = join(await folder(), '.env')
    const store = envFileStore({ path, variable: 'API_KEY' })
    const first = some()
    await store.replace(first, undefined)
    const before = await readFile(path, 'utf8')
    const second = claimed(first)
    await store.replace(second, (await store.read())?.version)
    const after = await readFile(path, 'utf8')
    await writeFile(path, before)
    expect((await store.read())?.value).toEqual(second)
    expect(await readFile(path, 'utf8')).toBe(after)
  })

  test('takes no Ed25519 key and no name that is none', async () => {
    const path = join(await folder(), '.env')
    const privateKey = { kty: 'OKP', crv: 'Ed25519', x: 'a', d: 'b' }
    const signing = some({ current: { keyId: 'a', kind: 'ed25519', privateKey } })
    expect((await refusal(envFileStore({ path, variable: 'A' }).replace(signing, undefined))).message).toContain('file store')
    expect(() => envFileStore({ path, variable: 'A=B' })).toThrow(TypeError)
  })
})
