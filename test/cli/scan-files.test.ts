/** Scans of files and directories: what is read, what is left out, what is told. */
import { spawnSync } from 'node:child_process'
import { chmodSync, closeSync, ftruncateSync, mkdirSync, openSync, symlinkSync, writeFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { tokenSha256 } from '@keyturn/contract'
import { afterAll, describe, expect, test } from 'vitest'
import { fingerprintOf, LISTED } from '../../cli/scan/findings.ts'
import { freshToken, keyturn, places, scan, temporaryDirectory, writeFiles } from './scanning.ts'

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

let count = 0
/** A new directory with these files. */
function tree(files: Readonly<Record<string, string | Buffer>>): string {
  const path = join(temporary, `tree-${++count}`)
  mkdirSync(path)
  writeFiles(path, files)
  return path
}

/** Findings' places with the directory left out. */
const placesIn = (directory: string, report: Parameters<typeof places>[0]): string[] =>
  places(report).map((place) => place.replace(`${directory}/`, ''))

const token = freshToken()
const utf16 = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(`\n${token}`, 'utf16le')])
const binary = Buffer.concat([Buffer.from([0, 1, 2]), Buffer.from(token), Buffer.from([0xff, 0])])

describe('a tree', () => {
  test('every file below it, in the order of their paths', async () => {
    const directory = tree({
      'b/deep/er/x': `\n ${token}`,
      a: token,
      'b/a': 'nothing',
      'b/b.txt': `x\n\n${token}\n${token}`,
      empty: '',
    })
    const report = await scan([directory])
    expect(placesIn(directory, report)).toEqual(['a:1:1', 'b/b.txt:3:1', 'b/b.txt:4:1', 'b/deep/er/x:2:2'])
    expect(report).toMatchObject({ failed: true, found: 4, unread: 0, scanned: { files: 5 } })
  })

  test('nothing is found where there is nothing', async () => {
    const report = await scan([tree({ a: 'kt_prod_0000000000000000_no', b: token.slice(0, -1), c: `${token}0` })])
    expect(report).toMatchObject({ failed: false, found: 0, scanned: { files: 3 } })
  })

  test('a file or several paths can be named', async () => {
    const directory = tree({ a: token, 'b/c': token, d: token })
    expect(placesIn(directory, await scan([join(directory, 'd'), join(directory, 'b')]))).toEqual(['d:1:1', 'b/c:1:1'])
  })

  test('a finding says what is known without the token', async () => {
    const { findings } = await scan([tree({ a: token })])
    const [, environment, keyId] = token.split('_')
    const sha256 = tokenSha256(token)
    expect(findings).toMatchObject([{ brand: 'kt', environment, keyId, tokenSha256: sha256, fingerprint: fingerprintOf(sha256) }])
  })

  test('only tokens of the brands asked for', async () => {
    const directory = tree({ a: freshToken('tm'), b: freshToken('acme') })
    expect(placesIn(directory, await scan([directory], { brands: ['tm'] }))).toEqual(['a:1:1'])
    expect(placesIn(directory, await scan([directory], { brands: ['tm', 'acme'] }))).toEqual(['a:1:1', 'b:1:1'])
  })

  test('.git is left out, and what is only called so is not', async () => {
    const directory = tree({ '.git/config': token, 'a/.git/x': token, 'b/.git': token, '.github/x': token })
    expect(placesIn(directory, await scan([directory]))).toEqual(['.github/x:1:1', 'b/.git:1:1'])
  })
})

