import { PublicKeyError, parsePublicKey } from '../registry/public-keys.ts'
import { type ReadRecipient, readRecipient } from '../registry/recipients.ts'
import { ApiError } from './problems.ts'

/**
 * @returns base64 with padding
 * @throws ApiError that says what is wrong, and nothing of what was sent
 */
export function readPublicKey(text: string): string {
  try {
    return parsePublicKey(text)
  } catch (error) {
    throw unusable(error, 'public key', '/publicKey')
  }
}

/**
 * The recipient that a body names, if it names one.
 * @throws ApiError that says what is wrong, and nothing of what was sent
 */
export async function readRecipientOf({
  recipient,
}: {
  readonly recipient?: Readonly<Record<string, unknown>>
}): Promise<ReadRecipient | undefined> {
  try {
    return recipient === undefined ? undefined : await readRecipient(recipient)
  } catch (error) {
    throw unusable(error, 'recipient', '/recipient')
  }
}

function unusable(error: unknown, what: string, path: string): unknown {
  if (!(error instanceof PublicKeyError)) return error
  return new ApiError('invalid-request', `The ${what} can not be used: it ${error.message}.`, [{ path, message: error.message }])
}
