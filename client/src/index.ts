/** Everything that runs in browsers and edge runtimes too. */
export { ClaimError } from './claim-error.ts'
export { type Client, type ClientOptions, createClient } from './client.ts'
export { checkDocument, readDocument, writeDocument } from './document.ts'
export type { ClientEvent } from './events.ts'
export type { Given } from './given.ts'
export {
  kindOf,
  type PendingClaim,
  type PrivateJwk,
  type RefusedClaim,
  type Store,
  StoreConflict,
  type Stored,
  type StoredCredential,
  type StoredFirstClaim,
  type StoredKey,
  type StoredValue,
  StoreError,
  type StoreErrorCode,
} from './store.ts'
export { memoryStore } from './stores/memory.ts'
export {
  type SeenIds,
  seenIds,
  WebhookError,
  type WebhookFlaw,
  type WebhookMessage,
  type WebhookOptions,
  type WebhookVerifier,
  webhookVerifier,
} from './webhooks.ts'
