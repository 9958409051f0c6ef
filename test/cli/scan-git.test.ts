/** Scans of a git history and of what is staged, and the hook that refuses a commit. */
import { chmodSync, copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { tokenSha256 } from '@keyturn/contract'
import { afterAll, describe, expect, test } from 'vitest'
import { fingerprintOf } from '../../cli/scan/findings.ts'
import type { ScanOptions } from '../../cli/scan/run.ts'
import { freshToken, keyturn, places, ROOT, type Scanned, scan, TestRepository, temporaryDirectory } from './scanning.ts'

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

let count = 0
const newRepository = (): TestRepository => new TestRepository(join(temporary, `repository-${++count}`))
const scanHistory = (repository: TestRepository, given: Partial<ScanOptions> = {}): Promise<Scanned> =>
  scan([repository.path], { of: 'history', ...given })
const scanStaged = (repository: TestRepository): Promise<Scanned> => scan([repository.path], { of: 'staged' })

const token = freshToken()
const other = freshToken()

describe('a history', () => {
  test('a token that was removed again is found, with the commit that brought it in', async () => {
    const repository = newRepository()
    repository.commit('start', { a: 'nothing' })
    const guilty = repository.commit('oops', { 'lib/config.ts': `const key =\n  '${token}'\n` })
    repository.commit('remove it', { 'lib/config.ts': 'const key = env.KEY\n' })
    const report = await scanHistory(repository)
    expect(places(report)).toEqual([`${guilty}:lib/config.ts:2:4`])
    expect(report).toMatchObject({ failed: true, scanned: { files: 6 } })
    expect(report.said).toContain(`${guilty.slice(0, 12)}:lib/config.ts:2:4 key`)
    expect(report.said).not.toContain(token.slice(25))
  })

  test('the same content is told of once, however often it was committed', async () => {
    const repository = newRepository()
    const first = repository.commit('one', { a: token })
    repository.commit('copy', { b: token })
    repository.commit('move', { 'c/d': token })
    repository.commit('another version', { a: `${token}\n` })
    const second = repository.git('rev-parse', 'HEAD')
    expect(places(await scanHistory(repository))).toEqual([`${first}:a:1:1`, `${second}:a:1:1`])
  })

  test('branches, a merge’s own content, tags and messages', async () => {
    const [side, merged, message, tagMessage, loose] = Array.from({ length: 5 }, () => freshToken())
    const repository = newRepository()
    repository.commit('start', { a: 'a' })
    repository.git('checkout', '--quiet', '-b', 'side')
    const onSide = repository.commit('side', { side: side ?? '' })
    repository.git('checkout', '--quiet', 'main')
    const inMessage = repository.commit(`the key is ${message}`, { main: 'x' })
    repository.git('merge', '--quiet', '--no-commit', 'side')
    const inMerge = repository.commit('merge', { evil: merged ?? '' })
    repository.git('branch', '--quiet', '-D', 'side')
    repository.git('tag', '-a', 'v1', '-m', `${tagMessage}`)
    writeFileSync(join(temporary, 'loose'), loose ?? '')
    repository.git('tag', 'blob', repository.git('hash-object', '-w', join(temporary, 'loose')))
    const report = await scanHistory(repository)
    const found = Object.fromEntries(report.findings.map(({ tokenSha256: sha256, path, commit }) => [sha256, { path, commit }]))
    expect(found).toEqual({
      [tokenSha256(side ?? '')]: { path: 'side', commit: onSide },
      [tokenSha256(merged ?? '')]: { path: 'evil', commit: inMerge },
      [tokenSha256(message ?? '')]: { commit: inMessage },
      [tokenSha256(tagMessage ?? '')]: {},
      [tokenSha256(loose ?? '')]: {},
    })
    expect(report.findings.every(({ object }) => /^[0-9a-f]{40}$/.test(object ?? ''))).toBe(true)
  })

  test('a range, and what is younger than a time', async () => {
    const repository = newRepository()
    repository.commit('old', { old: token, stays: freshToken() }, '2026-01-01T00:00:00Z')
    const young = repository.commit('young', { young: other }, '2026-03-01T00:00:00Z')
    expect((await scanHistory(repository)).found).toBe(3)
    for (const range of [{ revisions: 'HEAD~1..HEAD' }, { revisions: 'main --not HEAD~1' }, { since: new Date('2026-02-01') }]) {
      expect(places(await scanHistory(repository, { range }))).toEqual([`${young}:young:1:1`])
    }
    expect((await scanHistory(repository, { range: { since: new Date('2026-04-01') } })).failed).toBe(false)
  })

  test.each(['', '--output=x', '-n1', '--all --exec=x'])('the range "%s" is refused', async (revisions) => {
    const repository = newRepository()
    await expect(scanHistory(repository, { range: { revisions } })).rejects.toThrow('That is no range of commits')
  })

  test('a range that git does not know is refused', async () => {
    const range = { revisions: 'no..such' }
    await expect(scanHistory(newRepository(), { range })).rejects.toThrow('git does not know that range')
  })

  test('ignored is what was only ever at ignored paths, and what is accepted', async () => {
    const repository = newRepository()
    repository.commit('one', { 'fixtures/a': token, 'fixtures/b': freshToken(), c: other })
    const moved = repository.commit('copy', { 'src/a': token })
    repository.commit('rules', { '.keyturnignore': `fixtures/\n${fingerprintOf(tokenSha256(other))}\n` })
    const report = await scanHistory(repository)
    expect(places(report)).toEqual([`${moved}:src/a:1:1`])
    expect(report.skipped).toMatchObject({ ignored: 1, accepted: 1 })
  })

  test('large, binary and empty versions, and a submodule', async () => {
    const repository = newRepository()
    const large = Buffer.concat([Buffer.alloc(3_000_000, 'x\n'), Buffer.from(`${token} \n`), Buffer.alloc(500_000, 0)])
    const one = repository.commit('one', { large, empty: '', binary: Buffer.from([0, ...Buffer.from(other)]) })
    repository.git('update-index', '--add', '--cacheinfo', `160000,${one},module`)
    repository.git('commit', '--quiet', '-m', 'module')
    expect(new Set(places(await scanHistory(repository)))).toEqual(new Set([`${one}:large:1500001:1`, `${one}:binary:1:2`]))
    expect(places(await scanHistory(repository, { skipBinary: true }))).toEqual([`${one}:large:1500001:1`])
  })

  test('odd names come through, and a token in a name does not', async () => {
    const repository = newRepository()
    const commit = repository.commit('odd', { 'a\nb "c"': token, [`d/${other}`]: other })
    const report = await scanHistory(repository)
    expect(places(report)).toEqual([`${commit}:a\nb "c":1:1`, `${commit}:d/${other.slice(0, 24)}_…:1:1`])
    expect(report.said + JSON.stringify(report)).not.toContain(other.slice(25))
  })

  test('from below the root, from a bare clone, and without a commit', async () => {
    const repository = newRepository()
    expect(await scanHistory(repository)).toMatchObject({ failed: false, found: 0 })
    const commit = repository.commit('one', { 'deep/a': token })
    expect(places(await scan([join(repository.path, 'deep')], { of: 'history' }))).toEqual([`${commit}:deep/a:1:1`])
    repository.git('clone', '--quiet', '--bare', '.', 'bare.git')
    expect(places(await scan([join(repository.path, 'bare.git')], { of: 'history' }))).toEqual([`${commit}:deep/a:1:1`])
  })

  test('a shallow clone is scanned as far as it goes, and that is said', async () => {
    const repository = newRepository()
    repository.commit('one', { a: token })
    repository.commit('two', { a: 'nothing' })
    const url = pathToFileURL(repository.path).href
    repository.git('clone', '--quiet', '--depth', '1', url, 'shallow')
    const report = await scan([join(repository.path, 'shallow')], { of: 'history' })
    expect(report).toMatchObject({ failed: false, found: 0 })
    expect(report.said).toContain('This clone is shallow')
  })

  test('a clone without its objects fails, and fetches nothing', async () => {
    const repository = newRepository()
    repository.commit('one', { a: token })
    repository.git('config', 'uploadpack.allowFilter', 'true')
    const url = pathToFileURL(repository.path).href
    repository.git('clone', '--quiet', '--bare', '--filter=blob:none', url, 'partial.git')
    const partial = join(repository.path, 'partial.git')
    await expect(scan([partial], { of: 'history' })).rejects.toThrow(/^git (has no object|could not do it)/)
    const missing = new TestRepository(partial, false).tryGit(['cat-file', '-e', 'HEAD:a'], {
      GIT_NO_LAZY_FETCH: '1',
      GIT_ALLOW_PROTOCOL: '',
    })
    expect(missing.code).not.toBe(0)
  })

  test('a repository’s settings run nothing', async () => {
    const repository = newRepository()
    const trap = join(temporary, 'trap')
    writeFileSync(trap, `#!/bin/sh\ntouch ${trap}-sprung\n`)
    chmodSync(trap, 0o755)
    repository.commit('one', { a: token, '.gitattributes': '* diff=x\n' })
    for (const name of ['core.fsmonitor', 'core.pager', 'diff.x.textconv', 'diff.external', 'gpg.program']) {
      repository.git('config', name, trap)
    }
    repository.git('config', 'log.showSignature', 'true')
    expect((await scanHistory(repository)).found).toBe(1)
    await scanStaged(repository)
    expect(existsSync(`${trap}-sprung`)).toBe(false)
  })
})

describe('what is staged', () => {
  test('new tokens of staged content, and nothing else', async () => {
    const repository = newRepository()
    repository.commit('before', { old: `${token}\n`, 'fixtures/x': 'x', '.keyturnignore': 'fixtures/' })
    const files = { old: `changed\n${token}\n ${other}`, 'sub/new': token, 'fixtures/x': other }
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(join(repository.path, name, '..'), { recursive: true })
      writeFileSync(join(repository.path, name), content)
    }
    repository.git('add', '--all')
    writeFileSync(join(repository.path, 'sub/new'), 'the work tree has it no more')
    writeFileSync(join(repository.path, 'unstaged'), other)
    expect(places(await scanStaged(repository))).toEqual(['old:3:2', 'sub/new:1:1'])
  })

  test('before the first commit, from below the root, and a name', async () => {
    const repository = newRepository()
    mkdirSync(join(repository.path, 'sub'))
    writeFileSync(join(repository.path, 'sub', other), token)
    repository.git('add', '--all')
    const report = await scan([join(repository.path, 'sub')], { of: 'staged' })
    const shown = `sub/${other.slice(0, 24)}_…`
    expect(places(report)).toEqual([`${shown}:name`, `${shown}:1:1`])
  })

  test('nothing staged is nothing found', async () => {
    const repository = newRepository()
    repository.commit('one', { a: token })
    expect(await scanStaged(repository)).toMatchObject({ failed: false, scanned: { files: 0 } })
  })

  test('a bare repository has nothing staged', async () => {
    const repository = newRepository()
    repository.git('clone', '--quiet', '--bare', '.', 'bare.git')
    await expect(scan([join(repository.path, 'bare.git')], { of: 'staged' })).rejects.toThrow(
      'A bare repository has nothing staged',
    )
  })
})

