/** `keyturn leak …`, as a person runs it. */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { eventually, testToken } from '../support/house.ts'
import { fileWith, leakOf, type ReportAnswer } from '../support/reporting.ts'
import { type Office, openOffice } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })

let office: Office
const secrets: string[] = []
beforeAll(async () => {
  office = await openOffice({ gateways: 2 })
})
afterAll(async () => {
  for (const secret of secrets) for (const text of office.printed) expect(text).not.toContain(secret)
  await office.close()
})

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
async function credential(scopes?: string[]) {
  const made = await office.house.credential(scopes)
  secrets.push(made.token)
  return made
}
const foreign = (): string => {
  const token = testToken()
  secrets.push(token)
  return token
}
type Reported = { leaks: ReportAnswer[] }

describe('leak report', () => {
  test('takes tokens from standard input, one a line, and sends their hashes', async () => {
    const { token } = await credential()
    const other = foreign()
    const told = await office.runWith(
      `${token}\n\n  ${other}\r\n`,
      'leak',
      'report',
      '--source',
      'a person',
      '--url',
      'https://example.com/1',
    )
    expect(told).toMatchObject({ code: 0, stderr: '' })
    expect(told.stdout).toMatch(/^leak_\w{16} {2}live\nleak_\w{16} {2}unknown\n$/)
    const again = await office.runWith(token, 'leak', 'report')
    expect(again.stdout).toMatch(/^leak_\w{16} {2}live {2}\(reported before\)\n$/)
  })

  test('takes a file, and a hash', async () => {
    const { token } = await credential()
    const fromFile = await office.json<Reported>(['leak', 'report', fileWith(`${token}\n`)])
    const fromHash = await office.json<Reported>(['leak', 'report', '--sha256', sha256(token), '--at', '2026-01-01T00:00:00Z'])
    expect(fromFile.leaks).toMatchObject([{ matched: 'live', isNew: true }])
    expect(fromHash.leaks).toMatchObject([{ leakId: fromFile.leaks[0]?.leakId, isNew: false }])
  })

  test('G5: a token among the arguments is refused, wherever it stands, and not repeated', async () => {
    const token = foreign()
    const before = await office.house.db.query('select from leaks')
    for (const args of [[token], ['--sha256', token], ['--url', `https://example.com/?k=${token}`], ['--source', token]]) {
      const refused = await office.run('leak', 'report', ...args)
      expect([refused.code, refused.stdout]).toEqual([2, ''])
      expect(refused.stderr).toContain('does not belong among the arguments')
      expect(refused.stderr).not.toContain(token)
    }
    expect(await office.house.db.query('select from leaks')).toHaveLength(before.length)
  })

  test('G5: a token of another form, taken for a file, is not repeated either', async () => {
    const token = 'sk_live_51HqLyjWDarjtT1zdp7dc'
    const refused = await office.run('leak', 'report', token)
    expect([refused.code, refused.stdout]).toEqual([1, ''])
    expect(refused.stderr).toContain('The file can not be read (ENOENT)')
    expect(refused.stderr).not.toContain(token)
  })

  test.each([
    [['leak', 'report'], '', 'There is no token to report'],
    [['leak', 'report', '--sha256', 'abc'], '', '--sha256 takes a SHA-256'],
    [['leak', 'report', 'file', '--sha256', sha256('x')], '', 'not both'],
  ])('%j says what is wrong, with exit code 2', async (args, input, text) => {
    const refused = await office.runWith(input, ...args)
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain(text)
  })
})

describe('leak list and leak show', () => {
  test('show what became of a report', async () => {
    const { token, credentialId, keyId } = await credential(['trade:write'])
    const { leaks } = await office.json<Reported>([
      'leak',
      'report',
      fileWith(token),
      '--source',
      'a scanner',
      '--url',
      'https://example.com/2',
    ])
    const leakId = (leaks[0] as ReportAnswer).leakId
    await eventually(async () => (await leakOf(office.house, leakId)).status === 'closed', 'the end of the leak', 120_000)

    const list = await office.run('leak', 'list', '--credential', credentialId)
    expect(list.stdout).toMatch(
      new RegExp(
        `^leak +status +token +response +credential +reported +sightings\n${leakId} +closed +live +at-once +${credentialId} `,
      ),
    )
    expect((await office.run('leak', 'list', '--status', 'open', '--matched', 'dead')).stdout).toBe('no leaks\n')

    const shown = await office.run('leak', 'show', leakId)
    for (const text of [
      `${leakId}  closed`,
      'response    at-once',
      `key         ${keyId}  v1  compromised`,
      'refused by  gw-',
      'reported by a scanner at https://example.com/2',
      '0 requests served since the report',
    ])
      expect(shown.stdout).toContain(text)
    expect((await office.run('leak', 'show', leakId, '--markdown')).stdout).toContain(
      `# Leak ${leakId}\n\n|  |  |\n| --- | --- |\n| Status | closed |`,
    )
    expect(await office.json(['leak', 'show', leakId])).toMatchObject({
      leakId,
      status: 'closed',
      matched: 'live',
      refusals: [{}, {}],
    })
  })

  test('a leak that is not there is said to be so', async () => {
    const refused = await office.run('leak', 'show', 'leak_0000000000000000')
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('There is no such leak')
  })
})