describe('awkward files', () => {
  test('binary files and UTF-16 are scanned', async () => {
    const directory = tree({ binary, utf16 })
    expect(placesIn(directory, await scan([directory]))).toEqual(['binary:1:4', 'utf16:2:1'])
  })

  test('--skip-binary leaves out what has a NUL, and UTF-16 is text', async () => {
    const directory = tree({ binary, utf16 })
    const report = await scan([directory], { skipBinary: true })
    expect(placesIn(directory, report)).toEqual(['utf16:2:1'])
    expect(report.skipped.binary).toBe(1)
  })

  test('symbolic links are not followed: loops end, and what is outside stays outside', async () => {
    const outside = tree({ secret: token })
    const directory = tree({ 'a/x': token })
    symlinkSync('..', join(directory, 'a/loop'))
    symlinkSync('self', join(directory, 'self'))
    symlinkSync(outside, join(directory, 'outside'))
    symlinkSync(join(outside, 'secret'), join(directory, 'file'))
    const report = await scan([directory])
    expect(placesIn(directory, report)).toEqual(['a/x:1:1'])
    expect(report).toMatchObject({ skipped: { links: 4 }, unread: 0 })
  })

  test('a link that is named is followed', async () => {
    const directory = tree({ 'real/x': token })
    symlinkSync('real', join(directory, 'link'))
    expect(placesIn(directory, await scan([join(directory, 'link')]))).toEqual(['link/x:1:1'])
  })

  test('pipes, sockets and devices are left out', async () => {
    const directory = tree({ a: token })
    spawnSync('mkfifo', [join(directory, 'pipe')])
    const server = createServer().listen(join(directory, 'socket'))
    try {
      const report = await scan([directory])
      expect(placesIn(directory, report)).toEqual(['a:1:1'])
      expect(report.skipped.special).toBe(2)
    } finally {
      server.close()
    }
  })

  test('what may not be read is told, the rest is scanned, and the scan has failed', async () => {
    const directory = tree({ 'closed/x': token, hidden: token, open: 'nothing' })
    chmodSync(join(directory, 'closed'), 0)
    chmodSync(join(directory, 'hidden'), 0)
    const report = await asNobody(() => scan([directory]))
    chmodSync(join(directory, 'closed'), 0o700)
    expect(report).toMatchObject({
      failed: true,
      found: 0,
      unread: 2,
      unreadable: [
        { path: `${directory}/closed`, reason: 'permission denied' },
        { path: `${directory}/hidden`, reason: 'permission denied' },
      ],
      scanned: { files: 1 },
    })
    expect(report.said).toContain(`${directory}/hidden: could not be read: permission denied`)
  })

  test('names that are not UTF-8, and names with line ends', async () => {
    const directory = tree({ 'a\nb': token })
    writeFileSync(Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0x66, 0xff, 0xfe])]), token)
    const report = await scan([directory])
    expect(report).toMatchObject({ found: 2, unread: 0 })
    expect(report.said).toContain(`${directory}/a b:1:1`)
  })

  test('a token in a name is found and not printed', async () => {
    const directory = tree({ [`keys/${token}.txt`]: 'nothing', [`${token}/x`]: token })
    const report = await scan([directory])
    const shown = `${token.slice(0, 24)}_…`
    expect(placesIn(directory, report)).toEqual([`keys/${shown}.txt:name`, `${shown}:name`, `${shown}/x:1:1`])
    expect(JSON.stringify(report)).not.toContain(token.slice(25))
  })

  test('a file of 5 GB, with a token past 4 GB, needs no more memory than a small one', async () => {
    const directory = tree({})
    const size = 5 * 2 ** 30
    const file = openSync(join(directory, 'large'), 'w')
    ftruncateSync(file, size)
    writeSync(file, `\n ${token}\n`, size - 2 ** 20 - 40)
    closeSync(file)
    await scan([tree({ a: token })])
    const before = process.resourceUsage().maxRSS
    const report = await scan([directory])
    const grownKilobytes = process.resourceUsage().maxRSS - before
    expect(placesIn(directory, report)).toEqual(['large:2:2'])
    expect(report.scanned.bytes).toBe(size)
    expect(grownKilobytes).toBeLessThan(64 * 1024)
  }, 600_000)

  test(`of more tokens than ${LISTED} all are counted and that many listed`, async () => {
    const report = await scan([tree({ dump: `${token}\n`.repeat(LISTED + 5) })])
    expect(report.found).toBe(LISTED + 5)
    expect(report.findings).toHaveLength(LISTED)
    expect(report.said).toContain(`Only the first ${LISTED} are listed.`)
  })
})

