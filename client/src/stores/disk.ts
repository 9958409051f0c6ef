/** Files that are there as a whole or not at all, whatever happens; and what the disk says against it, in words. */
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { access, open, readdir, readFile, realpath, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { StoreError, type StoreErrorCode } from '../store.ts'

const CODES: Readonly<Record<string, StoreErrorCode>> = {
  EACCES: 'not-allowed',
  EPERM: 'not-allowed',
  EROFS: 'not-allowed',
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EIO: 'unreachable',
  ESTALE: 'unreachable',
}

const ADVICE: Readonly<Record<string, string>> = {
  EACCES: 'no permission. The process must be able to read the file, and to write into its folder',
  EPERM: 'not permitted. The process must be able to read the file, and to write into its folder',
  EROFS: 'the disk is mounted read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota is used up',
  ENOENT: 'the folder is not there. Make it',
  ENOTDIR: 'a part of the path is no folder',
  EISDIR: 'it is a folder, not a file',
}

/** What the disk says, about a path. Errors of ours go through as they are. */
export function diskError(path: string, error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  if (error instanceof StoreError || typeof code !== 'string' || !/^E[A-Z]+$/.test(code)) return error
  return new StoreError(CODES[code] ?? 'failed', `${path}: ${ADVICE[code] ?? code}.`, { cause: error })
}

export async function readText(path: string, signal?: AbortSignal): Promise<string | undefined> {
  try {
    return await readFile(path, { encoding: 'utf8', ...(signal === undefined ? {} : { signal }) })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Where a link leads, so that what it points to is replaced, and not the link. */
export const target = (path: string): Promise<string> => realpath(path).catch(() => path)

const temporary = (name: string): string => `.${name}.new-`

/**
 * Writes beside it, to the disk, then renames. Whoever calls holds the lock of `path`, so what a killed process has left beside it is removed.
 * @param mode permissions, whatever they were before
 */
export async function replaceFile(path: string, text: string, mode = 0o600): Promise<void> {
  const [directory, name] = [dirname(path), basename(path)]
  // A rename would go around the permissions of a file that is not to be written to.
  await access(path, constants.W_OK).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  for (const left of await readdir(directory)) {
    if (left.startsWith(temporary(name))) await unlink(join(directory, left)).catch(() => undefined)
  }
  const fresh = join(directory, temporary(name) + randomBytes(8).toString('hex'))
  try {
    const file = await open(fresh, 'wx', mode)
    try {
      await file.chmod(mode)
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(fresh, path)
  } catch (error) {
    await unlink(fresh).catch(() => undefined)
    throw error
  }
  // The rename itself is on the disk when the folder is. Some file systems have no such thing.
  const folder = await open(directory, 'r')
  try {
    await folder.sync().catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EINVAL' && error.code !== 'ENOTSUP') throw error
    })
  } finally {
    await folder.close()
  }
}
