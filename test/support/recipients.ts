/** Key pairs that a client makes for a claim. */
import { generateKeyPairSync, type JsonWebKey, type KeyObject } from 'node:crypto'
import { compactDecrypt } from 'jose'

export interface TestRecipient {
  readonly jwk: JsonWebKey
  readonly privateKey: KeyObject
}

export function newRecipient(namedCurve = 'P-256'): TestRecipient {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve })
  return { jwk: publicKey.export({ format: 'jwk' }), privateKey }
}

export async function decrypt(jwe: string, { privateKey }: TestRecipient): Promise<string> {
  const { plaintext } = await compactDecrypt(jwe, privateKey, {
    keyManagementAlgorithms: ['ECDH-ES'],
    contentEncryptionAlgorithms: ['A256GCM'],
  })
  return Buffer.from(plaintext).toString()
}
