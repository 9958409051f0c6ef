/** GitHub's public keys for secret scanning: read from a file, or fetched and kept. */
import { createPublicKey, type KeyObject } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import type { Log } from '../infra/log.ts'
import { ApiError } from './problems.ts'

export interface GithubKey {
  readonly key: KeyObject
  /** False for one that GitHub does not sign with any more. */
  readonly current: boolean
}

export interface GithubKeys {
  /**
   * The key of an identifier; undefined when there is none.
   * @throws ApiError `dependency-unavailable` when the list can not be read
   */
  find(identifier: string): Promise<GithubKey | undefined>
}

const FETCH_TIMEOUT_MS = 5_000
const MOST_BYTES = 1_000_000
/** So old a list is asked for again, so that a key which GitHub has given up is not taken for ever. */
const FRESH_MS = 60 * 60_000
/** An unknown identifier is a reason to ask again, but whoever makes identifiers up is not to make us ask all the time. */
const LEAST_PAUSE_MS = 60_000

const KeyList = Compile(
  Type.Object({
    public_keys: Type.Array(
      Type.Object({
        key_identifier: Type.String({ minLength: 1 }),
        key: Type.String(),
        is_current: Type.Optional(Type.Boolean()),
      }),
      { maxItems: 1_000 },
    ),
  }),
)

/** @param source a file, or an http(s) URL */
export function createGithubKeys(source: string, { log, clock = Date.now }: { log: Log; clock?: () => number }): GithubKeys {
  return /^https?:/.test(source) ? fetchedKeys(source, log, clock) : keysInFile(source, log)
}

/** A file is read when it has changed: an administrator replaces it without a restart. */
function keysInFile(path: string, log: Log): GithubKeys {
  let read: { readonly mtimeMs: number; readonly keys: ReadonlyMap<string, GithubKey> } | undefined
  return {
    async find(identifier) {
      try {
        const { mtimeMs } = await stat(path)
        if (read?.mtimeMs !== mtimeMs) read = { mtimeMs, keys: parseKeys(await readFile(path, 'utf8')) }
      } catch (error) {
        log.error({ err: error }, "the file with GitHub's public keys can not be used")
        throw unavailable(error)
      }
      return read.keys.get(identifier)
    },
  }
}

function fetchedKeys(url: string, log: Log, clock: () => number): GithubKeys {
  let keys: ReadonlyMap<string, GithubKey> | undefined
  let etag: string | undefined
  let askedAt = Number.NEGATIVE_INFINITY
  let freshAt = Number.NEGATIVE_INFINITY
  let asking: Promise<void> | undefined

  async function ask(): Promise<void> {
    askedAt = clock()
    const response = await fetch(url, {
      headers: { accept: 'application/json', ...(etag === undefined ? {} : { 'if-none-match': etag }) },
      redirect: 'error',
      signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    })
    if (response.status === 304) await response.body?.cancel()
    else if (!response.ok) throw new Error(`answered ${response.status}`)
    else {
      keys = parseKeys(await readAtMost(response, MOST_BYTES))
      etag = response.headers.get('etag') ?? undefined
    }
    freshAt = clock()
  }
  /** One question at a time, however many wait for it. */
  async function refresh(): Promise<void> {
    asking ??= ask().finally(() => {
      asking = undefined
    })
    try {
      await asking
    } catch (error) {
      log.warn({ err: error }, "GitHub's public keys could not be fetched")
      if (keys === undefined) throw unavailable(error)
    }
  }
  return {
    async find(identifier) {
      const stale = clock() - freshAt >= FRESH_MS
      const mayAsk = keys === undefined || clock() - askedAt >= LEAST_PAUSE_MS
      if (mayAsk && (stale || keys?.has(identifier) !== true)) await refresh()
      return keys?.get(identifier)
    },
  }
}

async function readAtMost(response: Response, most: number): Promise<string> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of response.body ?? []) {
    size += part.length
    if (size > most) throw new Error(`answered with more than ${most} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

/** @throws Error when it is not such a list; what is in it is not repeated */
function parseKeys(text: string): ReadonlyMap<string, GithubKey> {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    list = undefined
  }
  if (!KeyList.Check(list)) throw new Error('not a list of public keys: {public_keys: [{key_identifier, key, is_current}]}')
  return new Map(
    list.public_keys.map(({ key_identifier, key, is_current }) => [
      key_identifier,
      { key: publicKey(key), current: is_current ?? true },
    ]),
  )
}

/** PEM, as GitHub gives it, or the bare SPKI in base64. Nothing but ECDSA on P-256. */
function publicKey(text: string): KeyObject {
  const key = text.includes('-----BEGIN')
    ? createPublicKey(text)
    : createPublicKey({ key: Buffer.from(text, 'base64'), format: 'der', type: 'spki' })
  if (key.asymmetricKeyType !== 'ec' || key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    throw new Error('a public key in the list is not one of ECDSA on P-256')
  return key
}

const unavailable = (cause: unknown): ApiError =>
  new ApiError(
    'dependency-unavailable',
    "GitHub's list of public keys can not be read here. Nothing was recorded; send it again.",
    undefined,
    {
      cause,
    },
  )
