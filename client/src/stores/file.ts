/** A file that all processes of a machine share, or of several on one volume: 0600, replaced as a whole. */
import { createHash } from 'node:crypto'
import { watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import { readDocument, writeDocument } from '../document.ts'
import { type Store, StoreConflict, type Stored } from '../store.ts'
import { diskError, readText, replaceFile, target } from './disk.ts'
import { withLock } from './lock.ts'

const versionOf = (text: string): string => createHash('sha256').update(text).digest('base64url')

export function fileStore(path: string): Store {
  const read = async (signal?: AbortSignal): Promise<Stored | undefined> => {
    const text = await readText(path, signal)
    return text === undefined ? undefined : { value: readDocument(text, path), version: versionOf(text) }
  }
  const say = (error: unknown): never => {
    throw diskError(path, error)
  }
  return {
    read: (signal) => read(signal).catch(say),
    async replace(next, after, signal) {
      // Before it waits for the lock, and again when it has it.
      if ((await read(signal).catch(say))?.version !== after) throw new StoreConflict()
      const file = await target(path)
      const text = `${writeDocument(next)}\n`
      const replace = async (): Promise<string> => {
        if ((await read(signal))?.version !== after) throw new StoreConflict()
        await replaceFile(file, text)
        return versionOf(text)
      }
      return withLock(file, replace, signal).catch(say)
    },
    watch: (onChange) => watchFile(path, onChange),
  }
}

/** Told of each replacement; never keeps the process alive. Where the system can watch nothing more, nobody is told. */
export function watchFile(path: string, onChange: () => void): () => void {
  try {
    // Of the folder: a watch of the file would go with the one that is replaced.
    const watcher = watch(dirname(path), { persistent: false }, (_, name) => {
      if (name === basename(path)) onChange()
    })
    watcher.on('error', () => watcher.close())
    return () => watcher.close()
  } catch {
    return () => undefined
  }
}