/** As a user who may not read everything. */
async function asNobody<T>(work: () => Promise<T>): Promise<T> {
  if (process.geteuid?.() !== 0) return work()
  process.seteuid?.(65_534)
  try {
    return await work()
  } finally {
    process.seteuid?.(0)
  }
}

describe('.keyturnignore', () => {
  const other = freshToken()
  const fingerprint = fingerprintOf(tokenSha256(token))
  const cases: [what: string, rules: string, left: string[]][] = [
    ['a name', 'x.env', ['lib/a.txt:1:1', 'lib/deep/b.txt:1:1', 'x:1:1']],
    ['a pattern', '*.txt', ['lib/x.env:1:1', 'x:1:1']],
    ['a directory', 'lib/', ['x:1:1']],
    ['from the root', '/x', ['lib/a.txt:1:1', 'lib/deep/b.txt:1:1', 'lib/x.env:1:1']],
    ['all but some', '*\n!x', ['x:1:1']],
    ['nothing, with remarks', '# lib/\n\n', ['lib/a.txt:1:1', 'lib/deep/b.txt:1:1', 'lib/x.env:1:1', 'x:1:1']],
    ['capitals count', 'LIB/\n*.TXT', ['lib/a.txt:1:1', 'lib/deep/b.txt:1:1', 'lib/x.env:1:1', 'x:1:1']],
    ['a fingerprint', `${fingerprint}\n`, ['x:1:1']],
    ['a fingerprint with a remark', `${fingerprint}  # the example of the documentation\r\n`, ['x:1:1']],
  ]
  const files = { 'lib/a.txt': token, 'lib/deep/b.txt': token, 'lib/x.env': token, x: other }

  test.each(cases)('%s', async (_, rules, left) => {
    const directory = tree({ ...files, '.keyturnignore': rules })
    expect(placesIn(directory, await scan([directory]))).toEqual(left)
    expect((await scan([directory], { ignoreFile: false })).found).toBe(4)
  })

  test('counts what it left out', async () => {
    const directory = tree({ ...files, '.keyturnignore': `${fingerprint}\n/x\n` })
    expect(await scan([directory])).toMatchObject({ failed: false, skipped: { accepted: 3, ignored: 1 } })
  })

  test('is found above what is scanned, up to the root of the repository, and its patterns are from there', async () => {
    const directory = tree({ ...files, '.keyturnignore': '/lib/deep/\nx.env\n' })
    const below = join(directory, 'lib')
    expect((await scan([below])).found).toBe(3)
    mkdirSync(join(directory, '.git'))
    expect(placesIn(directory, await scan([below]))).toEqual(['lib/a.txt:1:1'])
    expect((await scan([join(below, 'x.env')])).found).toBe(0)
  })

  test('another file can be named; its patterns are from what is scanned', async () => {
    const directory = tree({ ...files, '.keyturnignore': '*' })
    const elsewhere = tree({ rules: '/a.txt\ndeep\n' })
    expect(placesIn(directory, await scan([join(directory, 'lib')], { ignoreFile: join(elsewhere, 'rules') }))).toEqual([
      'lib/x.env:1:1',
    ])
  })

  test.each(['sha256:abc', `${fingerprint}0`, fingerprint.toUpperCase().replace('SHA', 'sha')])(
    'refuses the fingerprint %s',
    async (line) => {
      const directory = tree({ '.keyturnignore': `lib\n${line}\n` })
      await expect(scan([directory])).rejects.toThrow(`${directory}/.keyturnignore:2: not a fingerprint`)
    },
  )
})

