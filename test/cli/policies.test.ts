/** `keyturn policy …`, from the file to what people see. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomBase62 } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { listPolicies } from '../../registry/policies.ts'
import { emptyDirectory, type Office, openOffice } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })

let office: Office
const directory = emptyDirectory()
beforeAll(async () => {
  office = await openOffice({ gateways: 0, worker: false, collector: false })
})
afterAll(async () => {
  directory.remove()
  await office.close()
})

function fileOf(text: string): string {
  const path = join(directory.path, `${randomBase62(6)}.yaml`)
  writeFileSync(path, text)
  return path
}

const trading = (name: string, overlap: string): string => `policies:
  - name: ${name}
    select: { labels: { of: ${name} } }
    period: 30d
    overlap: ${overlap}
    quietPeriod: 24h
    onDeadline: hold
    blackout: [{ days: [sat, sun], timeZone: America/New_York }]
    waves: [{ size: 1 }, { size: 10% }, { size: 100% }]
`

const newName = (): string => `p${randomBase62(8).toLowerCase()}`
const names = async (): Promise<string[]> => (await listPolicies(office.house.db)).map(({ name }) => name)

test('apply shows what it would change, changes it, and says what differs the next time', async () => {
  const name = newName()
  const dry = await office.run('policy', 'apply', fileOf(trading(name, '3d')), '--dry-run')
  expect(dry).toMatchObject({ code: 0, stderr: '' })
  expect(dry.stdout).toContain(`+ ${name}  0 credentials\n`)
  expect(dry.stdout).toContain('    blackout: [{"days":["sat","sun"],"timeZone":"America/New_York"}]\n')
  expect(dry.stdout).toContain('Nothing was changed; it would be: 1 created, 0 changed, 0 removed, 0 unchanged')
  expect(await names()).not.toContain(name)

  const made = await office.run('policy', 'apply', fileOf(trading(name, '3d')))
  expect(made).toMatchObject({ code: 0, stderr: '' })
  expect(await names()).toContain(name)

  const changed = await office.run(
    'policy',
    'apply',
    fileOf(trading(name, '5d').replace('    onDeadline: hold\n', '')),
    '--dry-run',
  )
  expect(changed.stdout).toBe(
    `~ ${name}  0 credentials\n    overlap: 3d → 5d\n    onDeadline: hold → not given\n\n` +
      'Nothing was changed; it would be: 0 created, 1 changed, 0 removed, 0 unchanged\n',
  )
})

test('preview says what the next 30 days will do; list and remove', async () => {
  const name = newName()
  const file = fileOf(trading(name, '3d'))
  const ahead = await office.run('policy', 'preview', name, '--file', file)
  expect(ahead.stdout).toMatch(new RegExp(`^${name}  0 credentials, period 30d, each in turn within 24d`))
  await office.run('policy', 'apply', file)
  const shown = await office.json<{ previews: { days: object[]; waves: object[] }[] }>(['policy', 'preview', name])
  expect(shown.previews[0]?.days).toHaveLength(31)
  expect(shown.previews[0]?.waves).toHaveLength(3)
  expect((await office.run('policy', 'list')).stdout).toMatch(new RegExp(`${name} +0 +30d +3d +label\\.of=${name} `))
  expect((await office.run('policy', 'remove', name)).stdout).toBe(`${name} is removed; it had 0 credentials\n`)
  expect(await names()).not.toContain(name)
  expect(await office.run('policy', 'remove', name)).toMatchObject({ code: 1, stderr: expect.stringContaining(name) })
})

test('every flaw is said with its line, and nothing is changed', async () => {
  const name = newName()
  const file = fileOf(
    trading(name, '31d')
      .replace('onDeadline: hold', 'onDeadlin: hold')
      .replace('America/New_York', 'America/New_Yorc')
      .replace('24h', 'a day'),
  )
  const refused = await office.run('policy', 'apply', file)
  expect(refused.code).toBe(2)
  expect(refused.stdout).toBe('')
  expect(refused.stderr).toContain(`${file}:6: policy "${name}", quietPeriod: must be a duration: 14d, 36h or P14D`)
  expect(refused.stderr).toContain(`${file}:7: policy "${name}", onDeadlin: is not a field here`)
  const sense = fileOf(trading(name, '31d').replace('America/New_York', 'America/New_Yorc'))
  const { stderr } = await office.run('policy', 'apply', sense)
  expect(stderr).toContain(`${sense}:5: policy "${name}", overlap: must be shorter than the period of 30d`)
  expect(stderr).toContain(`${sense}:8: policy "${name}", blackout.0.timeZone: "America/New_Yorc" is not a time zone`)
  expect(await names()).not.toContain(name)
})

test('what is no file of policies is refused', async () => {
  const cases = [
    [fileOf('policies: ['), 'is not YAML that can be read'],
    [fileOf('- just a list'), 'policies: must be there, with a list of policies'],
    [fileOf('policies:\n  - name: all-of-them\n'), 'would select every credential there is'],
    [join(directory.path, 'none.yaml'), 'can not be read (ENOENT)'],
  ] as const
  const refused = await Promise.all(cases.map(([file]) => office.run('policy', 'apply', file)))
  for (const [i, [, says]] of cases.entries())
    expect(refused[i]).toMatchObject({ code: 2, stderr: expect.stringContaining(says) })
})