describe('the pre-commit hook', () => {
  const commands = join(temporary, 'bin')
  mkdirSync(commands)
  symlinkSync(join(ROOT, 'cli/keyturn.js'), join(commands, 'keyturn'))
  const env = { PATH: `${commands}${delimiter}${process.env['PATH']}` }

  function withHook(): TestRepository {
    const repository = newRepository()
    repository.commit('start', { a: 'nothing' })
    copyFileSync(join(ROOT, 'docs/examples/pre-commit'), join(repository.path, '.git/hooks/pre-commit'))
    return repository
  }
  const stage = (repository: TestRepository, content: string): void => {
    writeFileSync(join(repository.path, 'a'), content)
    repository.git('add', 'a')
  }

  test('refuses a commit with a token, and says where without showing it', () => {
    const repository = withHook()
    stage(repository, `key = ${token}`)
    const { code, output } = repository.tryGit(['commit', '-m', 'oops'], env)
    expect(code).toBe(1)
    expect(output).toMatch(/^a:1:7 key .*\n1 token in 1 object, 0\.0 MB\npre-commit: not committed\./)
    expect(output).not.toContain(token.slice(25))
    expect(repository.git('log', '--format=%s')).toBe('start')
  })

  test('sees what `commit --all` stages, and lets pass what is clean', () => {
    const repository = withHook()
    writeFileSync(join(repository.path, 'a'), token)
    expect(repository.tryGit(['commit', '--all', '-m', 'oops'], env).code).toBe(1)
    stage(repository, 'key = env.KEY')
    expect(repository.tryGit(['commit', '-m', 'fine'], env)).toMatchObject({ code: 0 })
    expect(repository.git('log', '--format=%s')).toBe('fine\nstart')
  })

  test('without the command nothing is committed', () => {
    const repository = withHook()
    stage(repository, 'fine')
    const { code, output } = repository.tryGit(['commit', '-m', 'fine'], { PATH: '/usr/bin:/bin' })
    expect(code).toBe(1)
    expect(output).toContain('the command keyturn is missing')
  })

  test('the command takes it from where it is called', async () => {
    const repository = newRepository()
    stage(repository, token)
    const { code, stdout } = await keyturn(['scan', '--staged'], { cwd: repository.path })
    expect(code).toBe(1)
    expect(stdout).toMatch(/^a:1:1 key/)
  })
})
