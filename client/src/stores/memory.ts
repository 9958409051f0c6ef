/** A store that ends with its process: for tests, for pages, and for programs that get their key anew at each start. */
import { type Store, StoreConflict, type Stored } from '../store.ts'

export function memoryStore(): Store {
  let stored: Stored | undefined
  let version = 0
  const watchers = new Set<() => void>()
  return {
    async read() {
      return stored
    },
    async replace(value, after) {
      if (stored?.version !== after) throw new StoreConflict()
      version += 1
      stored = { value, version: String(version) }
      for (const watcher of watchers) watcher()
      return stored.version
    },
    watch(onChange) {
      watchers.add(onChange)
      return () => watchers.delete(onChange)
    },
  }
}
