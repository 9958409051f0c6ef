/** Files that hold a key and nothing else, for programs that read theirs from one. */
import type { StoredKey } from '../store.ts'
import { diskError, readText, replaceFile, target } from '../stores/disk.ts'
import { withLock } from '../stores/lock.ts'
import type { AgentConfig } from './config.ts'

/** A token; or of Ed25519 the private key as a JWK, with the id that its signatures name. */
const textOf = (key: StoredKey): string =>
  key.kind === 'ed25519' ? JSON.stringify({ ...key.privateKey, kid: key.keyId }) : key.token

/**
 * Replaces each that holds something else, as a whole; its owner and group stay. One that is not there, as in `/run` after a boot, gets those of its folder.
 * @returns how many held something else
 * @throws StoreError
 */
export async function writeFiles(files: AgentConfig['files'], key: StoredKey): Promise<number> {
  const wanted = textOf(key)
  let written = 0
  for (const { path, mode } of files) {
    try {
      const file = await target(path)
      if ((await readText(file)) === wanted) continue
      await withLock(file, () => replaceFile(file, wanted, mode, { ofFolder: true }))
      written += 1
    } catch (error) {
      throw diskError(path, error)
    }
  }
  return written
}
