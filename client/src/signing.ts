/** Signs requests by RFC 9421, as docs/signing.md has it, for keys that are never sent. */
import { type Bytes, base64, base64Url, randomBytes, sha256, utf8 } from './bytes.ts'
import type { StoredKey } from './store.ts'

export interface ToSign {
  readonly method: string
  /** Whole, without a fragment. */
  readonly url: string
  readonly body: Bytes | undefined
  /** ms since the epoch. */
  readonly now: number
}

const NONCE_BYTES = 16

type Sign = (data: Bytes) => Promise<ArrayBuffer>

/** Importing a key takes longer than signing with it. */
const signers = new WeakMap<StoredKey, Promise<Sign>>()

async function signerOf(key: StoredKey): Promise<Sign> {
  if (key.kind === 'ed25519') {
    const imported = await crypto.subtle.importKey('jwk', { ...key.privateKey }, { name: 'Ed25519' }, false, ['sign'])
    return (data) => crypto.subtle.sign({ name: 'Ed25519' }, imported, data)
  }
  const imported = await crypto.subtle.importKey('raw', utf8(key.token), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  return (data) => crypto.subtle.sign('HMAC', imported, data)
}

/** The header fields that a request needs beside its own: a new nonce each time, for it counts once. */
export async function signatureFields(key: StoredKey, { method, url, body, now }: ToSign): Promise<Record<string, string>> {
  const signer = signers.get(key) ?? signerOf(key)
  signers.set(key, signer)
  const digest = body === undefined ? undefined : `sha-256=:${base64(await sha256(body))}:`
  const covered = `"@method" "@target-uri"${digest === undefined ? '' : ' "content-digest"'}`
  const nonce = base64Url(randomBytes(NONCE_BYTES))
  const params = `(${covered});created=${Math.floor(now / 1_000)};nonce="${nonce}";keyid="${key.keyId}"`
  const digestLine = digest === undefined ? '' : `"content-digest": ${digest}\n`
  const base = `"@method": ${method}\n"@target-uri": ${url}\n${digestLine}"@signature-params": ${params}`
  const signature = await (await signer)(utf8(base))
  return {
    ...(digest === undefined ? {} : { 'content-digest': digest }),
    'signature-input': `sig=${params}`,
    signature: `sig=:${base64(new Uint8Array(signature))}:`,
  }
}

/** What a request shows of a key. */
export const shownBy = async (key: StoredKey, toSign: ToSign): Promise<Record<string, string>> =>
  key.kind === 'bearer' ? { authorization: `Bearer ${key.token}` } : signatureFields(key, toSign)
