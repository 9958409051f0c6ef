import { PublicKeyError, parsePublicKey } from '../registry/public-keys.ts'
import { ApiError } from './problems.ts'

/**
 * @returns base64 with padding
 * @throws ApiError that says what is wrong, and nothing of what was sent
 */
export function readPublicKey(text: string): string {
  try {
    return parsePublicKey(text)
  } catch (error) {
    if (!(error instanceof PublicKeyError)) throw error
    throw new ApiError('invalid-request', `The public key can not be used: it ${error.message}.`, [
      { path: '/publicKey', message: error.message },
    ])
  }
}
