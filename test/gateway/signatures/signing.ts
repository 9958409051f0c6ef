/** Keys that sign, and clients that do it: by the library that everybody else uses, and in plain header fields. */
import { createHash, createHmac, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { bodySha256, createSealingKey, type KeyRecord, signPlainly, verifierAad } from '@keyturn/contract'
import { httpbis } from 'http-message-signatures'
import { type IssuedKey, issueKey } from '../support.ts'

export const KEK = randomBytes(32)

export interface SigningPair extends IssuedKey {
  readonly kind: 'hmac-sha256' | 'ed25519'
  readonly privateKey?: KeyObject
}

/** The token signs, and gateways have it sealed. */
export function issueHmac(overrides: Partial<KeyRecord> = {}, kek = KEK): SigningPair {
  const { token, record } = issueKey(overrides)
  const { kekId, nonce, ciphertext } = createSealingKey(kek).seal(token, verifierAad(record.keyId, record.revision))
  const verifier = {
    kind: 'hmac-sha256' as const,
    kekId,
    nonce: nonce.toString('base64'),
    ciphertext: ciphertext.toString('base64'),
    revision: record.revision,
  }
  return { kind: 'hmac-sha256', token, record: { ...record, verifier } }
}

export function issueEd25519(overrides: Partial<KeyRecord> = {}): SigningPair {
  const { token, record } = issueKey(overrides)
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const { x = '' } = publicKey.export({ format: 'jwk' })
  const verifier = { kind: 'ed25519' as const, publicKey: Buffer.from(x, 'base64url').toString('base64') }
  return { kind: 'ed25519', token, privateKey, record: { ...record, verifier } }
}

export const signBytes = ({ kind, token, privateKey }: Pick<SigningPair, 'kind' | 'token' | 'privateKey'>, data: Uint8Array) =>
  kind === 'ed25519' && privateKey !== undefined
    ? sign(null, data, privateKey)
    : createHmac('sha256', token).update(data).digest()

export const digestOf = (body: Uint8Array, name: 'sha-256' | 'sha-512' = 'sha-256'): string =>
  `${name}=:${createHash(name.replace('-', '')).update(body).digest('base64')}:`

export interface ToSign {
  readonly method?: string
  /** Whole, with scheme and host. */
  readonly url: string | URL
  readonly body?: Uint8Array | undefined
  readonly headers?: Readonly<Record<string, string>>
  /** Seconds since the epoch. */
  readonly created?: number
  readonly nonce?: string
  readonly fields?: readonly string[]
  /** Of the signature, beside `keyid`, `created` and `nonce`. */
  readonly params?: Readonly<Record<string, string | Date>>
  readonly name?: string
}

let serial = 0
export const newNonce = (): string => {
  serial += 1
  return `nonce-${process.pid}-${serial}`
}

export const COVERED = ['@method', '@target-uri']

/** Header fields of a request signed by RFC 9421, in lower case. */
export async function signMessage(key: SigningPair, toSign: ToSign): Promise<Record<string, string>> {
  const { method = 'GET', url, body, headers = {}, created = Math.floor(Date.now() / 1_000), nonce = newNonce() } = toSign
  const { fields = body === undefined ? COVERED : [...COVERED, 'content-digest'], params = {}, name = 'sig' } = toSign
  const own = body === undefined || 'content-digest' in headers ? {} : { 'content-digest': digestOf(body) }
  const signed = await httpbis.signMessage(
    {
      key: { id: key.record.keyId, sign: async (data) => signBytes(key, data) },
      name,
      fields: [...fields],
      params: ['created', 'keyid', 'nonce', ...Object.keys(params)],
      paramValues: { created: new Date(created * 1_000), nonce, ...params },
    },
    { method, url: url.toString(), headers: { ...headers, ...own } },
  )
  return Object.fromEntries(Object.entries(signed.headers).map(([field, value]) => [field.toLowerCase(), String(value)]))
}

/** Header fields of a request signed in plain ones. */
export function signPlain(
  { token, record }: IssuedKey,
  { method = 'GET', url, body = new Uint8Array(), timestamp = Date.now(), nonce = newNonce(), sequence }: PlainToSign,
): Record<string, string> {
  const { pathname, search } = new URL(url)
  const signature = signPlainly(token, {
    timestamp: String(timestamp),
    nonce,
    method,
    path: pathname + search,
    bodySha256: bodySha256(body),
    sequence: sequence?.toString(),
  })
  return {
    'x-key-id': record.keyId,
    'x-timestamp': String(timestamp),
    'x-nonce': nonce,
    'x-signature': signature,
    ...(sequence === undefined ? {} : { 'x-sequence': String(sequence) }),
  }
}
export interface PlainToSign extends Pick<ToSign, 'method' | 'url' | 'body' | 'nonce'> {
  readonly timestamp?: number
  readonly sequence?: number
}
