/** The keys that this process knows, by the SHA-256 of the token. The highest revision of a key wins (G4). */
import type { ClientId, CredentialId, Environment, KeyId, KeyRecord, KeyState, Verifier } from '@keyturn/contract'
import { ENVIRONMENTS, KEY_STATES, shownSha256 } from '@keyturn/contract'
import { Restriction } from './restriction.ts'

/** Seconds since 2020 fit into a small integer until 2088, which V8 keeps in place; a larger number would be 16 bytes elsewhere. */
const EPOCH_MS = Date.UTC(2020, 0, 1)

/** What most keys do not have: one word in the entry while it is absent. */
interface Rare {
  readonly sunsetAt: number | undefined
  readonly successor: number | undefined
  readonly deprecatedAt: number | undefined
  readonly restriction: Restriction | undefined
  readonly signing: SigningVerifier | undefined
}

/** What checks signatures. */
export type SigningVerifier = Exclude<Verifier, { kind: 'bearer' }>

const time = (timestamp: string | undefined): number | undefined => (timestamp === undefined ? undefined : Date.parse(timestamp))

function rareOf({ sunsetAt, successor, deprecatedAt, allow, verifier }: KeyRecord): Rare | undefined {
  const signing = verifier.kind === 'bearer' ? undefined : verifier
  if ([sunsetAt, successor, deprecatedAt, allow, signing].every((value) => value === undefined)) return undefined
  return {
    sunsetAt: time(sunsetAt),
    successor,
    deprecatedAt: time(deprecatedAt),
    restriction: allow === undefined ? undefined : new Restriction(allow),
    signing,
  }
}

/**
 * One key, as compact as it can be: a million of them are in memory. Never changed, only replaced. Times in ms since the epoch.
 * What every verification reads comes first, so that it is in one line of the processor's cache.
 */
export class KeyEntry {
  readonly environment: Environment
  readonly state: KeyState
  readonly #fromSeconds: number
  readonly #fromMs: number
  /** Nothing means never. */
  readonly expiresAt: number | undefined
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  /** Of the token, where the token is shown. */
  readonly sha256: string | undefined
  readonly scopes: readonly string[]
  readonly version: number
  readonly revision: number
  readonly #rare: Rare | undefined

  constructor(record: KeyRecord, shared: Strings, before: KeyEntry | undefined) {
    const from = Date.parse(record.notBefore) - EPOCH_MS
    this.environment = ENVIRONMENTS.find((e) => e === record.environment) ?? record.environment
    this.state = KEY_STATES.find((s) => s === record.state) ?? record.state
    this.#fromSeconds = Math.floor(from / 1_000)
    this.#fromMs = from - this.#fromSeconds * 1_000
    this.expiresAt = time(record.expiresAt)
    this.keyId = before?.keyId ?? record.keyId
    this.credentialId = before?.credentialId === record.credentialId ? before.credentialId : record.credentialId
    this.clientId = shared.string(record.clientId) as ClientId
    const sha256 = shownSha256(record.verifier)
    this.sha256 = before?.sha256 === sha256 ? before?.sha256 : sha256
    this.scopes = shared.list(record.scopes)
    this.version = record.version
    this.revision = record.revision
    this.#rare = rareOf(record)
  }

  get sunsetAt(): number | undefined {
    return this.#rare?.sunsetAt
  }

  get successor(): number | undefined {
    return this.#rare?.successor
  }

  get deprecatedAt(): number | undefined {
    return this.#rare?.deprecatedAt
  }

  /** From where and how it may be used. Nothing: from anywhere, anyhow. */
  get restriction(): Restriction | undefined {
    return this.#rare?.restriction
  }

  /** Nothing: its token is shown. */
  get signing(): SigningVerifier | undefined {
    return this.#rare?.signing
  }

  get notBefore(): number {
    return this.#fromSeconds * 1_000 + this.#fromMs + EPOCH_MS
  }

  /** Nothing: the key itself was shown, and no session token. */
  get sessionEndsAt(): number | undefined {
    return undefined
  }
}

/** They read private fields, which are the key's alone. */
const GETTERS = Object.entries(Object.getOwnPropertyDescriptors(KeyEntry.prototype)).flatMap(([name, { get }]) =>
  get === undefined ? [] : [name as keyof KeyEntry],
)

/** The key as it is, but for its scopes, as a session has it for so long. */
export function narrowed(key: KeyEntry, scopes: readonly string[], sessionEndsAt: number): KeyEntry {
  const values = Object.fromEntries(GETTERS.map((name) => [name, { value: key[name] }]))
  return Object.create(key, { ...values, scopes: { value: scopes }, sessionEndsAt: { value: sessionEndsAt } }) as KeyEntry
}

/** Equal strings and lists once in memory. Forgets all when full: sharing less is better than a table that grows for ever. */
class Strings {
  readonly #strings = new Map<string, string>()
  readonly #lists = new Map<string, readonly string[]>()
  static readonly #most = 20_000

