/** The control plane's key-encryption keys, unwrapped at the start of a process. */
import { TransitError, withUnwrappedKeks as unwrapped } from '@keyturn/contract'
import { ConfigError } from './config.ts'

/**
 * The environment with KEYTURN_KEK in the open. As it was, where nothing is wrapped.
 * @throws ConfigError
 */
export async function withUnwrappedKeks(env: NodeJS.ProcessEnv): Promise<NodeJS.ProcessEnv> {
  try {
    return await unwrapped(env)
  } catch (error) {
    if (error instanceof TransitError) throw new ConfigError([error.message])
    throw error
  }
}
