/** Files that hold a key and nothing else. */
import { chmodSync, chownSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { writeFiles } from '../../../client/src/agent/files.ts'
import { agentPlace } from './support.ts'

const KEY = { keyId: 'a', kind: 'bearer', token: 'the-new-key' } as const
const asRoot = process.getuid?.() === 0

test.skipIf(!asRoot).each([
  ['of root, for a group', 0, 4_321],
  ['of another', 1_234, 4_321],
])('a file %s stays readable for who reads it (needs root, to give it)', async (_, uid, gid) => {
  const { keyFile } = agentPlace('http://127.0.0.1:9')
  writeFileSync(keyFile, 'the-old-key')
  chownSync(keyFile, uid, gid)
  chmodSync(keyFile, 0o600)
  expect(await writeFiles([{ path: keyFile, mode: 0o640 }], KEY)).toBe(1)
  expect(readFileSync(keyFile, 'utf8')).toBe('the-new-key')
  const { mode, ...after } = statSync(keyFile)
  expect(after).toMatchObject({ uid, gid })
  expect(mode & 0o777).toBe(0o640)
})

test.skipIf(!asRoot)('a file that is not there yet belongs to whom its folder belongs to (needs root, to give it)', async () => {
  const { directory, keyFile } = agentPlace('http://127.0.0.1:9')
  chownSync(directory, 1_234, 4_321)
  await writeFiles([{ path: keyFile, mode: 0o640 }], KEY)
  const { mode, ...made } = statSync(keyFile)
  expect(made).toMatchObject({ uid: 1_234, gid: 4_321 })
  expect(mode & 0o777).toBe(0o640)
})
