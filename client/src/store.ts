/**
 * Where a program keeps its key. Many processes share one store; compare-and-set is all that they need to agree: whoever writes `pending`
 * claims, and the others pick up what comes of it.
 */

/** The private half of a key pair, as Web Crypto exports it. */
export interface PrivateJwk {
  readonly kty: string
  readonly crv: string
  readonly x: string
  /** Of EC keys alone. */
  readonly y?: string
  readonly d: string
}

export type StoredKey = {
  readonly keyId: string
  /** 2 for the first successor; absent where it is not known. */
  readonly version?: number
} & (
  | { readonly kind: 'bearer' | 'hmac-sha256'; readonly token: string }
  | { readonly kind: 'ed25519'; readonly privateKey: PrivateJwk }
)

/** A claim under way: made and stored BEFORE it is sent, so that whoever finds it can repeat it. */
export interface PendingClaim {
  /** ISO 8601. */
  readonly since: string
  /** Of the recipient of the answer (P-256); for an Ed25519 credential the new key itself. */
  readonly privateKey: PrivateJwk
  /** Of the key that asks: not `current` where that was withdrawn. Not written by older versions. */
  readonly keyId?: string
  /** The code of the claim that was handed over, where no key asks. */
  readonly claim?: string
}

/** What came of a claim that failed for good: kept, so that of many processes not each tries it anew. */
export interface RefusedClaim {
  /** The key that was to be replaced. */
  readonly keyId: string
  /** A problem code of the API. */
  readonly code: string
  /** ISO 8601. Nobody claims before. */
  readonly until: string
}

/** What a store keeps of one credential. */
export interface StoredCredential {
  readonly format: 1
  readonly credentialId?: string
  readonly current: StoredKey
  /** What `current` has replaced: kept until the next replacement, for a rotation may be rolled back after the new one has worked. */
  readonly previous?: StoredKey
  readonly pending?: PendingClaim
  readonly refused?: RefusedClaim
}

/** The claim of a first key, made and stored before it is sent: there is no key to go on with yet. */
export interface StoredFirstClaim {
  readonly format: 1
  readonly credentialId?: string
  readonly current?: undefined
  readonly kind: StoredKey['kind']
  readonly pending: PendingClaim & { readonly claim: string }
  /** A problem code: this claim is refused for good, and is not asked for again. */
  readonly refused?: string
}

export type StoredValue = StoredCredential | StoredFirstClaim

/** Of the key in use, or of the one that is being claimed. */
export const kindOf = (value: StoredValue): StoredKey['kind'] => (value.current === undefined ? value.kind : value.current.kind)

export interface Stored<Value extends StoredValue = StoredValue> {
  readonly value: Value
  /** Of the store: its own number, hash or tag. */
  readonly version: string
}

export interface Store {
  /**
   * undefined: nothing there yet.
   * @throws StoreError
   */
  read(signal?: AbortSignal): Promise<Stored | undefined>
  /**
   * Compare and set: replaces what has the version `after` (undefined: nothing there yet).
   * @returns the new version
   * @throws StoreConflict when somebody else was first
   * @throws StoreError
   */
  replace(next: StoredValue, after: string | undefined, signal?: AbortSignal): Promise<string>
  /** Calls back when another process may have changed it, until what it returns is called. Stores without it are asked now and then. */
  watch?(onChange: () => void): () => void
}

/** Somebody else has replaced it in between: read it again. */
export class StoreConflict extends Error {
  override readonly name = 'StoreConflict'

  constructor() {
    super('somebody else has written to the store')
  }
}

/**
 * - `unreadable`: what is there is not what a client writes
 * - `newer-format`: a newer version of the client wrote it
 * - `wrong-credential`: it holds the key of another credential
 * - `not-allowed`: no permission
 * - `no-space`: a disk or a quota is full
 * - `unreachable`: the server of the store does not answer; trying again may help
 * - `failed`: anything else
 */
export type StoreErrorCode =
  | 'unreadable'
  | 'newer-format'
  | 'wrong-credential'
  | 'not-allowed'
  | 'no-space'
  | 'unreachable'
  | 'failed'

/** Says what is wrong and what to do; never what the store holds. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly code: StoreErrorCode

  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