describe('the command', () => {
  const clean = tree({ a: 'nothing' })
  const dirty = tree({ a: `\n  ${token}` })
  const [, environment, keyId] = token.split('_')

  test('0 when nothing is found', async () => {
    expect(await keyturn(['scan', clean])).toEqual({ code: 0, stdout: '', stderr: '0 tokens in 1 file, 0.0 MB\n' })
  })

  test('1 when something is found, with one line for it', async () => {
    expect(await keyturn(['scan'], { cwd: dirty })).toEqual({
      code: 1,
      stdout: `a:2:3 key ${keyId} (${environment}) ${fingerprintOf(tokenSha256(token))}\n`,
      stderr: '1 token in 1 file, 0.0 MB\n',
    })
  })

  test('--json is the report', async () => {
    const { code, stdout } = await keyturn(['scan', '--json', '.'], { cwd: dirty })
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ found: 1, findings: [{ path: 'a', line: 2, column: 3, keyId }], unread: 0 })
    expect(stdout).not.toContain(token.slice(25))
  })

  test('the brand is that of KEYTURN_BRAND, unless brands are given', async () => {
    const directory = tree({ a: freshToken('tm'), b: freshToken('acme') })
    const env = { KEYTURN_BRAND: 'tm' }
    expect((await keyturn(['scan', '.'], { cwd: directory, env })).stdout).toMatch(/^a:1:1 [^\n]*\n$/)
    const both = await keyturn(['scan', '--brand', 'kt', '--brand', 'acme'], { cwd: directory, env })
    expect(both.stdout).toMatch(/^b:1:1 [^\n]*\n$/)
  })

  test('the help says what is not found', async () => {
    const { code, stdout } = await keyturn(['scan', '--help'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/foreign format, imported from before Keyturn, are not looked for/)
  })

  test.each([
    ['a path where nothing is', ['no/such'], /no\/such can not be scanned\n {2}There is nothing there/],
    ['a device', ['/dev/null'], /neither a file nor a directory/],
    ['a brand that is none', ['--brand', 'X'], /A brand is 2 to 10/],
    ['a brand in the environment that is none', ['.'], /KEYTURN_BRAND is not usable/, { KEYTURN_BRAND: 'Acme!' }],
    ['an unknown option', ['--fast'], /unknown option '--fast'/],
    ['two things at a time', ['--staged', '--history'], /'--staged' cannot be used with option '--history'/],
    ['a directory without a repository', ['--history', clean], /There is no git repository to scan here/],
    ['two repositories', ['--history', clean, dirty], /One repository at a time/],
    ['a time that is none', ['--since', 'soon'], /"soon" is no time/],
    ['two documents on one stream', ['--json', '--sarif', '-'], /both want standard output/],
    ['an ignore file that is not there', ['--ignore-file', 'no/such', clean], /no\/such can not be read/],
    ['rules for nobody', ['rules'], /required option '--for <scanner>'/],
    ['rules for an unknown scanner', ['rules', '--for', 'trufflehog'], /Allowed choices are gitleaks, github/],
  ] as [string, string[], RegExp, Record<string, string>?][])('2 for %s', async (_, args, said, env = {}) => {
    const { code, stdout, stderr } = await keyturn(['scan', ...args], { cwd: temporary, env })
    expect(code).toBe(2)
    expect(stderr).toMatch(said)
    if (!args.includes('--json')) expect(stdout).toBe('')
  })

  test('nothing is scanned when a report can not be written', async () => {
    const { code, stdout, stderr } = await keyturn(['scan', dirty, '--sarif', join(temporary, 'no/such.sarif')])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain('no/such.sarif can not be written')
  })

  test('a path that is a token is not repeated', async () => {
    const { code, stderr } = await keyturn(['scan', token])
    expect(code).toBe(2)
    expect(stderr).not.toContain(token.slice(25))
  })
})
