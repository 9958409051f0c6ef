/** Everything that runs in browsers and edge runtimes too. */
export { checkDocument, readDocument, writeDocument } from './document.ts'
export {
  type PendingClaim,
  type PrivateJwk,
  type Store,
  StoreConflict,
  type Stored,
  type StoredCredential,
  type StoredKey,
  StoreError,
  type StoreErrorCode,
} from './store.ts'
export { memoryStore } from './stores/memory.ts'
