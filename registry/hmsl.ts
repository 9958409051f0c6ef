import { createHash, scrypt } from 'node:crypto'

/** Public, and the same for everyone: the hash has to come out equal on both sides. */
const SALT = createHash('sha256').update('GitGuardian').digest()
const BYTES = 32
const COST = { N: 2_048, r: 8, p: 1 }

/**
 * The hash by which GitGuardian names a secret it has found (`hmsl_hash`, of its service HasMySecretLeaked), in hex. Its webhook
 * brings nothing else that one could match by. Takes some milliseconds, on a thread of its own.
 */
export const hmslHash = (token: string): Promise<string> =>
  new Promise((resolve, reject) => {
    scrypt(token, SALT, BYTES, COST, (error, hash) => (error === null ? resolve(hash.toString('hex')) : reject(error)))
  })