  string(value: string): string {
    const known = this.#strings.get(value)
    if (known !== undefined) return known
    if (this.#strings.size >= Strings.#most) this.#strings.clear()
    this.#strings.set(value, value)
    return value
  }

  list(values: readonly string[]): readonly string[] {
    const name = values.join(' ')
    const known = this.#lists.get(name)
    if (known !== undefined) return known
    if (this.#lists.size >= Strings.#most) this.#lists.clear()
    const list = Object.freeze(values.map((value) => this.string(value)))
    this.#lists.set(name, list)
    return list
  }
}

/**
 * What became of a record:
 * - `applied`: it is what the cache holds now
 * - `same-revision`, `older-revision`: the cache knew that or better
 * - `destroyed-key`: the key has been destroyed, whatever this event says
 * - `verifier-taken`: another key has the same token. The registry forbids it; the first one stays
 */
export type Applied = 'applied' | 'same-revision' | 'older-revision' | 'destroyed-key' | 'verifier-taken'

export class KeyCache {
  readonly #byHash = new Map<string, KeyEntry>()
  readonly #byId = new Map<KeyId, KeyEntry>()
  readonly #states = new Map<KeyState, number>(KEY_STATES.map((state) => [state, 0]))
  readonly #shared = new Strings()
  /**
   * Ids of destroyed keys, and nothing else of them: destroyed is final, so no revision has to be kept to know that an older
   * event, replayed by someone, must not revive one. After a restart it is the log that knows: compaction removes a key's
   * older events before it removes the tombstone that follows them.
   */
  readonly #destroyed = new Set<KeyId>()
  /** Who wants to hear of a key: those that hold a connection open for it. */
  readonly #watchers = new Map<KeyId, Set<() => void>>()
  /** During a reload: keys that the log has not named yet. */
  #unseen: Set<KeyId> | undefined

  /** The key of a token, by the token's SHA-256 in base64 with padding. */
  find(sha256: string): KeyEntry | undefined {
    return this.#byHash.get(sha256)
  }

  get(keyId: KeyId): KeyEntry | undefined {
    return this.#byId.get(keyId)
  }

  get size(): number {
    return this.#byId.size
  }

  entries(): IterableIterator<KeyEntry> {
    return this.#byId.values()
  }

  /** Calls `changed` after each change of the key, also when it goes. @returns how to end that */
  watch(keyId: KeyId, changed: () => void): () => void {
    const watchers = this.#watchers.get(keyId) ?? new Set()
    this.#watchers.set(keyId, watchers.add(changed))
    return () => {
      watchers.delete(changed)
      if (watchers.size === 0 && this.#watchers.get(keyId) === watchers) this.#watchers.delete(keyId)
    }
  }

  countsByState(): ReadonlyMap<KeyState, number> {
    return this.#states
  }

  apply(record: KeyRecord): Applied {
    this.#unseen?.delete(record.keyId)
    if (this.#destroyed.has(record.keyId)) return 'destroyed-key'
    const before = this.#byId.get(record.keyId)
    if (before !== undefined && record.revision <= before.revision) {
      return record.revision === before.revision ? 'same-revision' : 'older-revision'
    }
    if (record.state === 'destroyed') {
      this.destroy(record.keyId)
      return 'applied'
    }
    const sha256 = shownSha256(record.verifier)
    const holder = sha256 === undefined ? undefined : this.#byHash.get(sha256)
    if (holder !== undefined && holder.keyId !== record.keyId) return 'verifier-taken'
    const entry = new KeyEntry(record, this.#shared, before)
    if (before !== undefined) this.#remove(before)
    this.#byId.set(entry.keyId, entry)
    if (entry.sha256 !== undefined) this.#byHash.set(entry.sha256, entry)
    this.#count(entry.state, 1)
    this.#tell(entry.keyId)
    return 'applied'
  }

  /** Forgets a key for good: a tombstone. False when that had been done before. */
  destroy(keyId: KeyId): boolean {
    this.#unseen?.delete(keyId)
    if (this.#destroyed.has(keyId)) return false
    this.#destroyed.add(keyId)
    const entry = this.#byId.get(keyId)
    if (entry !== undefined) this.#remove(entry)
    this.#tell(keyId)
    return true
  }

  /** From here on the log is read again from its start. The cache goes on serving what it knows. */
  beginReload(): void {
    this.#unseen = new Set(this.#byId.keys())
  }

  /**
   * The log has been read to its end: keys that it did not name are gone (their tombstones may have been compacted away
   * while nobody listened). Returns how many. When the log named no key at all, it is the log that was lost, and the
   * keys stay. They are not taken for destroyed: a republished one is welcome.
   */
  endReload(): number {
    const gone = this.#unseen
    this.#unseen = undefined
    if (gone === undefined || gone.size === this.#byId.size) return 0
    for (const keyId of gone) {
      const entry = this.#byId.get(keyId)
      if (entry !== undefined) this.#remove(entry)
      this.#tell(keyId)
    }
    return gone.size
  }

  #tell(keyId: KeyId): void {
    for (const changed of [...(this.#watchers.get(keyId) ?? [])]) changed()
  }

  #remove(entry: KeyEntry): void {
    this.#byId.delete(entry.keyId)
    if (entry.sha256 !== undefined) this.#byHash.delete(entry.sha256)
    this.#count(entry.state, -1)
  }

  #count(state: KeyState, by: number): void {
    this.#states.set(state, (this.#states.get(state) ?? 0) + by)
  }
}
