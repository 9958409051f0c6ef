/** Files that are there as a whole or not at all, whatever happens; and what the disk says against it, in words. */
import { randomBytes } from 'node:crypto'
import { constants, type Stats } from 'node:fs'
import { access, type FileHandle, open, readdir, readFile, realpath, rename, stat, unlink } from 'node:fs/promises'
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

const nothingThere = (error: NodeJS.ErrnoException): undefined => {
  if (error.code !== 'ENOENT') throw error
}

/**
 * Gives a file the owner and the group of the one that it is to replace. Only root can give the owner; others can give a group that they are in.
 * @throws StoreError not-allowed, when somebody could not read it any more then
 */
async function keepOwner(file: FileHandle, path: string, { uid, gid }: Stats, mode: number): Promise<void> {
  const own = await file.stat()
  if (own.uid === uid && own.gid === gid) return
  const give = (owner: number): Promise<boolean> =>
    file.chown(owner, gid).then(
      () => true,
      () => false,
    )
  if (await give(uid)) return
  const groupReads = (mode & 0o040) !== 0
  const groupStays = own.gid === gid || (await give(own.uid))
  // Root reads it anyway; another owner may be in the group that reads it.
  const isRead = groupReads ? groupStays : own.uid === uid || uid === 0
  if (isRead) return
  const what = groupReads ? 'group' : 'owner'
  const advice = 'Run as root, or let the file belong to who writes it, and to a group that both are in'
  throw new StoreError('not-allowed', `${path}: a new file could not keep its ${what}, who reads it. ${advice}.`)
}

/**
 * Writes beside it, to the disk, then renames; owner and group stay. Whoever calls holds the lock of `path`, so what a killed process has left beside
 * it is removed.
 * @param mode permissions, whatever they were before
 * @param ofFolder where root makes a file that is not there yet, it belongs to whom its folder belongs to
 */
export async function replaceFile(path: string, text: string, mode = 0o600, { ofFolder = false } = {}): Promise<void> {
  const [directory, name] = [dirname(path), basename(path)]
  const before = await stat(path).catch(nothingThere)
  // A rename would go around the permissions of a file that is not to be written to.
  await access(path, constants.W_OK).catch(nothingThere)
  for (const left of await readdir(directory)) {
    if (left.startsWith(temporary(name))) await unlink(join(directory, left)).catch(() => undefined)
  }
  const fresh = join(directory, temporary(name) + randomBytes(8).toString('hex'))
  try {
    // Nobody else may open it before it is whose it is to be.
    const file = await open(fresh, 'wx', 0o600)
    try {
      if (before !== undefined) await keepOwner(file, path, before, mode)
      else if (ofFolder && process.getuid?.() === 0) {
        const { uid, gid } = await stat(directory)
        // Not every root may.
        await file.chown(uid, gid).catch(() => undefined)
      }
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
